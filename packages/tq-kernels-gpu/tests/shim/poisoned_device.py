"""The device of the tests with new arrays full of NaN or -1: what is read before it is written shows."""

import numpy as np
from shim_device import ShimDevice


class Poisoned:
    """numpy, but for what `empty` holds."""

    def __getattr__(self, name):
        return getattr(np, name)

    @staticmethod
    def empty(shape, dtype):
        """As numpy.empty, every byte 255."""
        array = np.empty(shape, dtype)
        array.reshape(-1).view(np.uint8)[...] = 255
        return array


class PoisonedDevice(ShimDevice):
    """A ShimDevice with such an array module."""

    xp = Poisoned()
