"""Backend `numpy`: every operation vectorised, and the bit-exact reference of all faster backends."""

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tq_core import hadamard, packing, trellis_path
from tq_core.norms import row_norms, unit_rows
from tq_core.plan import ScalarPlan
from tq_core.registry import Plan
from tq_core.rotation import Rotation
from tq_core.sketch import Sketch
from tq_core.trellis_plan import TrellisPlan

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]
I16 = NDArray[np.int16]

TILE_VALUES: Final = 1 << 20  # coordinates handled at once: bounds scratch memory to some tens of MiB
UNIT: Final = 4096.0  # v = 4096 z; docs/format.md, section 4
SQUARE: Final = float(1 << 24)  # UNIT squared


class NumpyBackend:
    """All operations on plain arrays; stateless."""

    name = "numpy"
    api_version = 1

    def rotate(self, rotation: Rotation, x: F32) -> F32:
        """z = sqrt(dim) P x, (rows, dim) float32."""
        return hadamard.forward(rotation, x)

    def unrotate(self, rotation: Rotation, z: F32) -> F32:
        """P^T z / sqrt(dim), (rows, dim) float32."""
        return hadamard.inverse(rotation, z)

    def encode(self, plan: Plan, x: NDArray[np.floating]) -> tuple[U8, F32, F32 | None]:
        """Packed rows, float32 scales and (with a sketch) float32 residual norms of (rows, dim) floats."""
        packed = np.empty((len(x), plan.row_bytes), np.uint8)
        scales = np.empty(len(x), np.float32)
        gammas = np.empty(len(x), np.float32) if plan.sketch is not None else None
        for tile in _tiles(len(x), plan.dim):
            self._encode_tile(plan, x[tile], packed[tile], scales[tile], None if gammas is None else gammas[tile])
        return packed, scales, gammas

    def _encode_tile(self, plan: Plan, x: NDArray[np.floating], packed: U8, scales: F32, gammas: F32 | None) -> None:
        if plan.strict:
            norms, units = np.ones(len(x)), x.astype(np.float32)
        else:
            norms = row_norms(x)
            units = unit_rows(x, norms)
        scaled = self.rotate(plan.rotation, units)
        scaled *= np.float32(UNIT)
        v = _to_int16(scaled)
        if isinstance(plan, TrellisPlan):
            packed[:], dots, squares = _best_paths(plan, scaled, v)
            scales[:] = _to_float32(_products(norms, _scale_factors(plan, dots, squares)))
            return
        codes, dots, squares = _best_codes(plan, scaled, v)
        packed[:, : plan.stage_bytes] = packing.pack(codes, plan.codebook.bits)
        factors = _scale_factors(plan, dots, squares)
        scales[:] = _to_float32(_products(norms, factors))
        if plan.sketch is not None and gammas is not None:
            levels = plan.codebook.levels_of(codes).astype(np.float64)
            residuals = (v - np.rint(factors[:, None] * levels)).astype(np.int64)
            packed[:, plan.stage_bytes :] = self.sketch(plan.sketch, residuals)
            lengths = np.sqrt(np.einsum("ij,ij->i", residuals, residuals).astype(np.float64))
            gammas[:] = _to_float32(_products(norms, lengths) / (UNIT * math.sqrt(plan.dim)))

    def decode(self, plan: Plan, packed: U8, scales: F32, gammas: F32 | None) -> F32:
        """Reconstructed rows, (rows, dim) float32."""
        out = np.empty((len(packed), plan.dim), np.float32)
        for tile in _tiles(len(packed), plan.dim):
            stage = _centroids(plan, packed[tile])
            if plan.sketch is None or gammas is None:
                out[tile] = self.unrotate(plan.rotation, stage) * scales[tile, None]
                continue
            weights = gammas[tile] * np.float32(math.sqrt(plan.dim))
            # powers of two are exact, and keep the unnormalised stages of huge rows within float32
            exponents = np.frexp(np.maximum(scales[tile], weights))[1][:, None]
            stage *= np.ldexp(scales[tile, None], -exponents)
            stage += np.ldexp(weights[:, None], -exponents) * self.unsketch(
                plan.sketch, packed[tile, plan.stage_bytes :]
            )
            out[tile] = np.ldexp(self.unrotate(plan.rotation, stage), exponents)
        return out

    def scores(
        self, plan: Plan, packed: U8, scales: F32, gammas: F32 | None, queries: F32, *, accuracy: str = "exact"
    ) -> F32:
        """Estimated inner products, (queries, rows) float32; each query is rotated once, no row is rotated back.

        Exact at every accuracy.
        """
        rotated = self.rotate(plan.rotation, queries)
        out = np.empty((len(queries), len(packed)), np.float32)
        for tile in _tiles(len(packed), plan.dim):
            stage = _centroids(plan, packed[tile])
            estimate = (rotated @ stage.T) * (scales[tile] * np.float32(1.0 / plan.dim))
            if plan.sketch is not None and gammas is not None:
                turned = rotated * np.float32(1.0 / math.sqrt(plan.dim))
                estimate += self.sketch_scores(plan.sketch, packed[tile, plan.stage_bytes :], turned) * gammas[tile]
            out[:, tile] = estimate
        return out

    def combine(self, plan: Plan, packed: U8, scales: F32, gammas: F32 | None, weights: F32) -> F32:
        """Weighted sums of the decoded rows, (sums, dim) float32; added in the rotated domain, rotated back once."""
        total = np.zeros((len(weights), plan.dim), np.float32)
        for tile in _tiles(len(packed), plan.dim):
            total += (weights[:, tile] * scales[tile]) @ _centroids(plan, packed[tile])
            if plan.sketch is not None and gammas is not None:
                lengths = weights[:, tile] * (gammas[tile] * np.float32(math.sqrt(plan.dim)))
                total += lengths @ self.unsketch(plan.sketch, packed[tile, plan.stage_bytes :])
        return self.unrotate(plan.rotation, total)

    def sketch(self, sketch: Sketch, residuals: NDArray[np.int64]) -> U8:
        """Sign bits of the sketched integer rows, (rows, ceil(projections / 8)) uint8."""
        if sketch.matrix is not None:
            # integers below 2**53 throughout, so float64 sums are exact in any order
            positive = residuals.astype(np.float64) @ sketch.matrix.T.astype(np.float64) >= 0
        else:
            assert sketch.rotation is not None
            positive = self.rotate(sketch.rotation, residuals.astype(np.float32)) >= 0
        return np.packbits(positive, axis=1, bitorder="little")

    def unsketch(self, sketch: Sketch, bits: U8) -> F32:
        """Reconstruction of the unit residual from its sign bits, (rows, dim) float32."""
        signs = _signs(sketch, bits)
        if sketch.matrix is not None:
            return (signs @ sketch.matrix.astype(np.float32)) * np.float32(sketch.constant / 2048)
        assert sketch.rotation is not None
        # unrotate divides by sqrt(dim) once; the rows of S are sqrt(dim) times orthonormal
        return self.unrotate(sketch.rotation, signs) * np.float32(sketch.constant * sketch.dim)

    def sketch_scores(self, sketch: Sketch, bits: U8, queries: F32) -> F32:
        """Estimated inner products of queries with the unit residuals, (queries, rows) float32."""
        projected: F32
        if sketch.matrix is not None:
            projected = (queries @ sketch.matrix.T.astype(np.float32)) * np.float32(1 / 2048)
        else:
            assert sketch.rotation is not None
            projected = self.rotate(sketch.rotation, queries)
        estimates: F32 = (projected @ _signs(sketch, bits).T) * np.float32(sketch.constant)
        return estimates


