"""Where a cache lives: on the host, or on the device of its backend.

What makes an array asks its place for one, `place.xp.empty(...)`; what takes arrays calls numpy's functions, which
follow them: arrays of devices answer these themselves.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tq_core import registry
from tq_core.device import Device, is_on_device


class Host:
    """The host as a place: numpy's arrays, which come and go as they are."""

    xp: Any = np

    def asarray(self, host: NDArray[Any]) -> NDArray[Any]:
        """The array itself."""
        return host

    def to_host(self, array: NDArray[Any]) -> NDArray[Any]:
        """The array itself."""
        return array

    def adopt(self, array: object, name: str) -> NDArray[Any]:
        """The array itself; what comes from a caller is looked at by tq_core.checks."""
        return np.asarray(array)


HOST: Final = Host()


def place_of(backend: str) -> Device:
    """Where a cache of that backend lives. Raises what tq_core raises for a backend that cannot run.

    `auto` is the host: a cache is made before any data comes that it could follow.
    """
    if registry.follows_data(backend):
        return HOST
    return registry.device_of(registry.resolve(backend)) or HOST


def uploaded(place: Device, array: Any) -> Any:
    """An array of the host or of the place, there: for what is small or comes once, such as masks and limits."""
    return array if place is HOST or is_on_device(array) else place.asarray(array)


def largest(array: Any) -> float:
    """The largest magnitude, 0 of none."""
    return float(abs(array).max()) if array.size else 0.0


def contiguous(array: Any) -> Any:
    """The array, or a C-contiguous copy of it."""
    return array if array.flags.c_contiguous else array.copy()
