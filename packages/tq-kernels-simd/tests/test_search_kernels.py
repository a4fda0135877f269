"""Fused top-k search: what sorting all scores finds, in the written order, whatever the threads, masks and ties."""

import numpy as np
import pytest
from children import OTHER_LEVELS, rerun

from tq_core import PolarQuant, TurboQuantError, TurboQuantMSE, TurboQuantProd, VectorCodec, errors
from tq_kernels_simd import _simd
from tq_kernels_simd.backend import ACCURACIES, SimdBackend
from tq_kernels_simd.plan import pack_plan, pack_rotation

SCANS = ("exact", "int16", "int8")


def gaussian(rows, dim, seed=0):
    return np.random.default_rng(seed).standard_normal((rows, dim)).astype(np.float32)


def clustered(rows, dim, seed=0):
    """Rows around 20 centres from which they deviate as much as the centres do from each other."""
    generator = np.random.default_rng(seed)
    centres = generator.standard_normal((20, dim)).astype(np.float32)
    return centres[generator.integers(0, 20, rows)] + generator.standard_normal((rows, dim)).astype(np.float32)


def brute_force(scores, k, eligible=None):
    """(scores, indices) by sorting everything: descending, ties to the lower row, padded."""
    allowed = np.arange(scores.shape[1]) if eligible is None else np.flatnonzero(eligible)
    best = np.full((len(scores), k), -np.inf, np.float32)
    index = np.full((len(scores), k), -1)
    for query, row in enumerate(scores):
        order = allowed[np.lexsort((allowed, -row[allowed]))][:k]
        best[query, : len(order)], index[query, : len(order)] = row[order], order
    return best, index


def agree(found, expected):
    assert np.array_equal(found[1], expected[1])
    assert np.array_equal(found[0], expected[0])
    assert (found[0].dtype, found[1].dtype) == (np.float32, np.int64)


@pytest.fixture(scope="module")
def stored():
    codec = VectorCodec(TurboQuantMSE(64, 4, backend="simd"))
    return codec, codec.encode(gaussian(3000, 64)), gaussian(7, 64, seed=3)


@pytest.mark.parametrize("accuracy", SCANS)
@pytest.mark.parametrize("k", [1, 2, 10, 300, 2999, 3000, 3100])
def test_a_search_finds_the_best_of_its_own_scores(stored, k, accuracy):
    codec, encoded, queries = stored
    expected = brute_force(codec.scores(encoded, queries, accuracy=accuracy), k)
    agree(codec.search(encoded, queries, k, accuracy=accuracy), expected)
    agree(codec.search(encoded, queries[:1], k, accuracy=accuracy), (expected[0][:1], expected[1][:1]))


MASKS = {
    "all": np.ones(3000, bool),
    "none": np.zeros(3000, bool),
    "some": np.arange(3000) % 7 == 3,
    "the last": np.arange(3000) == 2999,
    "a stretch": (np.arange(3000) > 700) & (np.arange(3000) < 709),
}


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("accuracy", [*SCANS, "auto"])
def test_masked_rows_are_never_found(stored, name, accuracy):
    codec, encoded, queries = stored
    scores = codec.scores(encoded, queries, accuracy="exact" if accuracy == "auto" else accuracy)
    agree(codec.search(encoded, queries, 5, MASKS[name], accuracy=accuracy), brute_force(scores, 5, MASKS[name]))


@pytest.mark.parametrize("accuracy", [*SCANS, "auto"])
def test_ties_go_to_the_lower_row(accuracy):
    codec = VectorCodec(TurboQuantMSE(64, 4, backend="simd"))
    encoded = codec.encode(np.tile(gaussian(3, 64), (700, 1)))  # every third row is the same one
    queries = gaussian(5, 64, seed=3)
    for k in (1, 5, 40, 699, 701):
        scores, rows = codec.search(encoded, queries, k, accuracy=accuracy)
        inner = codec.scores(encoded, queries, accuracy="exact" if accuracy == "auto" else accuracy)
        agree((scores, rows), brute_force(inner, k))