def load() -> NumpyBackend:
    """The loader that the registry calls."""
    return NumpyBackend()


def _tiles(rows: int, dim: int) -> list[slice]:
    step = max(1, TILE_VALUES // dim)
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]


def _to_int16(scaled: F32) -> I16:
    return np.clip(np.rint(scaled), -32767, 32767).astype(np.int16)


def _to_float32(values: NDArray[np.float64]) -> F32:
    with np.errstate(over="ignore"):  # an overflow becomes inf and is refused by the caller, which knows the row
        return values.astype(np.float32)


def _products(norms: NDArray[np.float64], factors: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(over="ignore", invalid="ignore"):  # an infinite norm times a zero factor is refused later, too
        return norms * factors


def _best_codes(plan: ScalarPlan, scaled: F32, v: I16) -> tuple[U8, NDArray[np.int64], NDArray[np.int64]]:
    """Codes of the winning candidate scale with its integer sums A = <v, Q> and B = <Q, Q>."""
    book = plan.codebook
    codes = book.codes(v)
    dots, squares = _integer_sums(v, book.levels_of(codes))
    if len(plan.candidates) == 1:
        return codes, dots, squares
    best = _merit(dots, squares)
    for candidate in plan.candidates[1:]:
        tried = book.codes(_to_int16(scaled * np.float32(candidate)))
        tried_dots, tried_squares = _integer_sums(v, book.levels_of(tried))
        merit = _merit(tried_dots, tried_squares)
        better = merit > best
        codes[better] = tried[better]
        dots[better], squares[better], best[better] = tried_dots[better], tried_squares[better], merit[better]
    return codes, dots, squares


def _best_paths(plan: TrellisPlan, scaled: F32, v: I16) -> tuple[U8, NDArray[np.int64], NDArray[np.int64]]:
    """Packed rows of the winning candidate scale with its sums A and B, A no less than B / 256."""
    code = plan.codebook
    packed = np.empty((len(v), plan.row_bytes), np.uint8)
    dots, squares = np.zeros(len(v), np.int64), np.ones(len(v), np.int64)
    best = np.full(len(v), -np.inf)
    for candidate in plan.candidates:
        tried = v if candidate == 1.0 else _to_int16(scaled * np.float32(candidate))
        symbols = trellis_path.tail_biting(code, tried)
        tried_dots, tried_squares = _integer_sums(v, code.levels[trellis_path.windows(code, symbols)])
        merit = np.copysign(_merit(tried_dots, tried_squares), tried_dots)
        better = merit > best
        packed[better] = trellis_path.pack(symbols[better], code.bits)
        dots[better], squares[better], best[better] = tried_dots[better], tried_squares[better], merit[better]
    return packed, np.maximum(dots, squares >> 8), squares


def _integer_sums(v: I16, levels: I16) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    wide = levels.astype(np.int32)
    squares = np.sum(wide * wide, axis=1, dtype=np.int64)
    # a zero row has no level but 0 where all numbers of levels are odd
    return np.sum(v * wide, axis=1, dtype=np.int64), np.maximum(squares, 1)


def _merit(dots: NDArray[np.int64], squares: NDArray[np.int64]) -> NDArray[np.float64]:
    numerator = dots.astype(np.float64)
    return numerator * numerator / squares.astype(np.float64)


def _scale_factors(plan: Plan, dots: NDArray[np.int64], squares: NDArray[np.int64]) -> NDArray[np.float64]:
    """s / norm of each row by the plan's rule, float64; 0 for zero rows except under `plain`."""
    if plan.rule == "plain":
        return np.ones(len(dots))
    a, b = dots.astype(np.float64), squares.astype(np.float64)
    safe = np.where(a > 0, a, 1.0)  # a is 0 for zero rows alone
    if plan.rule == "mse":
        factors = a / b
    elif plan.rule == "norm":
        factors = np.sqrt(plan.dim * SQUARE / b)
    else:
        factors = plan.dim * SQUARE / safe
    return np.where(a > 0, factors, 0.0)


def _centroids(plan: Plan, packed: U8) -> F32:
    """The first stage of packed rows, (rows, dim) float32 of unit variance."""
    if isinstance(plan, TrellisPlan):
        return trellis_path.centroids(plan.codebook, packed, plan.dim)
    book = plan.codebook
    return book.centroids_of(packing.unpack(packed[:, : plan.stage_bytes], book.dim, book.bits))


def _signs(sketch: Sketch, bits: U8) -> F32:
    flags = np.unpackbits(bits, axis=1, bitorder="little", count=sketch.projections)
    return np.where(flags, np.float32(1), np.float32(-1))
