"""QJL: a one-bit sketch of any finite vector (paper definition 1; arXiv 2406.03482)."""

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tq_core import checks, registry
from tq_core.codes import Codes
from tq_core.errors import ScaleRange, SpecMismatch
from tq_core.norms import row_norms, unit_rows
from tq_core.sketch import Sketch
from tq_core.spec import Spec, bits_per_vector, validated

F32 = NDArray[np.float32]


class QJL:
    """sign(Sx) and |x|: `projections` bits and one float32 norm a vector, inner products unbiased over S.

    Zero vectors are legal and score 0; ScaleRange for norms that float32 cannot hold. `projections` defaults to dim.
    """

    def __init__(
        self,
        dim: int,
        *,
        projections: int | None = None,
        seed: int = 0,
        sketch: str = "gaussian",
        backend: str = "auto",
    ) -> None:
        rows = dim if projections is None else projections
        self._spec = validated({"kind": "qjl", "dim": dim, "projections": rows, "seed": seed, "sketch": sketch})
        self.backend = registry.resolve(backend)
        self.sketch = Sketch(self._spec["dim"], self._spec["projections"], self._spec["sketch"], self._spec["seed"])

    @property
    def dim(self) -> int:
        """Dimension of the vectors."""
        return self.sketch.dim

    @property
    def spec(self) -> Spec:
        """A plain dict that rebuilds this sketch."""
        return dict(self._spec)

    @property
    def bits_per_vector(self) -> int:
        """Bits held for one vector, the norm included."""
        return bits_per_vector(self._spec)

    @property
    def tables(self) -> tuple[NDArray[Any], ...]:
        """Arrays of the sketch, shared by all vectors."""
        return self.sketch.tables

    @property
    def state_nbytes(self) -> int:
        """Bytes of `tables`."""
        return sum(table.nbytes for table in self.tables)

    @property
    def expected_mse(self) -> float:
        """E|x - x_hat|^2 / |x|^2."""
        return self.sketch.expected_mse

    def quantize(self, x: ArrayLike) -> Codes:
        """Sign bits and norms of x, (dim,) or (rows, dim) float16/32/64 of any finite values."""
        rows, single = checks.float_rows(x, self.dim)
        norms = row_norms(rows)
        with np.errstate(over="ignore"):
            stored = norms.astype(np.float32)
        if not np.isfinite(stored).all():
            row = int(np.argmax(~np.isfinite(stored)))
            norm = math.hypot(*rows[row].tolist())  # neither overflows nor underflows on the way
            raise ScaleRange(f"row {row} has norm {norm:.6g}, beyond float32; scale the data down")
        lost = (stored == 0) & rows.any(axis=1)
        if lost.any():
            row = int(np.argmax(lost))
            norm = math.hypot(*rows[row].tolist())
            raise ScaleRange(f"row {row} has norm {norm:.6g}, which float32 would store as 0; scale the data up")
        units = unit_rows(rows, norms).astype(np.float64)
        peaks = np.abs(units).max(axis=1, initial=0.0)
        integers = np.rint(units * (32767.0 / np.where(peaks > 0, peaks, 1.0))[:, None]).astype(np.int64)
        packed = self.backend.sketch(self.sketch, integers)
        return Codes._trusted(self._spec, {"packed": packed, "gammas": stored}, single)

    def dequantize(self, codes: Codes) -> F32:
        """|x| sqrt(pi/2)/m S^T sign(Sx), float32: unbiased, with large variance."""
        self._require_own(codes)
        rows: F32 = self.backend.unsketch(self.sketch, codes.arrays["packed"]) * codes.arrays["gammas"][:, None]
        return rows[0] if codes.single else rows

    def scores(self, codes: Codes, queries: ArrayLike) -> F32:
        """Unbiased estimates of <query, x>, (queries, rows) float32; the query keeps full precision."""
        self._require_own(codes)
        asked = checks.query_rows(queries, self.dim)
        estimates = self.backend.sketch_scores(self.sketch, codes.arrays["packed"], asked)
        estimates *= codes.arrays["gammas"]
        return estimates

    def cosines(self, codes: Codes, others: Codes) -> F32:
        """Estimates of cos(x, y) from the sign bits of both, (others, rows) float32: cos(pi hamming / projections)."""
        self._require_own(codes)
        self._require_own(others)
        m = self.sketch.projections
        agreement = self._signs(others) @ self._signs(codes).T
        return np.cos(np.pi * (m - agreement) / (2 * m)).astype(np.float32)

    def _signs(self, codes: Codes) -> F32:
        bits = np.unpackbits(codes.arrays["packed"], axis=1, bitorder="little", count=self.sketch.projections)
        return np.where(bits, np.float32(1), np.float32(-1))

    def _require_own(self, codes: Codes) -> None:
        if not isinstance(codes, Codes) or codes._spec != self._spec:
            made = codes._spec if isinstance(codes, Codes) else type(codes).__name__
            raise SpecMismatch(f"these codes were made by {made}, this sketch is {self._spec}")

    def __repr__(self) -> str:
        arguments = ", ".join(f"{key}={value!r}" for key, value in self._spec.items() if key != "kind")
        return f"QJL({arguments}, backend={self.backend.name!r})"
