"""A device seen from within: arrays that lie there are not transferred."""

import numpy as np

from tq_kernels_gpu.device import Array, Device, Module
from tq_kernels_gpu.tables import kept


class Resident:
    """The same device, with `asarray` and `to_host` that leave its arrays where they are.

    A backend of it has the operations of the device's own backend without their transfers. It equals the device, so
    that both share the tables that are kept for it.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self.xp, self.label = device.xp, device.label
        self.shared_limit, self.processors = device.shared_limit, device.processors
        kept(device)  # by the device, which lives as long as anything of it

    @property
    def capturing(self) -> bool:
        """As device.Device."""
        return self._device.capturing

    def wait(self) -> None:
        """As device.Device."""
        self._device.wait()

    def module(self, name: str) -> Module:
        """As device.Device."""
        return self._device.module(name)

    def asarray(self, array: Array) -> Array:
        """An array of the device as it is, one of the host uploaded."""
        return self._device.asarray(array) if isinstance(array, np.ndarray) else array

    def to_host(self, array: Array) -> Array:
        """The array itself."""
        return array

    def adopt(self, array: object, name: str, *, bits: bool = False) -> Array:
        """As device.Device."""
        return self._device.adopt(array, name, bits=bits)

    def __eq__(self, other: object) -> bool:
        return other is self._device or (isinstance(other, Resident) and other._device is self._device)

    def __hash__(self) -> int:
        return hash(self._device)
