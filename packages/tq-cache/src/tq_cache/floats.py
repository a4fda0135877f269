"""Tokens stored as floats: the control that shows what a cache costs without any quantization."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tq_cache.place import largest
from tq_core import CorruptData, ScaleRange
from tq_core.flags import is_set

F32 = NDArray[np.float32]


def require_float32(array: NDArray[np.floating], name: str) -> None:
    """Raise ScaleRange where a float64 number is beyond float32, in which exact tokens are computed with."""
    if array.dtype.itemsize <= 4:
        return
    with np.errstate(over="ignore"):
        lost = ~np.isfinite(array.astype(np.float32)).all()
    if is_set(lost):
        raise ScaleRange(f"{name} are beyond float32, up to {largest(array):.6g}; scale the data down")


class FloatCodec:
    """float16 or float32 rows, kept as they are or rounded once."""

    def __init__(self, dim: int, bits: int) -> None:
        self.dtype = np.dtype("<f2" if bits == 16 else "<f4")
        self.fields: dict[str, tuple[int | None, np.dtype[Any]]] = {"packed": (dim, self.dtype)}
        self.tables: tuple[NDArray[Any], ...] = ()
        self.scratch = 4  # bytes a number: float16 is widened

    @property
    def spec(self) -> dict[str, Any]:
        """Everything about how rows are encoded."""
        return {"kind": "float", "dim": self.fields["packed"][0], "dtype": self.dtype.name}

    def check(self, rows: Any) -> None:
        """Raise CorruptData for numbers that are not finite."""
        if not np.isfinite(rows["packed"]).all():
            raise CorruptData("stored floats must be finite")

    def encode(self, rows: NDArray[np.floating]) -> dict[str, NDArray[Any]]:
        """Rows in the stored dtype; ScaleRange when a value does not fit."""
        with np.errstate(over="ignore"):
            stored = rows.astype(self.dtype)
        if is_set(~np.isfinite(stored).all()):
            row, column = (int(i) for i in np.argwhere(~np.isfinite(stored))[0])
            raise ScaleRange(f"coordinate {column} of row {row} is {float(rows[row, column]):.6g}, beyond {self.dtype}")
        return {"packed": stored}

    def decode(self, rows: Any) -> F32:
        """The rows as float32."""
        found: F32 = rows["packed"].astype(np.float32)
        return found

    def scores(self, rows: Any, queries: F32) -> F32:
        """queries @ rows.T, float32."""
        product: F32 = queries @ rows["packed"].astype(np.float32, copy=False).T
        return product

    def combine(self, rows: Any, weights: F32) -> F32:
        """weights @ rows, float32."""
        total: F32 = weights @ rows["packed"].astype(np.float32, copy=False)
        return total