def test_negative_zero_ties_with_zero():
    codec = VectorCodec(TurboQuantMSE(64, 4, backend="simd"), norm_dtype="float32")
    arrays = dict(codec.encode(gaussian(200, 64)).arrays)
    arrays["scales"] = np.where(np.arange(200) % 2, np.float32(-0.0), np.float32(0.0))
    encoded, queries = codec.wrap(arrays), gaussian(3, 64, seed=3)
    assert (np.signbit(codec.scores(encoded, queries)).any(axis=1)).all()
    for accuracy in (*SCANS, "auto"):
        assert (codec.search(encoded, queries, 150, accuracy=accuracy)[1] == np.arange(150)).all()


@pytest.mark.parametrize("accuracy", [*SCANS, "auto"])
def test_infinite_scores_have_a_place(accuracy):
    codec = VectorCodec(TurboQuantMSE(64, 4, backend="simd"), norm_dtype="float32")
    arrays = dict(codec.encode(gaussian(300, 64)).arrays)
    arrays["scales"] = arrays["scales"].copy()
    arrays["scales"][[5, 250]] = np.inf
    arrays["scales"][[9, 260]] = -np.inf
    encoded, queries = codec.wrap(arrays), gaussian(4, 64, seed=3)
    scores = codec.scores(encoded, queries, accuracy="exact" if accuracy == "auto" else accuracy)
    assert (np.isinf(scores).sum(axis=1) == 4).all()
    for k in (1, 5, 300):
        agree(codec.search(encoded, queries, k, accuracy=accuracy), brute_force(scores, k))


def test_searching_nothing_finds_nothing(stored):
    codec, encoded, queries = stored
    for accuracy in (*SCANS, "auto"):
        scores, rows = codec.search(encoded[:0], queries, 3, accuracy=accuracy)
        assert np.isneginf(scores).all()
        assert (rows == -1).all()
        assert codec.search(encoded, queries[:0], 3, accuracy=accuracy)[1].shape == (0, 3)


@pytest.mark.parametrize("accuracy", [*SCANS, "auto"])
@pytest.mark.parametrize("bits", [3, 4])
def test_threads_do_not_change_what_is_found(bits, accuracy):
    quantizer = TurboQuantProd(64, bits, sketch="hadamard", backend="simd")
    plan, x, queries = quantizer.plan, clustered(8000, 64), clustered(40, 64, seed=1)
    packed, scales, gammas = SimdBackend().encode(plan, x)
    mask = np.arange(8000) % 5 != 0
    for k in (1, 17, 500):
        one = SimdBackend(1).search(plan, packed, scales, gammas, queries, k, mask, accuracy)
        two = SimdBackend(2).search(plan, packed, scales, gammas, queries, k, mask, accuracy)
        seven = SimdBackend(7).search(plan, packed, scales, gammas, queries, k, mask, accuracy)
        agree(two, one)
        agree(seven, one)


@pytest.mark.parametrize("sketch", ["gaussian", "hadamard"])
def test_prod_codes_are_searched_with_their_sketch(sketch):
    codec = VectorCodec(TurboQuantProd(100, 3, sketch=sketch, backend="simd"))
    encoded, queries = codec.encode(gaussian(500, 100)), gaussian(5, 100, seed=3)
    for accuracy in SCANS:
        expected = brute_force(codec.scores(encoded, queries, accuracy=accuracy), 20)
        agree(codec.search(encoded, queries, 20, accuracy=accuracy), expected)
    agree(codec.search(encoded, queries, 20), brute_force(codec.scores(encoded, queries), 20))


@pytest.mark.parametrize("make", [gaussian, clustered])
@pytest.mark.parametrize("dim", [128, 768])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_auto_finds_what_an_exact_search_finds(make, dim, bits):
    """The margin of 4k rows is far wider than what int8 moves: of 10 rows for 40 queries, none is lost here."""
    codec = VectorCodec(TurboQuantMSE(dim, bits, backend="simd"))
    encoded, queries = codec.encode(make(3000, dim)), make(40, dim, seed=1)
    agree(codec.search(encoded, queries, 10), codec.search(encoded, queries, 10, accuracy="exact"))


