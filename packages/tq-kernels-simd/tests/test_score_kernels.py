"""Scores of packed rows: exact ones against float64, integer ones within their error, all levels alike."""

import copy
import functools
import hashlib
import sys

import numpy as np
import pytest
from children import OTHER_LEVELS, python, rerun
from placed import at_page_end

from tq_core import TurboQuantError, TurboQuantMSE, TurboQuantProd, VectorCodec, errors, packing
from tq_core.codebook import codebook
from tq_core.numpy_backend import NumpyBackend
from tq_core.plan import ScalarPlan
from tq_core.rotation import Rotation
from tq_core.sketch import Sketch
from tq_kernels_simd import _simd
from tq_kernels_simd.backend import SimdBackend
from tq_kernels_simd.plan import pack_plan, pack_rotation, pack_sketch

DIMS = (2, 3, 7, 8, 9, 15, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257, 384, 513, 1025)
EXACT, INT16, INT8 = 0, 1, 2


@functools.cache
def book_of(dim, bits):
    """The codebook of dimension 128 for rows of any other: solving hundreds would take longer than all tests."""
    found = copy.copy(codebook(128, bits))
    found.dim = dim
    return found


@functools.cache
def plan_of(dim, bits, kind=None):
    sketch = None if kind is None else Sketch(dim, dim, kind, 5)
    return ScalarPlan(Rotation(dim, "hadamard", 7), book_of(dim, bits), "unbiased", (1.0,), sketch, strict=False)


def packed_rows(plan, rows, seed=0):
    """Random codes of every kind, packed; scales and gammas, some zero or negative."""
    generator = np.random.default_rng(seed)
    codes = generator.integers(0, 1 << plan.codebook.bits, (rows, plan.dim)).astype(np.uint8)
    packed = packing.pack(codes, plan.codebook.bits)
    scales = generator.standard_normal(rows).astype(np.float32)
    scales[::5] = 0
    if plan.sketch is None:
        return packed, scales, None
    bits = generator.integers(0, 2, (rows, plan.sketch.projections)).astype(bool)
    signs = np.packbits(bits, axis=1, bitorder="little")
    return np.concatenate([packed, signs], axis=1), scales, abs(generator.standard_normal(rows)).astype(np.float32)


def queries_of(dim, count, seed=1):
    return np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)


def scored(plan, rows, queries, accuracy, threads=1):
    out = np.full((len(queries), len(rows[0])), np.nan, np.float32)
    _simd.scores(pack_plan(plan), *rows, queries, out, accuracy, threads)
    return out


def in_float64(plan, rows, queries):
    """Scores of rotated queries, and the lengths that their rounding is measured by."""
    packed, scales, gammas = rows
    book = plan.codebook
    centroids = book.centroids[packing.unpack(packed[:, : plan.stage_bytes], plan.dim, book.bits)].astype(float)
    scores = queries.astype(float) @ centroids.T * (scales / plan.dim)
    lengths = np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(centroids, axis=1) * abs(scales) / plan.dim
    if plan.sketch is None:
        return scores, lengths
    turned = queries.astype(float) / np.sqrt(plan.dim)
    if plan.sketch.matrix is not None:
        projected = turned @ plan.sketch.matrix.T.astype(float) / 2048
    else:
        projected = NumpyBackend().rotate(plan.sketch.rotation, turned.astype(np.float32)).astype(float)
    flags = np.unpackbits(packed[:, plan.stage_bytes :], axis=1, bitorder="little", count=plan.sketch.projections)
    weight = gammas * plan.sketch.constant
    scores += projected @ (2.0 * flags - 1).T * weight
    return scores, lengths + np.linalg.norm(projected, axis=1)[:, None] * np.sqrt(plan.sketch.projections) * weight


@pytest.mark.parametrize("bits", range(1, 9))
def test_exact_scores_are_those_of_float64(bits):
    for dim in DIMS:
        plan, queries = plan_of(dim, bits), queries_of(dim, 5)
        rows = packed_rows(plan, 23)
        expected, lengths = in_float64(plan, rows, queries)
        assert (abs(scored(plan, rows, queries, EXACT) - expected) <= 1e-6 * lengths + 1e-30).all(), dim


