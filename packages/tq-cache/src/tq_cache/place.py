"""Where a cache lives: on the host, or on the device of its backend.

What makes an array asks its place for one, `place.xp.empty(...)`; what takes arrays calls numpy's functions, which
follow them: arrays of devices answer these themselves.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from tq_core import registry
from tq_core.device import Device, is_on_device, typed_memory
from tq_core.flags import is_set, look_once

P = ParamSpec("P")
T = TypeVar("T")


class Host:
    """The host as a place: numpy's arrays, which come and go as they are."""

    xp: Any = np

    def asarray(self, host: NDArray[Any]) -> NDArray[Any]:
        """The array itself."""
        return host

    def to_host(self, array: NDArray[Any]) -> NDArray[Any]:
        """The array itself."""
        return array

    def adopt(self, array: object, name: str, *, bits: bool = False) -> NDArray[Any]:
        """The array itself, of whose bits numpy knows; what comes from a caller is looked at by tq_core.checks."""
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


def exceeds(array: Any, limit: float) -> bool:
    """Whether any magnitude is beyond the limit."""
    if isinstance(array, np.ndarray):
        return not largest(array) <= limit
    return bool(array.size) and is_set(~(abs(array).max().astype(np.float64) <= limit))


def waits_once(method: Callable[Concatenate[Any, P], T]) -> Callable[Concatenate[Any, P], T]:
    """The method of a cache, which it does not change, with all checks of a device's arrays looked at together.

    A full device is OutOfDeviceMemory.
    """

    @typed_memory
    def on_device(cache: Any, /, *args: P.args, **options: P.kwargs) -> T:
        return look_once(lambda: method(cache, *args, **options))

    @wraps(method)
    def call(cache: Any, /, *args: P.args, **options: P.kwargs) -> T:
        if cache._place is HOST:
            return method(cache, *args, **options)
        return on_device(cache, *args, **options)

    return call


def contiguous(array: Any) -> Any:
    """The array, or a C-contiguous copy of it."""
    return array if array.flags.c_contiguous else array.copy()
