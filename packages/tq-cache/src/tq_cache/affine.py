"""Plain integer quantization of each token by itself: the yardstick that every table shows beside TurboQuant.

`symmetric` keeps one number a token, the largest magnitude (absmax): code 0 means 0 and both ends are equally far.
Otherwise two, the least value and the step (min-max): one more number a token, and no level is wasted.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tq_core import CorruptData, ScaleRange
from tq_core.flags import is_set
from tq_core.packing import PLANES, has_clean_padding, pack, row_bytes, unpack

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


class AffineCodec:
    """Round-to-nearest integers of 2..8 bits, with scalars of `dtype` a token."""

    def __init__(self, dim: int, bits: int, *, symmetric: bool, dtype: str = "float16") -> None:
        self.dim, self.bits, self.symmetric = dim, bits, symmetric
        self.scalar = np.dtype(dtype).newbyteorder("<")
        self.fields: dict[str, tuple[int | None, np.dtype[Any]]] = {
            "packed": (row_bytes(dim, bits), np.dtype(np.uint8)),
            "scales": (None, self.scalar),
        }
        if not symmetric:
            self.fields["zeros"] = (None, self.scalar)
        self.tables: tuple[NDArray[Any], ...] = ()
        self.scratch = 5  # bytes a number: a code and what it decodes to

    @property
    def spec(self) -> dict[str, Any]:
        """Everything about how rows are encoded."""
        kind = "absmax" if self.symmetric else "int"
        return {"kind": kind, "dim": self.dim, "bits": self.bits, "dtype": self.scalar.name}

    def check(self, rows: Any) -> None:
        """Raise CorruptData for padding bits that are not zero or scalars that are not finite."""
        if not has_clean_padding(rows["packed"], self.dim, PLANES[self.bits]):
            raise CorruptData("padding bits of a packed row are not zero")
        if not all(np.isfinite(rows[name]).all() for name in self.fields if name != "packed"):
            raise CorruptData("scales and zeros must be finite")

    def encode(self, rows: NDArray[np.floating]) -> dict[str, NDArray[Any]]:
        """Codes and scalars; ScaleRange when a scalar does not fit its dtype."""
        exact = rows.astype(np.float64)
        if self.symmetric:
            top = (1 << (self.bits - 1)) - 1
            scales = self._stored(np.abs(exact).max(axis=1) / top)
            codes = np.clip(np.rint(exact / _safe(scales)), -top, top) + top
            return {"packed": pack(codes.astype(np.uint8), self.bits), "scales": scales}
        zeros = self._stored(exact.min(axis=1))
        top = (1 << self.bits) - 1
        scales = self._stored((exact.max(axis=1) - zeros.astype(np.float64)) / top)
        codes = np.clip(np.rint((exact - zeros.astype(np.float64)[:, None]) / _safe(scales)), 0, top)
        return {"packed": pack(codes.astype(np.uint8), self.bits), "scales": scales, "zeros": zeros}

    def decode(self, rows: Any) -> F32:
        """(rows, dim) float32."""
        codes = unpack(rows["packed"], self.dim, self.bits).astype(np.float32)
        if self.symmetric:
            codes -= np.float32((1 << (self.bits - 1)) - 1)
        codes *= rows["scales"].astype(np.float32)[:, None]
        if not self.symmetric:
            codes += rows["zeros"].astype(np.float32)[:, None]
        return codes

    def scores(self, rows: Any, queries: F32) -> F32:
        """queries @ decode(rows).T, float32."""
        product: F32 = queries @ self.decode(rows).T
        return product

    def combine(self, rows: Any, weights: F32) -> F32:
        """weights @ decode(rows), float32."""
        total: F32 = weights @ self.decode(rows)
        return total

    def _stored(self, values: F64) -> NDArray[Any]:
        with np.errstate(over="ignore"):
            stored = values.astype(self.scalar)
        if is_set(~np.isfinite(stored).all()):
            row = int(np.argmax(~np.isfinite(stored)))
            raise ScaleRange(
                f"the scale of row {row} is {float(values[row]):.6g}, beyond {self.scalar}; use norms=float32"
            )
        return stored


def _safe(scales: NDArray[Any]) -> F64:
    wide = scales.astype(np.float64)
    return np.where(wide > 0, wide, 1.0)[:, None]
