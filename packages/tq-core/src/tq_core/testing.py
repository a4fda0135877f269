"""The contract suite of backends: `check_backend(backend)` raises AssertionError at the first disagreement.

Every kernel package runs it in its own tests. Codes, scales and sketches are compared bit for bit with `numpy`;
`exact=False` is for an oracle of higher precision, whose codes may differ only at a bin edge. Nothing here is an
`assert` statement, so that `python -O` checks just as much.
"""

from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from tq_core import packing, random_bits
from tq_core.codebook import codebook_of
from tq_core.norms import row_norms, unit_rows
from tq_core.numpy_backend import NumpyBackend
from tq_core.plan import RULES, ScalarPlan, scale_candidates
from tq_core.radix import RADICES
from tq_core.registry import API_VERSION, Backend, Plan
from tq_core.rotation import Rotation
from tq_core.sketch import Sketch
from tq_core.trellis_plan import TrellisPlan, trellis_candidates
from tq_core.trellis_table import BITS, STATES, trellis

DIMS: Final = (2, 3, 7, 8, 9, 12, 15, 16, 17, 20, 31, 33, 40, 48, 63, 64, 65, 80, 96, 100, 127, 128, 129, 192, 200, 256)
LARGE_DIMS: Final = (576, 768, 1536)
ROWS: Final = 24

F32 = NDArray[np.float32]
Encoding = tuple[NDArray[np.uint8], F32, F32 | None]
Scalar = TypeVar("Scalar", bound=np.generic)
REFERENCE: Final = NumpyBackend()


def samples(dim: int, seed: int = 0) -> F32:
    """(24, dim) float32 rows: Gaussian, one-hot, sparse, constant, zero, with an outlier, duplicate, tiny and huge."""
    key = random_bits.stream_key(seed, 1 << 21)
    x = random_bits.gaussians(key, ROWS * dim).reshape(ROWS, dim).astype(np.float32)
    x[10:17] = 0
    x[10, 0] = 1
    x[11, dim - 1] = -2
    x[12, [0, dim - 1]] = 1
    x[13] = 1
    x[14] = -0.5
    x[15, ::2] = 3
    x[17, 0] = 1e4
    x[18] = x[0]
    x[19] *= np.float32(1e-15)
    x[20] *= np.float32(1e15)
    x[21] *= np.float32(1e-30)
    return x


def check_backend(backend: Backend, *, exact: bool = True, dims: tuple[int, ...] = DIMS + LARGE_DIMS) -> None:
    """Run every operation of `backend` against the numpy reference on ordinary and adversarial rows."""
    _require(isinstance(backend, Backend), "operations of the Backend protocol are missing")
    _require(backend.api_version == API_VERSION, f"api_version {backend.api_version}, expected {API_VERSION}")
    for dim in dims:
        _check_rotation(backend, Rotation(dim, "hadamard", 7), exact)
        every, some = (*range(1, 9), *RADICES), (1, 3, 4, 8, 2.25, 3.5)
        for bits in every if dim in (3, 33, 64, 100, 128) else some:
            _check_codes(backend, _plan(dim, bits), exact)
    for dim in (8, 64, 100, 128):
        for rule in RULES:
            _check_codes(backend, _plan(dim, 4, rule=rule), exact)
        for search in (3, 9, 13):
            _check_codes(backend, _plan(dim, 3, search=search), exact)
        for bits in RADICES:
            _check_codes(backend, _plan(dim, bits, rule="norm", search=9), exact)
        for kind in ("gaussian", "hadamard"):
            _check_sketch(backend, Sketch(dim, dim, kind, 5), exact)
            _check_codes(backend, _plan(dim, 3, sketch=Sketch(dim, dim, kind, 5)), exact)
    _check_sketch(backend, Sketch(40, 100, "gaussian", 5), exact)
    _check_rotation(backend, Rotation(48, "dense", 1), exact=False)
    _check_inputs(backend, exact)
    _check_empty(backend)
    for bits in range(1, 9):
        _check_accuracies(backend, _plan(128, bits))
        _check_accuracies(backend, _plan(100, bits, sketch=Sketch(100, 100, "gaussian", 5)))
    for bits in RADICES:
        _check_accuracies(backend, _plan(128, bits))
    for states in STATES if exact else STATES[:2]:  # an oracle walks one window at a time
        for bits in BITS:
            _check_codes(backend, _trellis_plan(64, bits, states), exact, rows=ROWS if exact and states < 1024 else 3)
    for dim, bits, states in ((33, 3, 8), (45, 3, 256), (129, 1, 256), (300, 4, 256)):
        _check_codes(backend, _trellis_plan(dim, bits, states, rule="mse", search=3), exact, rows=ROWS if exact else 3)
    _check_accuracies(backend, _trellis_plan(100, 2, 256))
    _check_accuracies(backend, _trellis_plan(96, 4, 8))


