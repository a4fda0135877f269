"""Arrays on a device: how they are told from arrays of the host, and what is asked of the device they lie on.

Nothing is imported that could make such an array: what a backend says of its device is all that is known here.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any, Final, ParamSpec, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from tq_core.errors import OutOfDeviceMemory, TurboQuantError, WrongDevice

Array = Any  # of the array module of its device

P = ParamSpec("P")
T = TypeVar("T")

HOST_MEMORY: Final = (1, 3)  # kDLCPU, kDLCUDAHost (pinned) of dlpack.h: what numpy can read


class Device(Protocol):
    """Where arrays of a backend lie: their module, and the ways in and out.

    `xp` is an array module that follows numpy's names, and whose arrays answer numpy's functions
    (`__array_ufunc__`, `__array_function__`) with arrays of their own, as cupy's do.
    """

    xp: Any

    def asarray(self, host: NDArray[Any]) -> Array:
        """A C-contiguous copy of the array on the device."""

    def to_host(self, array: Array) -> NDArray[Any]:
        """The array's values, once all that was launched before has run."""

    def adopt(self, array: object, name: str, *, bits: bool = False) -> Array:
        """A caller's array (DLPack, `__cuda_array_interface__`) as one of `xp`, without a copy where one can be.

        bfloat16 is widened to float32, or with `bits` comes as its bits, uint16. WrongDevice for an array that lies
        elsewhere, InvalidDtype for a dtype that cannot be read.
        """


def is_on_device(x: Any) -> bool:
    """Whether x is an array that numpy cannot read where it lies."""
    if isinstance(x, np.ndarray):
        return False
    if hasattr(type(x), "__dlpack_device__"):
        try:
            return bool(x.__dlpack_device__()[0] not in HOST_MEMORY)
        except (BufferError, RuntimeError, TypeError, ValueError):  # such as torch's device `meta`, without memory
            return True
    return hasattr(type(x), "__cuda_array_interface__")


def is_bfloat16(x: object) -> bool:
    """Whether x is an array of bfloat16, of torch or of those that know it by ml_dtypes."""
    return str(getattr(x, "dtype", "")) in ("bfloat16", "torch.bfloat16")


def widened(bits: Array) -> Array:
    """The float32 numbers of bfloat16 bits, uint16."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def require_together(**arrays: object) -> None:
    """WrongDevice unless all arrays lie on the host, or all on a device: nothing is transferred unasked."""
    lie = {name: is_on_device(array) for name, array in arrays.items()}
    if len(set(lie.values())) > 1:
        where = ", ".join(f"{name} on {'a device' if on_device else 'the host'}" for name, on_device in lie.items())
        raise WrongDevice(f"arrays lie apart: {where}; move one of them, Encoded by to_host() or to_device()")


def typed_memory(function: Callable[P, T]) -> Callable[P, T]:
    """The function, with OutOfDeviceMemory in place of what an array module raises when its device is full."""

    @wraps(function)
    def call(*args: P.args, **options: P.kwargs) -> T:
        try:
            return function(*args, **options)
        except MemoryError as error:
            if isinstance(error, TurboQuantError) or type(error).__module__.partition(".")[0] in ("builtins", "numpy"):
                raise
            raise OutOfDeviceMemory(
                f"the device is full: {error}; give back what is not needed, or hold less there"
            ) from error

    return call
