"""Backend `scalar`: the oracle. One row at a time through the numpy-free primitives, rotation in float64.

Never chosen automatically. Its codes differ from those of the other backends only where a rotated coordinate lies
within float32 rounding of a bin edge; compiled or interpreted, it gives the same bits.
"""

from typing import Final
from weakref import WeakKeyDictionary

import numpy as np
from librt.vecs import vec
from mypy_extensions import i16, i64
from numpy.typing import NDArray

from tq_core._prim import encode, hadamard, score, trellis
from tq_core._prim import sketch as signs
from tq_core._prim.encode import Encoder
from tq_core._prim.hadamard import Transform
from tq_core._prim.sketch import Signs
from tq_core._prim.trellis import TrellisEncoder
from tq_core.plan import ScalarPlan
from tq_core.registry import Plan
from tq_core.rotation import Rotation
from tq_core.sketch import Sketch
from tq_core.trellis_plan import TrellisPlan

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]

RULE_NUMBERS: Final = {name: number for number, name in enumerate(encode.RULES)}


class ScalarBackend:
    """All operations on plain arrays, row by row. Keeps the converted rotations and sketches it has seen."""

    name = "scalar"
    api_version = 1

    def __init__(self) -> None:
        self._transforms: WeakKeyDictionary[Rotation, Transform] = WeakKeyDictionary()
        self._sketches: WeakKeyDictionary[Sketch, Signs] = WeakKeyDictionary()

    def rotate(self, rotation: Rotation, x: F32) -> F32:
        """z = sqrt(dim) P x in float64, rounded once, (rows, dim) float32."""
        transform = self._transform(rotation)
        return _rows([hadamard.forward(transform, _vector(row)) for row in x], rotation.dim)

    def unrotate(self, rotation: Rotation, z: F32) -> F32:
        """P^T z / sqrt(dim) in float64, rounded once, (rows, dim) float32."""
        transform = self._transform(rotation)
        return _rows([hadamard.inverse(transform, _vector(row)) for row in z], rotation.dim)

    def encode(self, plan: Plan, x: NDArray[np.floating]) -> tuple[U8, F32, F32 | None]:
        """Packed rows, float32 scales and (with a sketch) float32 residual norms of (rows, dim) floats."""
        if isinstance(plan, TrellisPlan):
            coder = self._trellis(plan)
            pairs = [trellis.encode_vector(coder, _vector(row)) for row in x]
            return _packed([row for row, _ in pairs], plan.row_bytes), _float32([scale for _, scale in pairs]), None
        encoder = self._encoder(plan)
        found = [encode.encode_vector(encoder, _vector(row)) for row in x]
        packed = _packed([row for row, _, _ in found], plan.row_bytes)
        scales = _float32([scale for _, scale, _ in found])
        return packed, scales, None if plan.sketch is None else _float32([gamma for _, _, gamma in found])

    def decode(self, plan: Plan, packed: U8, scales: F32, gammas: F32 | None) -> F32:
        """Reconstructed rows in float64, rounded once, (rows, dim) float32."""
        if isinstance(plan, TrellisPlan):
            coder = self._trellis(plan)
            pairs = zip(packed, scales.tolist(), strict=True)
            return _rows([trellis.decode_row(coder, row.tobytes(), 0, s) for row, s in pairs], plan.dim)
        encoder = self._encoder(plan)
        lengths = [0.0] * len(packed) if gammas is None else gammas.tolist()
        rows = zip(packed, scales.tolist(), lengths, strict=True)
        return _rows([score.decode_row(encoder, row.tobytes(), 0, s, g) for row, s, g in rows], plan.dim)

    def scores(
        self, plan: Plan, packed: U8, scales: F32, gammas: F32 | None, queries: F32, *, accuracy: str = "exact"
    ) -> F32:
        """Estimated inner products, (queries, rows) float32; each query is rotated once, no row is rotated back.

        Exact at every accuracy.
        """
        rows = [row.tobytes() for row in packed]
        out = np.empty((len(queries), len(rows)), np.float64)
        if isinstance(plan, TrellisPlan):
            coder = self._trellis(plan)
            for estimates, query in zip(out, queries, strict=True):
                rotated = hadamard.forward(coder.transform, _vector(query))
                estimates[:] = [trellis.score_row(coder, rotated, row, 0) for row in rows]
            return _float32(out * scales)
        encoder = self._encoder(plan)
        stage_bytes = plan.stage_bytes
        for estimates, query in zip(out, queries, strict=True):
            rotated = hadamard.forward(encoder.transform, _vector(query))
            estimates[:] = [score.score_row(encoder, rotated, row, 0) for row in rows]
            estimates *= scales
            if plan.sketch is None or gammas is None:
                continue
            hadamard.scale(rotated, plan.dim**-0.5)
            projected = signs.project(self._signs(plan.sketch), rotated)
            estimates += gammas * np.array([signs.score(projected, row, stage_bytes) for row in rows], np.float64)
        return _float32(out)

    def combine(self, plan: Plan, packed: U8, scales: F32, gammas: F32 | None, weights: F32) -> F32:
        """Weighted sums of decoded rows in float64, rounded once, (sums, dim) float32."""
        rows = self.decode(plan, packed, scales, gammas).astype(np.float64)
        return _float32(weights.astype(np.float64) @ rows)

    def sketch(self, sketch: Sketch, residuals: NDArray[np.int64]) -> U8:
        """Sign bits of the sketched integer rows, (rows, ceil(projections / 8)) uint8."""
        plan = self._signs(sketch)
        found = [signs.residual_bits(plan, vec[i64](row.tolist())) for row in residuals]
        return np.frombuffer(b"".join(found), np.uint8).reshape(len(found), (sketch.projections + 7) // 8).copy()

    def unsketch(self, sketch: Sketch, bits: U8) -> F32:
        """Reconstruction of the unit residual from its sign bits, (rows, dim) float32."""
        plan = self._signs(sketch)
        return _rows([signs.reconstruct(plan, row.tobytes(), 0) for row in bits], sketch.dim)

    def sketch_scores(self, sketch: Sketch, bits: U8, queries: F32) -> F32:
        """Estimated inner products of queries with the unit residuals, (queries, rows) float32."""
        plan = self._signs(sketch)
        rows = [row.tobytes() for row in bits]
        projected = [signs.project(plan, _vector(query)) for query in queries]
        found = [signs.score(query, row, 0) for query in projected for row in rows]
        return _float32(found).reshape(len(queries), len(rows))

    def _transform(self, rotation: Rotation) -> Transform:
        found = self._transforms.get(rotation)
        if found is None:
            found = self._transforms[rotation] = _convert_rotation(rotation)
        return found

    def _signs(self, sketch: Sketch) -> Signs:
        found = self._sketches.get(sketch)
        if found is None:
            matrix = vec[i16]() if sketch.matrix is None else vec[i16](sketch.matrix.ravel().tolist())
            transform = None if sketch.rotation is None else self._transform(sketch.rotation)
            found = Signs(sketch.dim, sketch.projections, matrix, transform, sketch.constant)
            self._sketches[sketch] = found
        return found

    def _encoder(self, plan: ScalarPlan) -> Encoder:
        return Encoder(
            self._transform(plan.rotation),
            [list(book.half) for book in plan.codebook.books],
            RULE_NUMBERS[plan.rule],
            list(plan.candidates),
            None if plan.sketch is None else self._signs(plan.sketch),
            plan.strict,
        )

    def _trellis(self, plan: TrellisPlan) -> TrellisEncoder:
        return TrellisEncoder(
            self._transform(plan.rotation),
            plan.codebook.bits,
            plan.codebook.levels.tolist(),
            RULE_NUMBERS[plan.rule],
            list(plan.candidates),
            plan.strict,
        )


def load() -> ScalarBackend:
    """The loader that the registry calls."""
    return ScalarBackend()


def _convert_rotation(rotation: Rotation) -> Transform:
    if rotation.matrix is not None:
        return hadamard.dense(rotation.dim, _vector(rotation.matrix.ravel()))
    order = rotation.permutations
    permutations = vec[i64]() if order is None else vec[i64](order.ravel().tolist())
    return hadamard.from_rounds(rotation.dim, _vector(rotation.signs.ravel()), permutations)


def _packed(rows: list[bytes], row_bytes: int) -> U8:
    return np.frombuffer(b"".join(rows), np.uint8).reshape(len(rows), row_bytes).copy()


def _vector(row: NDArray[np.floating]) -> vec[float]:
    return vec[float](row.tolist())  # tolist of any float dtype gives float64, exactly


def _rows(found: list[vec[float]], dim: int) -> F32:
    out = np.empty((len(found), dim), np.float64)
    for target, row in zip(out, found, strict=True):
        target[:] = np.frombuffer(memoryview(row), np.float64)
    return _float32(out)


def _float32(values: list[float] | NDArray[np.float64]) -> F32:
    with np.errstate(over="ignore"):  # an overflow becomes inf and is refused by the caller, which knows the row
        return np.asarray(values, np.float64).astype(np.float32)
