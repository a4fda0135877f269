"""VectorCodec: the everyday door. Any finite vectors in, one scale a vector beside the codes."""

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tq_core import checks, registry
from tq_core.codes import Codes, Encoded
from tq_core.device import Device, typed_memory, widened
from tq_core.errors import InvalidSpec, ScaleRange, ShapeMismatch, SpecMismatch
from tq_core.flags import is_set, look_once
from tq_core.norms import row_norms, unit_rows
from tq_core.plan import scale_candidates
from tq_core.polar import PolarQuant
from tq_core.scalar_quantizer import ScalarQuantizer
from tq_core.spec import Fields, Spec, bits_per_vector, fields, validated
from tq_core.topk import best_rows
from tq_core.trellis_plan import TrellisPlan, trellis_candidates

F32 = NDArray[np.float32]

LEAST_COSINE: Final = 1 / 256
ACCURACIES: Final = ("exact", "int16", "int8")


class VectorCodec:
    """Encodes any finite vectors with a quantizer and one merged number (norm times scale rule) per vector.

    scale: "unbiased" (default) makes inner products unbiased, "mse" gives the least squared error (EDEN's two
    scales, arXiv 2604.18555), "norm" restores the norm, "plain" stores the norm alone (the paper). For
    TurboQuantProd the rule applies to the first stage and the sketch takes what is left, so all four are unbiased.
    search: number of candidate scales (odd) tried before quantizing, 0 for none; at equal bits it lowers the error.
    norm_dtype: "float16" raises ScaleRange above 65504, and below 2**-25 unless `underflow="zero"`, which stores 0
    (an absolute error of less than 3e-8 a vector).
    """

    def __init__(
        self,
        quantizer: ScalarQuantizer | PolarQuant,
        *,
        scale: str = "unbiased",
        norm_dtype: str = "float16",
        search: int = 0,
        underflow: str = "raise",
    ) -> None:
        if not isinstance(quantizer, (ScalarQuantizer, PolarQuant)):
            raise InvalidSpec(
                f"a codec wraps TurboQuantMSE, TurboQuantProd, TrellisQuant or PolarQuant, got {quantizer!r:.80}"
            )
        self._spec = validated(
            {
                "kind": "codec",
                "quantizer": quantizer.spec,
                "scale": scale,
                "norm_dtype": norm_dtype,
                "search": search,
            }
        )
        self.quantizer = quantizer
        self.underflow = checks.choice(underflow, ("raise", "zero"), "underflow")
        self._fields = fields(self._spec)
        if isinstance(quantizer, ScalarQuantizer):
            # `plain` rescales nothing, so the nearest centroids are the best already
            spread = trellis_candidates if isinstance(quantizer.plan, TrellisPlan) else scale_candidates
            candidates = spread(self.dim, 0 if scale == "plain" else self._spec["search"])
            self.plan = quantizer.plan._replace(rule=self._spec["scale"], candidates=candidates, strict=False)

    @property
    def dim(self) -> int:
        """Dimension of the vectors."""
        return self.quantizer.dim

    @property
    def spec(self) -> Spec:
        """A plain dict that rebuilds this codec: `tq_core.from_spec(spec)`."""
        return validated(self._spec)

    @property
    def fields(self) -> Fields:
        """Arrays of an Encoded: name -> (row width, or None for one number a row; dtype)."""
        return dict(self._fields)

    @property
    def bits_per_vector(self) -> int:
        """Bits held for one vector, scale included."""
        return bits_per_vector(self._spec)

    @property
    def tables(self) -> tuple[NDArray[Any], ...]:
        """Arrays shared by all vectors: those of the quantizer."""
        return self.quantizer.tables

    @property
    def state_nbytes(self) -> int:
        """Bytes of `tables`."""
        return self.quantizer.state_nbytes

    @typed_memory
    def encode(self, x: ArrayLike) -> Encoded:
        """Codes of x, (dim,) or (rows, dim) float16/32/64 of any strides; zero vectors and empty batches are legal.

        An array on a device (cupy, torch, DLPack; bfloat16, too) is encoded there by the backend `gpu`, bit for bit as
        on the host, and the rows stay there.
        Raises InvalidDtype, ShapeMismatch, NotFinite, ScaleRange when norm_dtype cannot hold a row's scale, or
        WrongDevice for an array on a device and a backend, named explicitly, that computes on the host.
        """
        operations, lies_on = self._door(x, "x")
        if lies_on is None:
            return self._encoded(operations, None, x)
        return look_once(lambda: self._encoded(operations, lies_on, x))

    def _encoded(self, operations: Any, lies_on: Device | None, x: ArrayLike) -> Encoded:
        rows, single = checks.float_rows(x, self.dim, device=lies_on, bits=True)
        if isinstance(self.quantizer, PolarQuant):
            packed, scales, extra = self._encode_polar(self.quantizer, rows)
        else:
            packed, scales, gammas = operations.encode(self.plan, rows)
            extra = {} if gammas is None else {"gammas": self._stored(gammas, rows, "residual norm")}
        arrays = {"packed": packed, **extra, "scales": self._stored(scales, rows, "scale")}
        return Encoded._trusted(self._spec, arrays, single)

    @typed_memory
    def decode(self, encoded: Encoded) -> F32:
        """Reconstruction, float32, (rows, dim), or (dim,) when a single vector was encoded."""
        self._require_own(encoded)
        scales = encoded.arrays["scales"].astype(np.float32)
        if isinstance(self.quantizer, PolarQuant):
            polar = self.quantizer
            rotated = polar.rotated(encoded.arrays["packed"], encoded.arrays["radii"])
            rows = polar.backend.unrotate(polar.rotation, rotated) * scales[:, None]
        else:
            gammas = encoded.arrays["gammas"].astype(np.float32) if "gammas" in self._fields else None
            packed = encoded.arrays["packed"]
            rows = self._door(packed, "rows")[0].decode(self.plan, packed, scales, gammas)
        return rows[0] if encoded.single else rows

    @typed_memory
    def scores(self, encoded: Encoded, queries: ArrayLike, *, accuracy: str = "exact") -> F32:
        """Estimated inner products, (queries, rows) float32, straight from packed codes; norms included.

        `accuracy`: the arithmetic a backend may use. What "int16" ("int8") adds to the error has at most 0.01 (0.13) of
        the standard deviation of the quantization error itself, for queries that no rotated coordinate dominates.
        Backends without integer arithmetic, and PolarQuant, are always exact.

        `queries`: (dim,) or (queries, dim), finite floats up to 2**64 (ScaleRange beyond).
        """
        self._require_own(encoded)
        checks.choice(accuracy, ACCURACIES, "accuracy")
        packed = encoded.arrays["packed"]
        operations, lies_on = self._door(packed, "rows")
        asked = checks.query_rows(queries, self.dim, device=lies_on)
        scales = encoded.arrays["scales"].astype(np.float32)
        if isinstance(self.quantizer, PolarQuant):
            polar = self.quantizer
            rotated = polar.rotated(packed, encoded.arrays["radii"])
            product = polar.backend.rotate(polar.rotation, asked) @ rotated.T
            return product * (scales * np.float32(1.0 / self.dim))
        gammas = encoded.arrays["gammas"].astype(np.float32) if "gammas" in self._fields else None
        found: F32 = operations.scores(self.plan, packed, scales, gammas, asked, accuracy=accuracy)
        return found

    @typed_memory
    def combine(self, encoded: Encoded, weights: ArrayLike) -> F32:
        """Weighted sums of the decoded rows, (sums, dim) float32: what attention does with values.

        `weights`: (rows,) or (sums, rows), finite floats. Rows are added in the rotated domain and never decoded one
        by one; equals `weights @ decode(encoded)` within rounding.
        """
        self._require_own(encoded)
        packed = encoded.arrays["packed"]
        operations, lies_on = self._door(packed, "rows")
        asked = checks.query_rows(weights, len(encoded), "weights", lies_on)
        scales = encoded.arrays["scales"].astype(np.float32)
        if isinstance(self.quantizer, PolarQuant):
            polar = self.quantizer
            rotated = polar.rotated(packed, encoded.arrays["radii"])
            return polar.backend.unrotate(polar.rotation, ((asked * scales) @ rotated).astype(np.float32))
        gammas = encoded.arrays["gammas"].astype(np.float32) if "gammas" in self._fields else None
        sums: F32 = operations.combine(self.plan, packed, scales, gammas, asked)
        return sums

    @typed_memory
    def search(
        self, encoded: Encoded, queries: ArrayLike, k: int, mask: ArrayLike | None = None, *, accuracy: str = "auto"
    ) -> tuple[F32, NDArray[np.int64]]:
        """The k best rows of each query by estimated inner product: `(scores, indices)`, both (queries, k).

        Descending, ties to the lower index; padded with -inf and -1 where fewer than k rows are eligible.
        `mask`: (rows,) bool, True for eligible rows.
        `accuracy`: "auto" returns exact scores in their exact order; a backend may choose the rows by an int8 scan
        that keeps the max(4k, k + 32) best, which are then scored exactly. A row can be missed only if the scan's
        error moves it below all of those. "exact" scans exactly; "int16" and "int8" return the scores of such a scan.
        """
        self._require_own(encoded)
        checks.choice(accuracy, ("auto", *ACCURACIES), "accuracy")
        wanted = checks.count(k, 1, 1 << 31, "k")
        operations, lies_on = self._door(encoded.arrays["packed"], "rows")
        eligible: Any = None
        if mask is not None:
            eligible = checks.as_array(mask, "mask") if lies_on is None else lies_on.adopt(mask, "mask")
            if eligible.dtype != np.bool_ or eligible.shape != (len(encoded),):
                raise ShapeMismatch(f"mask must be ({len(encoded)},) bool, got {eligible.shape} {eligible.dtype}")
        asked = checks.query_rows(queries, self.dim, device=lies_on)
        fused = None if isinstance(self.quantizer, PolarQuant) else getattr(operations, "search", None)
        if fused is not None:
            arrays = encoded.arrays
            mask = eligible if eligible is None or eligible.flags.c_contiguous else eligible.copy()
            found: tuple[F32, NDArray[np.int64]] = fused(
                self.plan, arrays["packed"], arrays["scales"], arrays.get("gammas"), asked, wanted, mask, accuracy
            )
            return found
        scan = "exact" if accuracy == "auto" else accuracy

        def score(rows: slice, part: F32) -> F32:
            return self.scores(encoded[rows], part, accuracy=scan)

        return best_rows(score, asked, len(encoded), wanted, eligible)

    def wrap(self, arrays: Mapping[str, NDArray[Any]]) -> Encoded:
        """An Encoded around a caller's arrays with this codec's `fields`, without copying C-contiguous ones.

        Names, shapes and dtypes are checked; contents are not, so that a cache can wrap its buffers at every step.
        """
        return Encoded._viewing(self._spec, arrays)

    def _encode_polar(
        self, polar: PolarQuant, rows: NDArray[np.floating]
    ) -> tuple[NDArray[np.uint8], F32, dict[str, NDArray[Any]]]:
        norms = row_norms(rows)
        units = unit_rows(rows, norms)
        packed, radii = polar.encode_units(units)
        u = polar.backend.rotate(polar.rotation, units).astype(np.float64)
        q = polar.rotated(packed, radii).astype(np.float64)
        a, b = (u * q).sum(axis=1), (q * q).sum(axis=1)
        nothing = b == 0  # zero rows, and those whose norm overflowed: refused when it is stored
        a, b = np.where(nothing, 1.0, a), np.where(nothing, 1.0, b)
        # angles of one bit may be off by a right angle, where <u, q> = 0 names no scale
        a = np.maximum(a, LEAST_COSINE * b)
        rule = self._spec["scale"]
        factors = {"plain": np.ones_like(a), "mse": a / b, "norm": np.sqrt(self.dim / b), "unbiased": self.dim / a}
        with np.errstate(over="ignore"):
            return packed, (norms * factors[rule]).astype(np.float32), {"radii": radii}

    def _stored(self, values: F32, rows: NDArray[np.floating], what: str) -> NDArray[Any]:
        """Values in norm_dtype, or ScaleRange naming the first row that it cannot hold."""
        dtype = np.dtype(self._spec["norm_dtype"])
        with np.errstate(over="ignore", under="ignore"):
            stored = values.astype(dtype)
        too_large = ~np.isfinite(stored)
        if is_set(too_large.any()):
            row = int(np.argmax(too_large))
            hint = "use norm_dtype='float32' or " if dtype == np.float16 else ""
            norm = math.hypot(*_numbers(rows[row]).tolist())  # neither overflows nor underflows on the way
            raise ScaleRange(f"{what} of row {row} (norm {norm:.6g}) overflows {dtype}; {hint}scale the data down")
        if self.underflow == "raise" and what == "scale" and _may_be_lost(stored, rows):
            nothing = np.flatnonzero(stored == 0)  # few, and only their rows are looked at again
            lost = nothing[_numbers(rows[nothing]).any(axis=1)]
            if lost.size:
                row = int(lost[0])
                hint = "use norm_dtype='float32', " if dtype == np.float16 else ""
                norm = math.hypot(*_numbers(rows[row]).tolist())
                raise ScaleRange(
                    f"row {row} has norm {norm:.6g}, which {dtype} would store as 0; {hint}scale the data up, "
                    "or pass underflow='zero' to accept zeros"
                )
        return stored

    def _door(self, x: object, name: str) -> tuple[Any, Device | None]:
        """As registry.door; what comes beside x is adopted by that device, or read on the host, or WrongDevice."""
        quantizer = self.quantizer
        if type(x) is np.ndarray:
            return quantizer.backend, None
        return registry.door(quantizer.backend, quantizer.follows_data, x, name)

    def _require_own(self, encoded: Encoded) -> None:
        if not isinstance(encoded, Codes) or encoded._spec != self._spec:
            made = encoded._spec if isinstance(encoded, Codes) else type(encoded).__name__
            raise SpecMismatch(f"these rows were encoded by {made}, this codec is {self._spec}")

    def __repr__(self) -> str:
        options = ", ".join(f"{key}={self._spec[key]!r}" for key in ("scale", "norm_dtype", "search"))
        if self.underflow != "raise":
            options += f", underflow={self.underflow!r}"
        return f"VectorCodec({self.quantizer!r}, {options})"


def _numbers(rows: NDArray[Any]) -> NDArray[Any]:
    """Rows of floats, those that came as bits of bfloat16, too."""
    numbers: NDArray[Any] = widened(rows) if rows.dtype == np.uint16 else rows
    return numbers


def _may_be_lost(stored: NDArray[Any], rows: NDArray[np.floating]) -> bool:
    """Whether a row that is not zero may have a scale of 0; on the host this is found out row by row."""
    return isinstance(stored, np.ndarray) or is_set(((stored == 0) & rows.any(axis=1)).any())
