"""Scores on a device, in one pass for a few queries or by tiles for many, against float64 products of decoded rows."""

import numpy as np
import pytest
from gpu_plans import WIDTHS, scalar_plan

from tq_core.errors import InvalidDtype, ShapeMismatch
from tq_core.numpy_backend import NumpyBackend
from tq_core.sketch import Sketch
from tq_core.testing import DIMS, LARGE_DIMS, samples
from tq_kernels_gpu.backend import GpuBackend
from tq_kernels_gpu.ops.scan import FEW, lanes_of
from tq_kernels_gpu.ops.scores import scores

NUMPY = NumpyBackend()
QUERIES = (1, 3, FEW, FEW + 1)  # one pass for one, for four, for twice four, and tiles


def errors(got, queries, rows):
    """Of scores, relative to the lengths of query and row."""
    exact = queries.astype(np.float64) @ rows.astype(np.float64).T
    lengths = (
        np.linalg.norm(rows.astype(np.float64), axis=1) * np.linalg.norm(queries.astype(np.float64), axis=1)[:, None]
    )
    assert got.shape == exact.shape
    assert got.dtype == np.float32
    return np.abs(got - exact) / (lengths + 1e-30)


def _check(device, plan, counts=QUERIES):
    packed, scales, gammas = NUMPY.encode(plan, samples(plan.dim))
    decoded = NUMPY.decode(plan, packed, scales, gammas)
    for count in counts:
        queries = samples(plan.dim, 1)[:count]
        assert errors(GpuBackend(device).scores(plan, packed, scales, gammas, queries), queries, decoded).max() < 3e-6


@pytest.mark.parametrize("dim", [*DIMS, *LARGE_DIMS])
def test_every_width_and_dimension(device, dim):
    for bits in WIDTHS:
        _check(device, scalar_plan(dim, bits), counts=(1, FEW + 1))


@pytest.mark.parametrize("bits", WIDTHS)
def test_any_number_of_queries(device, bits):
    for dim in (32, 100, 128):
        _check(device, scalar_plan(dim, bits))


@pytest.mark.parametrize("kind", ["gaussian", "hadamard"])
@pytest.mark.parametrize("dim", [8, 64, 100, 128])
def test_sketches_add_their_part(device, dim, kind):
    for bits in (1, 2, 3, 7):
        _check(device, scalar_plan(dim, bits, sketch=Sketch(dim, dim, kind, 5)))


def test_more_queries_than_a_grid_takes_are_several_launches(device, monkeypatch):
    plan = scalar_plan(64, 3, sketch=Sketch(64, 64, "hadamard", 5))
    rows, queries = NUMPY.encode(plan, samples(64)), np.concatenate([samples(64, seed) for seed in range(1, 7)])[:130]
    at_once = GpuBackend(device).scores(plan, *rows, queries)
    monkeypatch.setattr("tq_kernels_gpu.ops.scores.MOST_ACROSS", 1)
    np.testing.assert_array_equal(GpuBackend(device).scores(plan, *rows, queries), at_once)


def test_a_query_scores_the_same_in_whatever_company(device):
    plan = scalar_plan(128, 3, sketch=Sketch(128, 128, "hadamard", 5))
    rows, queries = NUMPY.encode(plan, samples(128)), samples(128, 1)[:FEW]
    together = GpuBackend(device).scores(plan, *rows, queries)
    for query in range(FEW):
        alone = GpuBackend(device).scores(plan, *rows, queries[query : query + 1])
        np.testing.assert_array_equal(alone[0], together[query])


def test_rows_that_are_not_aligned_score_the_same(device):
    # a sketch of 40 bits makes rows of 69 bytes
    plan, aligned = scalar_plan(128, 4, sketch=Sketch(128, 40, "gaussian", 5)), scalar_plan(128, 4)
    queries = samples(128, 1)[:3]
    packed, scales, gammas = NUMPY.encode(plan, samples(128))
    first = np.ascontiguousarray(packed[:, :64])
    backend = GpuBackend(device)
    bits = np.ascontiguousarray(packed[:, 64:])
    sketch_part = backend.sketch_scores(plan.sketch, bits, NUMPY.rotate(plan.rotation, queries)) * gammas
    got = backend.scores(plan, packed, scales, gammas, queries) - sketch_part / np.float32(np.sqrt(128))
    expected = backend.scores(aligned, first, scales, None, queries)
    lengths = np.abs(expected) + scales * np.linalg.norm(queries, axis=1)[:, None]
    assert (np.abs(got - expected) <= 1e-6 * lengths).all()


def test_more_rows_than_blocks_take_at_once(device):
    plan, x = scalar_plan(64, 4), np.tile(samples(64), (300, 1))
    packed, scales, _ = NUMPY.encode(plan, x[:24])
    many = np.tile(packed, (300, 1)), np.tile(scales, 300)
    for count in (1, 2, FEW + 1):
        queries = samples(64, 1)[:count]
        got = GpuBackend(device).scores(plan, *many, None, queries)
        np.testing.assert_array_equal(got, np.tile(GpuBackend(device).scores(plan, packed, scales, None, queries), 300))


def test_queries_beyond_shared_memory_go_by_tiles(shim):
    plan = scalar_plan(1000, 3)
    _check(shim.ShimDevice(shared_limit=12 * 1024), plan, counts=(1, 4))


def test_float16_scales(device):
    plan, queries = scalar_plan(128, 4), samples(128, 1)[:3]
    packed, scales, _ = NUMPY.encode(plan, samples(128)[:17])
    halves = scales.astype(np.float16)
    given = device.asarray(packed), device.asarray(halves), None
    got = device.to_host(scores(device, plan, *given, device.asarray(queries)))
    expected = GpuBackend(device).scores(plan, packed, halves.astype(np.float32), None, queries)
    np.testing.assert_array_equal(got, expected)


def test_none_of_either(device):
    plan, backend = scalar_plan(64, 4), GpuBackend(device)
    packed, scales, _ = NUMPY.encode(plan, samples(64))
    queries = samples(64, 1)
    assert backend.scores(plan, packed[:0], scales[:0], None, queries).shape == (24, 0)
    assert backend.scores(plan, packed, scales, None, queries[:0]).shape == (0, 24)


@pytest.mark.parametrize(
    ("dim", "lanes"), [(2, 1), (32, 1), (64, 2), (96, 1), (128, 4), (200, 8), (1536, 16), (4096, 32)]
)
def test_lanes_share_rows_without_many_idle(dim, lanes):
    assert lanes_of(dim) == lanes


def test_arrays_that_do_not_fit_are_refused(device):
    plan, xp = scalar_plan(64, 4), device.xp
    packed, scales, queries = xp.zeros((3, 32), np.uint8), xp.ones(3, np.float32), xp.ones((2, 64), np.float32)
    with pytest.raises(ShapeMismatch, match=r"packed rows must be \(rows, 32\), got \(3, 31\)"):
        scores(device, plan, packed[:, :31], scales, None, queries)
    with pytest.raises(ShapeMismatch, match=r"scales must be \(3,\)"):
        scores(device, plan, packed, scales[:2], None, queries)
    with pytest.raises(ShapeMismatch, match=r"queries must be \(queries, 64\), got \(2, 63\)"):
        scores(device, plan, packed, scales, None, queries[:, :63])
    with pytest.raises(InvalidDtype, match="queries must be one of float32"):
        scores(device, plan, packed, scales, None, queries.astype(np.float64))
    with pytest.raises(InvalidDtype, match="scales must be one of float32, float16"):
        scores(device, plan, packed, scales.astype(np.float64), None, queries)
