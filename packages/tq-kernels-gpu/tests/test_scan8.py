"""Scores in 8 bits: the integers that they say, an error as small as stated, and searches that score anew."""

import numpy as np
import pytest
from gpu_plans import scalar_plan

from tq_core.numpy_backend import NumpyBackend, _centroids
from tq_core.sketch import Sketch
from tq_core.testing import samples
from tq_kernels_gpu.backend import GpuBackend
from tq_kernels_gpu.ops.parts import stage_part
from tq_kernels_gpu.ops.scan8 import MOST, can_scan8, queries8
from tq_kernels_gpu.ops.scores import EIGHT_BITS, ONE_PASS, asked_scores

NUMPY = NumpyBackend()
NORMAL = slice(0, 10)  # the Gaussian ones of the samples


def _rows(plan, seeds=20):
    x = np.concatenate([samples(plan.dim, seed)[NORMAL] for seed in range(2, 2 + seeds)])
    return x, NUMPY.encode(plan, x)


def _sketched(dim, bits):
    return scalar_plan(dim, bits, sketch=Sketch(dim, dim, "hadamard", 5))


PLANS = [scalar_plan(dim, bits) for dim in (32, 96, 128, 256, 1536) for bits in (1, 2, 3, 4)]
PLANS += [_sketched(dim, bits) for dim in (64, 128) for bits in (1, 2, 3, 4)]
NAMES = [f"{p.dim}-{p.codebook.bits}{'-sketch' if p.sketch else ''}" for p in PLANS]


def test_no_queries_have_no_scores(device):
    for plan in (scalar_plan(64, 4), _sketched(64, 2)):
        rows, queries = NUMPY.encode(plan, samples(64)), np.empty((0, 64), np.float32)
        assert GpuBackend(device).scores(plan, *rows, queries, accuracy="int8").shape == (0, len(samples(64)))


@pytest.mark.parametrize("plan", PLANS, ids=NAMES)
def test_what_they_add_is_little_beside_the_quantization_error(device, plan):
    x, rows = _rows(plan)
    queries = samples(plan.dim, 1)[:MOST]
    exact = NUMPY.scores(plan, *rows, queries)
    got = GpuBackend(device).scores(plan, *rows, queries, accuracy="int8")
    assert 0 < np.std(got - exact) <= 0.13 * np.std(queries @ x.T - exact)


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize("dim", [32, 128, 1536])
def test_scores_are_products_of_the_rounded_query_and_codebook(device, dim, bits):
    plan = scalar_plan(dim, bits)
    _, (packed, scales, _) = _rows(plan, seeds=2)
    query = samples(dim, 1)[:1]
    rotated = NUMPY.rotate(plan.rotation, query).astype(np.float64)
    step = np.abs(rotated).max() / 127
    largest = float(plan.codebook.centroids[-1])
    centroids = _centroids(plan, packed).astype(np.float64)
    levels = centroids if bits == 1 else np.rint(centroids / largest * 127) * (largest / 127)
    expected = (np.rint(rotated / step) * step @ levels.T) * scales / dim
    got = GpuBackend(device).scores(plan, packed, scales, None, query, accuracy="int8")
    lengths = scales * np.linalg.norm(query)
    assert (np.abs(got - expected) <= 1e-5 * lengths).all()


# the coordinates of the words of a span, by width: the order in which codes leave their words
ORDERS = {
    1: [w + 8 * b for w in range(8) for b in range(4)],
    2: [16 * half + odd + 8 * w + 2 * b for half in (0, 1) for odd in (0, 1) for w in (0, 1) for b in range(4)],
    3: [i + 8 * w + first + other for i in range(4) for w in (0, 1) for first in (0, 4) for other in (0, 16)],
    4: list(range(32)),
}


@pytest.mark.parametrize("bits", ORDERS)
def test_queries_in_int8_fill_their_words_in_the_order_of_the_codes(device, bits):
    plan, packed = scalar_plan(64, bits), device.xp.zeros((1, 8 * bits), np.uint8)
    part = stage_part(device, plan, packed, device.xp.ones(1, np.float32))
    query = np.arange(64, dtype=np.float32)[None] * 127 / 63
    made = queries8(device, part, device.asarray(query))
    levels = device.to_host(made.words).view(np.int8)[0]
    expected = np.rint(np.arange(64) * 127 / 63)
    np.testing.assert_array_equal(levels, expected[ORDERS[bits] + [32 + i for i in ORDERS[bits]]])
    assert device.to_host(made.sums)[0] == expected.sum()
    assert device.to_host(made.steps)[0] == np.float32(1)