def _require(holds: object, message: str) -> None:
    if not holds:
        raise AssertionError(message)


def _plan(
    dim: int,
    bits: float,
    *,
    rule: str = "unbiased",
    search: int = 0,
    sketch: Sketch | None = None,
    strict: bool = False,
) -> ScalarPlan:
    candidates = scale_candidates(dim, search)
    return ScalarPlan(Rotation(dim, "hadamard", 7), codebook_of(dim, bits), rule, candidates, sketch, strict)


def _trellis_plan(dim: int, bits: int, states: int, *, rule: str = "unbiased", search: int = 0) -> TrellisPlan:
    rotation = Rotation(dim, "hadamard", 7)
    return TrellisPlan(rotation, trellis(bits, states), rule, trellis_candidates(dim, search), strict=False)


def _check_rotation(backend: Backend, rotation: Rotation, exact: bool) -> None:
    where = f"dim {rotation.dim}, {rotation.kind}"
    x = samples(rotation.dim)
    expected = REFERENCE.rotate(rotation, x)
    _same(backend.rotate(rotation, _guarded(x)), expected, exact, 1e-5, f"rotate, {where}")
    back = backend.unrotate(rotation, _guarded(expected))
    _same(back, REFERENCE.unrotate(rotation, expected), exact, 1e-5, f"unrotate, {where}")


def _check_codes(backend: Backend, plan: Plan, exact: bool, rows: int = ROWS) -> None:
    kind = f", {plan.sketch.kind} sketch" if plan.sketch else ""
    where = f"dim {plan.dim}, {plan.codebook.bits} bits, {plan.rule}, {len(plan.candidates)} candidates{kind}"
    x = samples(plan.dim)[:rows]
    packed, scales, gammas = REFERENCE.encode(plan, x)
    given, queries = _guarded(x), samples(plan.dim, 1)[:5]
    _check_encoded(plan, x, backend.encode(plan, given), (packed, scales, gammas), exact, where)
    _untouched(given, x, f"encode, {where}")
    decoded = REFERENCE.decode(plan, packed, scales, gammas)
    held = (_guarded(packed), _guarded(scales), None if gammas is None else _guarded(gammas))
    _rows_close(backend.decode(plan, *held), decoded, 1e-4, f"decode, {where}")
    given = _guarded(queries)
    scores = backend.scores(plan, *held, given)
    _untouched(given, queries, f"scores, {where}")
    _untouched(held[0], packed, f"decode or scores, {where}")
    expected = queries.astype(np.float64) @ decoded.astype(np.float64).T
    _require(
        scores.shape == expected.shape and scores.dtype == np.float32,
        f"scores are {scores.shape} {scores.dtype}, {where}",
    )
    weights = samples(len(x), 2)[:5]
    combined = weights.astype(np.float64) @ decoded.astype(np.float64)
    reach = np.abs(weights.astype(np.float64)) @ np.linalg.norm(decoded.astype(np.float64), axis=1)
    sums = backend.combine(plan, *held, _guarded(weights))
    _require(
        sums.shape == combined.shape and sums.dtype == np.float32, f"combine gives {sums.shape} {sums.dtype}, {where}"
    )
    error = np.abs(sums - combined)
    _require(
        (error <= 1e-4 * reach[:, None] + 1e-30).all(), f"combine: off by {_worst(error, reach[:, None])}, {where}"
    )
    lengths = np.linalg.norm(decoded.astype(np.float64), axis=1) * np.linalg.norm(queries, axis=1)[:, None]
    error = np.abs(scores - expected)
    _require((error <= 1e-2 * lengths + 1e-30).all(), f"scores: off by {_worst(error, lengths)}, {where}")