def test_auto_can_miss_only_rows_that_int8_puts_below_its_margin(stored):
    codec, encoded, queries = stored
    int8, exact = codec.scores(encoded, queries, accuracy="int8"), codec.scores(encoded, queries)
    for k in (1, 10, 50):
        kept = brute_force(int8, max(4 * k, k + 32))[1]
        expected = [row[np.lexsort((row, -exact[q, row]))][:k] for q, row in enumerate(kept)]
        assert (codec.search(encoded, queries, k)[1] == expected).all()


def test_polar_codes_and_other_backends_search_exactly():
    x, queries = gaussian(300, 64), gaussian(4, 64, seed=3)
    for codec in (VectorCodec(PolarQuant(64, 4)), VectorCodec(TurboQuantMSE(64, 4, backend="numpy"))):
        encoded = codec.encode(x)
        for accuracy in (*SCANS, "auto"):
            found = codec.search(encoded, queries, 5, accuracy=accuracy)
            assert (found[1] == brute_force(codec.scores(encoded, queries), 5)[1]).all()


@pytest.mark.parametrize("level", OTHER_LEVELS)
def test_every_other_level_passes_this_file(level):
    rerun(__file__, level)


PLAN = TurboQuantMSE(64, 4).plan
GOOD = {
    "plan": pack_plan(PLAN),
    "packed": np.zeros((6, 32), np.uint8),
    "scales": np.ones(6, np.float16),
    "gammas": None,
    "queries": gaussian(2, 64),
    "mask": np.ones(6, bool),
    "k": 3,
    "accuracy": ACCURACIES["auto"],
    "out_scores": np.zeros((2, 3), np.float32),
    "out_indices": np.zeros((2, 3), np.int64),
    "threads": 1,
}
BAD = {
    "a bare rotation": (
        "plan",
        pack_rotation(PLAN.rotation),
        errors.InvalidSpec,
        "plan must have a codebook or a sketch",
    ),
    "packed of another width": (
        "packed",
        np.zeros((6, 31), np.uint8),
        errors.ShapeMismatch,
        r"packed .*\(n, 32\)",
    ),
    "too few scales": ("scales", np.ones(5, np.float32), errors.ShapeMismatch, r"scales .*\(6,\), got \(5,\)"),
    "gammas unasked for": ("gammas", np.ones(6, np.float32), errors.InvalidSpec, "gammas must be None"),
    "queries of another dim": ("queries", gaussian(2, 63), errors.ShapeMismatch, r"queries .*\(n, 64\), got \(2, 63\)"),
    "a short mask": ("mask", np.ones(5, bool), errors.ShapeMismatch, r"mask .*\(6,\), got \(5,\)"),
    "a mask of bytes": ("mask", np.ones(6, np.uint8), errors.InvalidDtype, r"mask .*formats '\?', got 'B'"),
    "no k": ("k", 0, errors.InvalidSpec, "k must be an integer in 1..2147483648, got 0"),
    "an accuracy beyond": ("accuracy", 4, errors.InvalidSpec, r"accuracy must be an integer in 0\.\.3, got 4"),
    "scores of another k": (
        "out_scores",
        np.zeros((2, 4), np.float32),
        errors.ShapeMismatch,
        r"out_scores .*\(2, 3\)",
    ),
    "indices in int32": ("out_indices", np.zeros((2, 3), np.int32), errors.InvalidDtype, "out_indices .*'q', got 'i'"),
    "too many threads": ("threads", 257, errors.InvalidSpec, r"threads must be an integer in 1\.\.256, got 257"),
}


def test_the_good_arguments_are_good():
    _simd.search(*GOOD.values())
    assert (GOOD["out_indices"] == [[0, 1, 2], [0, 1, 2]]).all()


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_argument_is_named_and_nothing_is_written(fault):
    name, value, error, message = BAD[fault]
    GOOD["out_scores"][:] = GOOD["out_indices"][:] = 7
    with pytest.raises(error, match=message) as caught:
        _simd.search(*{**GOOD, name: value}.values())
    assert isinstance(caught.value, TurboQuantError)
    assert (GOOD["out_scores"] == 7).all()
    assert (GOOD["out_indices"] == 7).all()
