"""Weighted sums on a device against float64 sums of decoded rows."""

import numpy as np
import pytest
from gpu_plans import WIDTHS, scalar_plan

from tq_core.errors import InvalidDtype, ShapeMismatch
from tq_core.numpy_backend import NumpyBackend
from tq_core.sketch import Sketch
from tq_core.testing import DIMS, LARGE_DIMS, samples
from tq_kernels_gpu.backend import GpuBackend
from tq_kernels_gpu.ops.combine import combine

NUMPY = NumpyBackend()


def _check(device, plan, counts, times=1):
    packed, scales, gammas = NUMPY.encode(plan, samples(plan.dim))
    decoded = np.tile(NUMPY.decode(plan, packed, scales, gammas).astype(np.float64), (times, 1))
    rows = np.tile(packed, (times, 1)), np.tile(scales, times), None if gammas is None else np.tile(gammas, times)
    for count in counts:
        weights = samples(len(decoded), 2)[:count]
        reach = np.abs(weights.astype(np.float64)) @ np.linalg.norm(decoded, axis=1)
        got = GpuBackend(device).combine(plan, *rows, weights)
        assert got.shape == (count, plan.dim)
        assert got.dtype == np.float32
        assert (np.abs(got - weights.astype(np.float64) @ decoded) <= 3e-6 * reach[:, None] + 1e-30).all()


@pytest.mark.parametrize("dim", [*DIMS, *LARGE_DIMS])
def test_every_width_and_dimension(device, dim):
    for bits in WIDTHS:
        _check(device, scalar_plan(dim, bits), (1, 9))


@pytest.mark.parametrize("kind", ["gaussian", "hadamard"])
def test_sketches_add_their_part(device, kind):
    for dim in (8, 64, 100, 128):
        _check(device, scalar_plan(dim, 3, sketch=Sketch(dim, dim, kind, 5)), (1, 5))


@pytest.mark.parametrize("bits", [4, 2.25])
def test_blocks_share_many_rows(device, bits):
    _check(device, scalar_plan(64, bits), (1, 2, 17), times=40)


def test_more_sums_than_a_grid_takes_are_several_launches(device, monkeypatch):
    monkeypatch.setattr("tq_kernels_gpu.ops.combine.MOST_ACROSS", 1)
    for plan in (scalar_plan(64, 4), scalar_plan(64, 3, sketch=Sketch(64, 64, "hadamard", 5))):
        _check(device, plan, (8, 9, 17))


def test_sums_of_no_rows_are_zero_and_no_sums_are_none(device):
    plan, backend = scalar_plan(64, 4), GpuBackend(device)
    packed, scales, _ = NUMPY.encode(plan, samples(64))
    sums = backend.combine(plan, packed[:0], scales[:0], None, np.empty((3, 0), np.float32))
    np.testing.assert_array_equal(sums, np.zeros((3, 64), np.float32))
    assert backend.combine(plan, packed, scales, None, np.empty((0, 24), np.float32)).shape == (0, 64)


def test_weights_that_do_not_fit_are_refused(device):
    plan, xp = scalar_plan(64, 4), device.xp
    packed, scales = xp.zeros((3, 32), np.uint8), xp.ones(3, np.float32)
    with pytest.raises(ShapeMismatch, match=r"weights must be \(sums, 3\), got \(2, 4\)"):
        combine(device, plan, packed, scales, None, xp.ones((2, 4), np.float32))
    with pytest.raises(InvalidDtype, match="weights must be one of float32"):
        combine(device, plan, packed, scales, None, xp.ones((2, 3)))
