"""bfloat16 without a dependency: numpy has no such type, so the bits are carried as uint16 and widened on access."""

from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tq_core import InvalidDtype

_EXPONENT: Final = np.uint16(0x7F80)


class Bfloat16:
    """An array of bfloat16 given by its bits; `KvTrace` takes one wherever it takes an array.

    `Bfloat16(bits)` wraps a uint16 array of any shape, for example `tensor.view(torch.uint16).numpy()`. Arrays of
    ml_dtypes' bfloat16 need no wrapping.
    """

    def __init__(self, bits: ArrayLike) -> None:
        array = np.asarray(bits)
        if array.dtype.kind != "u" or array.dtype.itemsize != 2:
            raise InvalidDtype(f"bfloat16 bits must be uint16, got {array.dtype}; view, do not convert, the values")
        self.bits: NDArray[np.uint16] = array.astype(np.uint16, copy=False)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array."""
        return self.bits.shape

    def widen(self) -> NDArray[np.float32]:
        """The same values as float32, exactly; a new array."""
        return widen(self.bits)


def is_bfloat16(array: NDArray[Any]) -> bool:
    """Whether the array has the bfloat16 type that ml_dtypes registers with numpy."""
    return array.dtype.name == "bfloat16" and array.dtype.itemsize == 2


def widen(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """float32 values of bfloat16 bits: bfloat16 is the upper half of float32."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def is_finite(bits: NDArray[np.uint16]) -> NDArray[np.bool_]:
    """Elementwise: neither NaN nor infinite, that is, some exponent bit is clear."""
    finite: NDArray[np.bool_] = (bits & _EXPONENT) != _EXPONENT
    return finite