@pytest.mark.parametrize("kind", ["gaussian", "hadamard"])
def test_exact_scores_add_the_sketch(kind):
    for dim in (2, 9, 33, 64, 100, 129, 256):
        plan, queries = plan_of(dim, 3, kind), queries_of(dim, 5)
        rows = packed_rows(plan, 23)
        expected, lengths = in_float64(plan, rows, queries)
        # the rotation of the structured sketch is float32 arithmetic itself
        assert (abs(scored(plan, rows, queries, EXACT) - expected) <= 2e-6 * lengths + 1e-30).all(), dim


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("dim", [128, 768])
def test_integer_arithmetic_adds_what_is_promised(dim, bits):
    generator = np.random.default_rng(0)
    x = generator.standard_normal((300, dim)).astype(np.float32)
    codec = VectorCodec(TurboQuantMSE(dim, bits, backend="simd"))
    queries, encoded = queries_of(dim, 8), codec.encode(x)
    exact = codec.scores(encoded, queries)
    noise = np.std(queries @ x.T - exact)
    assert np.std(codec.scores(encoded, queries, accuracy="int16") - exact) <= 0.01 * noise
    assert np.std(codec.scores(encoded, queries, accuracy="int8") - exact) <= 0.13 * noise


@pytest.mark.parametrize("accuracy", [INT16, INT8])
def test_integer_scores_of_any_dim_stay_near_the_exact_ones(accuracy):
    """Every tail: a wrong lane would be off by a whole product, not by a rounding."""
    for dim in range(2, 140):
        for bits in range(1, 9):
            plan, queries = plan_of(dim, bits), queries_of(dim, 3)
            rows = packed_rows(plan, 6)
            expected, lengths = in_float64(plan, rows, queries)
            error = abs(scored(plan, rows, queries, accuracy) - expected)
            assert (error <= (0.03 if accuracy == INT8 else 1e-3) * lengths + 1e-30).all(), (dim, bits)


@pytest.mark.parametrize("accuracy", [EXACT, INT16, INT8])
def test_a_query_scores_alike_alone_and_in_any_batch(accuracy):
    for dim, bits, kind in ((64, 1, None), (100, 2, None), (128, 3, "gaussian"), (257, 4, None), (65, 6, "hadamard")):
        plan, queries = plan_of(dim, bits, kind), queries_of(dim, 67)
        rows = packed_rows(plan, 300)
        together = scored(plan, rows, queries, accuracy)
        for first, count in ((0, 1), (66, 1), (5, 2), (31, 3), (0, 33)):
            part = scored(plan, rows, queries[first : first + count], accuracy)
            assert (part == together[first : first + count]).all(), (dim, bits, first, count)


@pytest.mark.parametrize("accuracy", [EXACT, INT16, INT8])
def test_threads_do_not_change_scores(accuracy):
    plan, queries = plan_of(64, 3, "gaussian"), queries_of(64, 3)
    rows = packed_rows(plan, 5000)
    one = scored(plan, rows, queries, accuracy)
    assert (scored(plan, rows, queries, accuracy, threads=2) == one).all()
    assert np.isfinite(one).all()


@pytest.mark.parametrize("accuracy", [EXACT, INT16, INT8])
def test_float16_numbers_score_as_their_float32_values(accuracy):
    plan, queries = plan_of(64, 4, "gaussian"), queries_of(64, 2)
    packed, scales, gammas = packed_rows(plan, 70)
    half = (packed, scales.astype(np.float16), gammas.astype(np.float16))
    wide = (packed, half[1].astype(np.float32), half[2].astype(np.float32))
    assert (scored(plan, half, queries, accuracy) == scored(plan, wide, queries, accuracy)).all()


@pytest.mark.parametrize("accuracy", [EXACT, INT16, INT8])
def test_nothing_is_read_beyond_the_rows(accuracy):
    """Rows at every alignment that end where an unreadable page begins: a read beyond them would be a signal."""
    for dim, bits, kind in (
        (2, 1, None),
        (9, 3, None),
        (33, 4, "gaussian"),
        (100, 2, None),
        (128, 7, None),
        (129, 3, None),
    ):
        plan, queries = plan_of(dim, bits, kind), queries_of(dim, 3)
        for rows in (1, 4, 7):
            packed, scales, gammas = packed_rows(plan, rows)
            for some in (queries[:1], queries):
                found = scored(plan, (at_page_end(packed), scales, gammas), some, accuracy)
                assert (found == scored(plan, (packed, scales, gammas), some, accuracy)).all()