def test_a_query_of_zeros_scores_zero(device):
    for plan in (scalar_plan(64, 4), scalar_plan(64, 1), _sketched(64, 2)):
        _, rows = _rows(plan, seeds=1)
        got = GpuBackend(device).scores(plan, *rows, np.zeros((1, 64), np.float32), accuracy="int8")
        np.testing.assert_array_equal(got, np.zeros((1, 10), np.float32))


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_rows_that_are_not_aligned_score_the_same(device, bits):
    # a sketch of 32 bits makes rows of 4 bytes more than a multiple of 8 or 16
    plan = scalar_plan(128, bits, sketch=Sketch(128, 32, "gaussian", 5))
    _, (packed, scales, gammas) = _rows(plan, seeds=2)
    query, backend = samples(128, 1)[:1], GpuBackend(device)
    without = np.zeros_like(gammas)
    stage = np.ascontiguousarray(packed[:, : plan.stage_bytes])
    expected = backend.scores(scalar_plan(128, bits), stage, scales, None, query, accuracy="int8")
    np.testing.assert_array_equal(backend.scores(plan, packed, scales, without, query, accuracy="int8"), expected)


@pytest.mark.parametrize("plan", [scalar_plan(128, 4), _sketched(64, 3)], ids=["128-4", "64-3-sketch"])
@pytest.mark.parametrize("k", [1, 10, 50])
@pytest.mark.parametrize("masked", [False, True])
def test_a_search_scores_its_candidates_exactly(device, plan, k, masked):
    x, rows = _rows(plan, seeds=30)
    backend, queries = GpuBackend(device), samples(plan.dim, 1)[:MOST]
    mask = np.arange(len(x)) % 3 > 0 if masked else None
    exact = backend.search(plan, *rows, queries, k, mask, "exact")
    found = backend.search(plan, *rows, queries, k, mask, "auto")
    np.testing.assert_array_equal(found[1], exact[1])
    np.testing.assert_array_equal(found[0], exact[0])


def test_a_search_with_fewer_eligible_rows_than_it_keeps_is_padded(device):
    plan = scalar_plan(128, 4)
    x, rows = _rows(plan, seeds=30)
    mask = np.arange(len(x)) == 7
    found, indices = GpuBackend(device).search(plan, *rows, samples(128, 1)[:1], 3, mask, "auto")
    np.testing.assert_array_equal(indices, [[7, -1, -1]])
    assert np.isneginf(found[0, 1:]).all()
    assert np.isfinite(found[0, 0])


@pytest.mark.parametrize("k", [9, 900])
def test_a_search_at_this_accuracy_returns_its_own_scores(device, k):
    plan = scalar_plan(128, 4)
    _, rows = _rows(plan, seeds=100)
    backend, queries = GpuBackend(device), samples(128, 1)[:MOST]
    scores = backend.scores(plan, *rows, queries, accuracy="int8")
    found, indices = backend.search(plan, *rows, queries, k, None, "int8")
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(indices, order)
    np.testing.assert_array_equal(found, np.take_along_axis(scores, order, axis=1))


def test_other_widths_dimensions_and_numbers_of_queries_stay_exact(device):
    for plan, count in ((scalar_plan(128, 5), 1), (scalar_plan(100, 4), 1), (scalar_plan(128, 4), MOST + 1)):
        _, rows = _rows(plan, seeds=1)
        held = [None if array is None else device.asarray(array) for array in rows]
        queries = device.asarray(samples(plan.dim, 1)[:count])
        assert asked_scores(device, plan, *held, queries, "int8").path == ONE_PASS
    plan, queries = scalar_plan(128, 4), device.asarray(samples(128, 1)[:1])
    held = [None if array is None else device.asarray(array) for array in _rows(plan, seeds=1)[1]]
    assert asked_scores(device, plan, *held, queries, "int8").path == EIGHT_BITS
    assert asked_scores(device, plan, *held, queries, "int16").path == ONE_PASS
    stage = stage_part(device, plan, *held[:2])
    assert not can_scan8(device, stage, None, 1, capacity=1 << 20)
