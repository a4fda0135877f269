"""Search on a device finds what sorting its own scores finds: descending, ties to the lower row, masked and padded."""

import numpy as np
import pytest
from gpu_plans import WIDTHS, scalar_plan

from tq_core.errors import ShapeMismatch
from tq_core.numpy_backend import NumpyBackend
from tq_core.sketch import Sketch
from tq_core.testing import samples
from tq_kernels_gpu.backend import GpuBackend
from tq_kernels_gpu.ops import best

NUMPY = NumpyBackend()


@pytest.fixture(scope="module")
def stored():
    """A plan and 2400 rows of it, most of them several times."""
    plan = scalar_plan(64, 4)
    packed, scales, _ = NUMPY.encode(plan, np.concatenate([samples(64, seed) for seed in range(2, 52)]))
    return plan, np.tile(packed, (2, 1)), np.tile(scales, 2), None


def _check(device, stored, queries, k, mask=None, accuracy="exact"):
    plan, *rows = stored
    backend = GpuBackend(device)
    scores = backend.scores(plan, *rows, queries, accuracy=accuracy)
    allowed = np.arange(len(rows[0])) if mask is None else np.flatnonzero(mask)
    found, indices = backend.search(plan, *rows, queries, k, mask, accuracy)
    assert found.shape == indices.shape == (len(queries), k)
    assert (found.dtype, indices.dtype) == (np.float32, np.int64)
    for query, row in enumerate(scores):
        order = allowed[np.lexsort((allowed, -row[allowed]))][:k]
        np.testing.assert_array_equal(indices[query, : len(order)], order)
        np.testing.assert_array_equal(found[query, : len(order)], row[order])
        assert (indices[query, len(order) :] == -1).all()
        assert np.isneginf(found[query, len(order) :]).all()


@pytest.mark.parametrize("k", [1, 10, 100, best.MOST_KEPT, best.MOST_KEPT + 1, 3000])
@pytest.mark.parametrize("queries", [1, 4, 6, 11])
def test_the_k_best_of_all(device, stored, k, queries):
    _check(device, stored, samples(64, 1)[:queries], k)


@pytest.mark.parametrize("k", [5, 900])
@pytest.mark.parametrize("queries", [2, 9])
def test_masked_rows_are_never_found(device, stored, k, queries):
    row = np.arange(2400)
    for mask in (row % 7 == 0, row > 2390, row < 0, row >= 0):
        _check(device, stored, samples(64, 1)[:queries], k, mask)


def test_ties_go_to_the_lower_row(device, stored):
    plan, packed, scales, _ = stored
    same = np.tile(packed[:1], (2000, 1)), np.tile(scales[:1], 2000), None
    for queries in (1, 9):
        _, indices = GpuBackend(device).search(plan, *same, samples(64, 1)[:queries], 40, None, "exact")
        np.testing.assert_array_equal(indices, np.tile(np.arange(40), (queries, 1)))


def test_zeros_of_either_sign_tie(device):
    plan = scalar_plan(64, 4)
    packed, scales, _ = NUMPY.encode(plan, samples(64))
    scales[::2] = 0  # scores of 0 and -0
    for queries in (1, 9):
        for k in (24, 800):
            _check(device, (plan, packed, scales, None), samples(64, 1)[:queries], k)
            _check(device, (plan, packed, np.zeros(24, np.float32), None), samples(64, 1)[:queries], k)


@pytest.mark.parametrize("bits", WIDTHS)
def test_every_width(device, bits):
    plan = scalar_plan(100, bits)
    rows = NUMPY.encode(plan, np.concatenate([samples(100, seed) for seed in range(2, 8)]))
    for queries in (1, 3):
        _check(device, (plan, *rows), samples(100, 1)[:queries], 7)


@pytest.mark.parametrize("kind", ["gaussian", "hadamard"])
def test_sketched_rows_with_float16_scales(device, kind):
    plan = scalar_plan(128, 3, sketch=Sketch(128, 128, kind, 5))
    packed, scales, gammas = NUMPY.encode(plan, samples(128)[:17])
    rows = packed, scales.astype(np.float16), gammas.astype(np.float16)
    for queries in (1, 9):
        _check(device, (plan, *rows), samples(128, 1)[:queries], 5)


def test_tiles_of_scores_are_merged(device, stored, monkeypatch):
    monkeypatch.setattr(best, "TILE_SCORES", 9000)
    monkeypatch.setattr(best, "TILE_QUERIES", 10)
    for k in (20, 800):
        _check(device, stored, samples(64, 1)[:13], k, np.arange(2400) % 3 > 0)


def test_no_rows_and_no_queries(device, stored):
    plan, packed, scales, _ = stored
    backend = GpuBackend(device)
    found, indices = backend.search(plan, packed[:0], scales[:0], None, samples(64, 1)[:2], 3, None, "auto")
    assert np.isneginf(found).all()
    assert (indices == -1).all()
    assert backend.search(plan, packed, scales, None, samples(64)[:0], 3, None, "auto")[0].shape == (0, 3)


def test_a_mask_that_does_not_fit_is_refused(device, stored):
    plan, packed, scales, _ = stored
    for mask in (np.ones(2399, np.bool_), np.ones(2400, np.uint8)):
        with pytest.raises(ShapeMismatch, match=r"mask must be \(2400,\) bool, got"):
            GpuBackend(device).search(plan, packed, scales, None, samples(64, 1)[:1], 3, mask, "auto")