def test_rows_beyond_a_segment_do_not_overflow():
    """2**20 projections, all bits set, and a query of one sign: the largest sums there can be."""
    sketch = Sketch(2, 1 << 20, "gaussian", 3)
    sketch.matrix = np.full((1 << 20, 2), 2048, np.int16)
    packed = np.full((2, 1 << 17), 255, np.uint8)
    packed[1] = 0
    query, gammas = np.full((1, 2), 0.5, np.float32), np.ones(2, np.float32)
    expected = sketch.constant * (1 << 20)
    for accuracy in (EXACT, INT16, INT8):
        for count in (1, 2):
            out = np.empty((count, 2), np.float32)
            _simd.scores(pack_sketch(sketch), packed, None, gammas, np.repeat(query, count, axis=0), out, accuracy, 1)
            assert np.allclose(out, [[expected, -expected]] * count, rtol=1e-6), (accuracy, count)


@pytest.mark.parametrize("dim", [1 << 16, (1 << 16) + 8, 1 << 17])  # a whole segment, a little more, two
@pytest.mark.parametrize("bits", [3, 4, 8])
def test_levels_at_their_limits_do_not_overflow(bits, dim):
    plan = plan_of(dim, bits)
    codes = np.zeros((3, dim), np.uint8)
    codes[1] = (1 << bits) - 1
    codes[2, ::2] = (1 << bits) - 1
    rows = packing.pack(codes, bits), np.ones(3, np.float32), None
    largest = plan.codebook.centroids[-1]
    for accuracy in (EXACT, INT16, INT8):
        found = scored(plan, rows, np.ones((2, dim), np.float32), accuracy)
        assert np.allclose(found, [[-largest, largest, 0]] * 2, rtol=0.02, atol=1e-5), accuracy


def test_queries_of_zeros_and_of_huge_or_tiny_size():
    plan = plan_of(64, 4)
    rows = packed_rows(plan, 9)
    sized = queries_of(64, 1) * np.array([[0], [2.0**70], [2.0**-90]], np.float32)
    for accuracy in (EXACT, INT16, INT8):
        found = scored(plan, rows, sized, accuracy)
        assert (found[0] == 0).all()
        assert (found[1] == found[2] * np.float32(2.0**80) * np.float32(2.0**80)).all()


def test_no_rows_and_no_queries():
    plan = plan_of(64, 4)
    rows = packed_rows(plan, 5)
    for accuracy in (EXACT, INT16, INT8):
        assert scored(
            plan, tuple(None if part is None else part[:0] for part in rows), queries_of(64, 3), accuracy
        ).shape == (3, 0)
        assert scored(plan, rows, queries_of(64, 0), accuracy).shape == (0, 5)


def digest():
    """Of integer scores over widths and dims: what every level must agree on to the bit."""
    found = hashlib.sha256()
    for dim in (3, 33, 100, 128, 300, 768, 1200):
        for bits in range(1, 9):
            for kind in (None, "hadamard"):
                plan = plan_of(dim, bits, kind)
                rows = packed_rows(plan, 37)
                for accuracy in (INT16, INT8) if bits <= 5 else (INT8,):
                    for count in (1, 5):
                        found.update(scored(plan, rows, queries_of(dim, count), accuracy).tobytes())
    return found.hexdigest()


@pytest.mark.parametrize("level", OTHER_LEVELS)
def test_integer_scores_are_the_same_at_every_level(level):
    assert python(__file__, TQ_ISA=level) == digest()


@pytest.mark.parametrize("level", OTHER_LEVELS)
def test_every_other_level_passes_this_file(level):
    rerun(__file__, level)