def _check_encoded(
    plan: Plan, x: NDArray[np.floating], got: Encoding, expected: Encoding, exact: bool, where: str
) -> None:
    """Codes, scales and residual norms of an encode; those of an oracle only where its codes are the same."""
    packed, scales, gammas = expected
    _require((got[2] is None) == (gammas is None), f"residual norms are missing or unasked for, {where}")
    if exact:
        _same(got[0], packed, True, 0, f"codes, {where}")
        _same(got[1], scales, True, 0, f"scales, {where}")
        if gammas is not None and got[2] is not None:
            _same(got[2], gammas, True, 0, f"residual norms, {where}")
        return
    if len(plan.candidates) == 1 and isinstance(plan, ScalarPlan):
        _only_edges_differ(plan, x, got[0], packed, where)
    stage = slice(0, plan.stage_bytes)
    same = (got[0][:, stage] == packed[:, stage]).all(axis=1)
    _require(same.mean() > 0.5, f"codes differ in most rows, {where}")
    # v may round the other way in a coordinate, which moves A by a part in thousands at most
    _rows_close(got[1][same, None], scales[same, None], 1e-2, f"scales, {where}")
    if gammas is not None and got[2] is not None:
        _rows_close(got[2][same, None], gammas[same, None], 1e-2, f"residual norms, {where}")


def _only_edges_differ(
    plan: ScalarPlan, x: NDArray[np.floating], got: NDArray[np.uint8], expected: NDArray[np.uint8], where: str
) -> None:
    """Codes may differ by one where 4096 z lies within rounding of a threshold."""
    _require(got.shape == expected.shape and got.dtype == np.uint8, f"codes are {got.shape} {got.dtype}, {where}")
    bits = plan.codebook.bits
    mine = packing.unpack(got[:, : plan.stage_bytes], plan.dim, bits).astype(int)
    theirs = packing.unpack(expected[:, : plan.stage_bytes], plan.dim, bits).astype(int)
    differ = mine != theirs
    if not differ.any():
        return
    _require((np.abs(mine - theirs)[differ] == 1).all(), f"codes differ by more than one, {where}")
    scaled = np.abs(4096.0 * REFERENCE.rotate(plan.rotation, unit_rows(x, row_norms(x))).astype(np.float64))
    books = plan.codebook.books
    for place, book in enumerate(books):
        own = slice(place, None, len(books))
        edges = book.thresholds.astype(np.float64) + 0.5
        edges = edges if book.has_zero else np.concatenate([[0.0], edges])
        distance = np.abs(scaled[:, own][differ[:, own]][:, None] - edges).min(axis=1)
        _require(
            (distance < 0.05).all(), f"a code differs {distance.max(initial=0):.3g}/4096 away from an edge, {where}"
        )


def _check_sketch(backend: Backend, sketch: Sketch, exact: bool) -> None:
    where = f"dim {sketch.dim}, {sketch.projections} projections, {sketch.kind}"
    integers = np.rint(samples(sketch.dim)[:18] * 4).astype(np.int64)
    bits = REFERENCE.sketch(sketch, integers)
    got = backend.sketch(sketch, _guarded(integers))
    if exact or sketch.kind == "gaussian":
        _same(got, bits, True, 0, f"sketch, {where}")
    queries = samples(sketch.dim, 1)[:5]
    _rows_close(backend.unsketch(sketch, _guarded(bits)), REFERENCE.unsketch(sketch, bits), 1e-4, f"unsketch, {where}")
    expected = REFERENCE.sketch_scores(sketch, bits, queries)
    got_scores = backend.sketch_scores(sketch, _guarded(bits), _guarded(queries))
    _rows_close(got_scores, expected, 1e-2, f"sketch_scores, {where}")


def _check_inputs(backend: Backend, exact: bool) -> None:
    """Every input dtype: float64 rows are normalised before they are narrowed, float16 ones without rounding anew."""
    plan, strict = _plan(64, 4), _plan(64, 4, rule="plain", strict=True)
    third = samples(64)[:10].astype(np.float64) / 3  # not representable in float32
    dtypes: tuple[type[np.floating], ...] = (np.float16, np.float64)
    for dtype in dtypes:
        # float64 rows of a size that float32 would hold with few bits, or none in float16
        x: NDArray[np.floating] = np.concatenate([third, third * 1e-42]).astype(dtype)
        got = backend.encode(plan, _guarded(x))
        _check_encoded(plan, x, got, REFERENCE.encode(plan, x), exact, f"{np.dtype(dtype)} input")
        unit: NDArray[np.floating] = (third / row_norms(third)[:, None]).astype(dtype)
        got = backend.encode(strict, _guarded(unit))
        _require((got[1] == 1).all(), f"strict rows have scale 1, {np.dtype(dtype)} input")
        if exact:
            _same(got[0], REFERENCE.encode(strict, unit)[0], True, 0, f"strict codes, {np.dtype(dtype)} input")


def _check_empty(backend: Backend) -> None:
    plan, queries = _plan(64, 4), samples(64)[:10]
    packed, scales, _ = backend.encode(plan, np.empty((0, 64), np.float32))
    _require(packed.shape == (0, plan.row_bytes) and scales.shape == (0,), "an empty batch has no codes")
    _require(backend.decode(plan, packed, scales, None).shape == (0, 64), "an empty batch decodes to no rows")
    _require(backend.scores(plan, packed, scales, None, queries).shape == (10, 0), "an empty batch has no scores")
    rows = backend.encode(plan, queries)
    _require(backend.scores(plan, rows[0], rows[1], None, queries[:0]).shape == (0, 10), "no queries have no scores")


def _check_accuracies(backend: Backend, plan: Plan) -> None:
    """What integer arithmetic adds to scores, and that a search finds the best of its own scores."""
    x, queries = samples(plan.dim)[:10], samples(plan.dim, 1)[:10]
    packed, scales, gammas = REFERENCE.encode(plan, x)
    expected = REFERENCE.scores(plan, packed, scales, gammas, queries)
    noise = np.std(queries @ x.T - expected)
    where = f"dim {plan.dim}, {plan.codebook.bits} bits{', sketch' if plan.sketch else ''}"
    for accuracy, share in (("exact", 1e-4), ("int16", 0.015), ("int8", 0.2)):  # 100 scores: their deviation is rough
        got = backend.scores(plan, packed, scales, gammas, queries, accuracy=accuracy)
        added = np.std(got - expected) / noise
        _require(added <= share, f"{accuracy} scores: they add {added:.3g} of the quantization error, {where}")
        search = getattr(backend, "search", None)
        if search is None:
            continue
        mask = np.arange(len(x)) != 3
        for k, eligible in ((3, None), (3, mask), (12, mask)):
            found, rows = search(plan, packed, scales, gammas, queries, k, eligible, accuracy)
            allowed = np.where(eligible, got, -np.inf) if eligible is not None else got
            order = np.argsort(-allowed, axis=1, kind="stable")[:, : min(k, len(x) if eligible is None else len(x) - 1)]
            _require((rows[:, : order.shape[1]] == order).all(), f"{accuracy} search: rows in another order, {where}")
            _require((rows[:, order.shape[1] :] == -1).all(), f"{accuracy} search: missing rows are not -1, {where}")
            values = np.take_along_axis(got, order, axis=1)
            _require((found[:, : order.shape[1]] == values).all(), f"{accuracy} search: other scores, {where}")


def _guarded(array: NDArray[Scalar]) -> NDArray[Scalar]:
    """A read-only copy: numpy code that writes to its input fails on it, other code is found by `_untouched`."""
    copy = array.copy()
    copy.setflags(write=False)
    return copy


def _untouched(given: NDArray[np.generic], original: NDArray[np.generic], where: str) -> None:
    _require(given.tobytes() == original.tobytes(), f"{where}: the input was written to")


def _same(got: NDArray[np.generic], expected: NDArray[np.generic], exact: bool, tolerance: float, where: str) -> None:
    if not exact:
        _rows_close(got, expected, tolerance, where)
        return
    _alike(got, expected, where)
    different = int((np.ascontiguousarray(got).view(np.uint8) != expected.view(np.uint8)).sum())
    _require(not different, f"{where}: {different} bytes differ from the reference")


def _rows_close(got: NDArray[np.generic], expected: NDArray[np.generic], tolerance: float, where: str) -> None:
    _alike(got, expected, where)
    lengths = np.linalg.norm(expected.astype(np.float64), axis=-1, keepdims=True)
    error = np.abs(got.astype(np.float64) - expected.astype(np.float64))
    _require((error <= tolerance * lengths + 1e-35).all(), f"{where}: off by {_worst(error, lengths)}")


def _alike(got: NDArray[np.generic], expected: NDArray[np.generic], where: str) -> None:
    _require(
        got.shape == expected.shape and got.dtype == expected.dtype,
        f"{where}: {got.shape} {got.dtype}, expected {expected.shape} {expected.dtype}",
    )


def _worst(error: NDArray[np.float64], lengths: NDArray[np.float64]) -> str:
    return f"{(error / (lengths + 1e-35)).max():.3g}"