PLAN = plan_of(64, 4, "gaussian")
GOOD = {
    "plan": pack_plan(PLAN),
    "packed": packed_rows(PLAN, 4)[0],
    "scales": np.ones(4, np.float32),
    "gammas": np.ones(4, np.float16),
    "queries": queries_of(64, 2),
    "out": np.zeros((2, 4), np.float32),
    "accuracy": 0,
    "threads": 1,
}
WITHOUT = pack_plan(plan_of(64, 4))
BAD = {
    "no plan": ("plan", object(), errors.InvalidDtype, r"plan must come from _simd.plan, got <class 'object'>"),
    "a bare rotation": (
        "plan",
        pack_rotation(PLAN.rotation),
        errors.InvalidSpec,
        "plan must have a codebook or a sketch",
    ),
    "packed of another width": (
        "packed",
        np.zeros((4, 39), np.uint8),
        errors.ShapeMismatch,
        r"packed .*\(n, 40\), got \(4, 39\)",
    ),
    "packed as int8": ("packed", np.zeros((4, 40), np.int8), errors.InvalidDtype, "packed .*formats 'B', got 'b'"),
    "packed in Fortran order": (
        "packed",
        np.zeros((40, 4), np.uint8).T,
        errors.ShapeMismatch,
        "packed must be a C-contiguous",
    ),
    "packed as a list": ("packed", [1], errors.InvalidDtype, "packed must be an array, got <class 'list'>"),
    "too few scales": ("scales", np.ones(3, np.float32), errors.ShapeMismatch, r"scales .*\(4,\), got \(3,\)"),
    "scales in float64": ("scales", np.ones(4), errors.InvalidDtype, "scales .*'fe', got 'd'"),
    "no scales": ("scales", None, errors.InvalidDtype, "scales must be an array, got <class 'NoneType'>"),
    "too many gammas": ("gammas", np.ones(5, np.float32), errors.ShapeMismatch, r"gammas .*\(4,\), got \(5,\)"),
    "no gammas": ("gammas", None, errors.InvalidDtype, "gammas must be an array"),
    "queries of another dim": (
        "queries",
        queries_of(65, 2),
        errors.ShapeMismatch,
        r"queries .*\(n, 64\), got \(2, 65\)",
    ),
    "queries in float64": ("queries", np.ones((2, 64)), errors.InvalidDtype, "queries .*'f', got 'd'"),
    "a single query": ("queries", np.ones(64, np.float32), errors.ShapeMismatch, r"queries .*\(n, 64\), got \(64,\)"),
    "out of another shape": (
        "out",
        np.zeros((4, 2), np.float32),
        errors.ShapeMismatch,
        r"out .*\(2, 4\), got \(4, 2\)",
    ),
    "an accuracy beyond": ("accuracy", 3, errors.InvalidSpec, r"accuracy must be an integer in 0\.\.2, got 3"),
    "no threads": ("threads", 0, errors.InvalidSpec, r"threads must be an integer in 1\.\.256, got 0"),
}


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_argument_is_named_and_nothing_is_written(fault):
    name, value, error, message = BAD[fault]
    arguments = {**GOOD, name: value}
    GOOD["out"][:] = 7
    with pytest.raises(error, match=message) as caught:
        _simd.scores(*arguments.values())
    assert isinstance(caught.value, TurboQuantError)
    assert (GOOD["out"] == 7).all()


def test_a_read_only_result_is_refused():
    out = np.zeros((2, 4), np.float32)
    out.setflags(write=False)
    with pytest.raises(errors.InvalidDtype, match="out must be a writable array"):
        _simd.scores(*{**GOOD, "out": out}.values())


def test_gammas_without_a_sketch_are_refused():
    packed = np.zeros((4, 32), np.uint8)
    with pytest.raises(errors.InvalidSpec, match="gammas must be None for a plan without a sketch"):
        _simd.scores(*{**GOOD, "plan": WITHOUT, "packed": packed}.values())


def test_the_number_of_arguments_is_checked():
    with pytest.raises(TypeError, match="scores takes 8 arguments, got 7"):
        _simd.scores(*list(GOOD.values())[:7])


@pytest.mark.parametrize(
    "make", [lambda: TurboQuantMSE(100, 3, rotation="dense"), lambda: TurboQuantProd(100, 3, rotation="dense")]
)
def test_a_dense_rotation_of_any_dim_scores_too(make):
    quantizer, x = make(), queries_of(100, 12)
    assert isinstance(quantizer.backend, SimdBackend)
    codes = quantizer.quantize(x / np.linalg.norm(x, axis=1, keepdims=True))
    assert np.allclose(quantizer.scores(codes, x[:3]), x[:3] @ quantizer.dequantize(codes).T, atol=1e-4)


@pytest.mark.parametrize("accuracy", ["exact", "int16", "int8"])
def test_backends_without_integer_arithmetic_are_always_exact(accuracy):
    for name in ("numpy", "scalar"):
        codec, x = VectorCodec(TurboQuantMSE(32, 4, backend=name)), queries_of(32, 6)
        encoded = codec.encode(x)
        assert (codec.scores(encoded, x, accuracy=accuracy) == codec.scores(encoded, x)).all()


def test_an_unknown_accuracy_is_refused():
    codec, x = VectorCodec(TurboQuantMSE(32, 4)), queries_of(32, 6)
    with pytest.raises(errors.InvalidSpec, match="accuracy must be one of 'exact', 'int16', 'int8', got 'auto'"):
        codec.scores(codec.encode(x), x, accuracy="auto")
    with pytest.raises(
        errors.InvalidSpec, match="accuracy must be one of 'auto', 'exact', 'int16', 'int8', got 'float'"
    ):
        codec.search(codec.encode(x), x, 1, accuracy="float")


if __name__ == "__main__":
    sys.stdout.write(digest())
