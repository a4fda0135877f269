"""Decoding on a device equals that of `numpy` bit for bit, into any dtype."""

import numpy as np
import pytest
from gpu_plans import WIDTHS, same_bits, scalar_plan

from tq_core.errors import BackendUnavailable, InvalidDtype, ShapeMismatch
from tq_core.numpy_backend import NumpyBackend, _centroids
from tq_core.sketch import Sketch
from tq_core.testing import DIMS, LARGE_DIMS, samples
from tq_kernels_gpu.backend import GpuBackend
from tq_kernels_gpu.ops.decode import centroids, decode, first_stage

NUMPY = NumpyBackend()


@pytest.mark.parametrize("dim", [*DIMS, *LARGE_DIMS])
def test_every_width_and_dimension(device, dim):
    for bits in WIDTHS:
        plan = scalar_plan(dim, bits)
        packed, scales, _ = NUMPY.encode(plan, samples(dim))
        same_bits(GpuBackend(device).decode(plan, packed, scales, None), NUMPY.decode(plan, packed, scales, None))


@pytest.mark.parametrize("dim", [5, 64, 100])
def test_centroids_are_what_codes_stand_for(device, dim):
    for bits in WIDTHS:
        plan = scalar_plan(dim, bits)
        packed, _, _ = NUMPY.encode(plan, samples(dim))
        same_bits(device.to_host(centroids(device, plan, device.asarray(packed))), _centroids(plan, packed))


def test_float16_scales_and_outputs_round_as_numpys(device):
    plan = scalar_plan(128, 4)
    packed, scales, _ = NUMPY.encode(plan, samples(128)[:17])
    halves = scales.astype(np.float16)
    expected = NUMPY.decode(plan, packed, halves.astype(np.float32), None)
    out = device.xp.empty((17, 128), np.float16)
    given = device.asarray(packed), device.asarray(halves)
    assert decode(device, plan, *given, None, out=out) is out
    with np.errstate(over="ignore"):
        same_bits(device.to_host(out), expected.astype(np.float16))


def test_bfloat16_outputs_round_to_nearest_even(device):
    plan = scalar_plan(128, 4)
    packed, scales, _ = NUMPY.encode(plan, samples(128))
    exact = NUMPY.decode(plan, packed, scales, None).view(np.uint32).astype(np.uint64)
    out = device.xp.empty((24, 128), np.uint16)
    decode(device, plan, device.asarray(packed), device.asarray(scales), None, out=out)
    expected = (exact + 0x7FFF + (exact >> np.uint64(16) & np.uint64(1))) >> np.uint64(16)
    same_bits(device.to_host(out), expected.astype(np.uint16))


def test_rows_beyond_shared_memory_go_through_global_memory(shim):
    device = shim.ShimDevice(shared_limit=2048)
    for dim in (768, 1000):
        plan = scalar_plan(dim, 3)
        packed, scales, _ = NUMPY.encode(plan, samples(dim))
        same_bits(GpuBackend(device).decode(plan, packed, scales, None), NUMPY.decode(plan, packed, scales, None))


def test_a_dense_rotation_decodes_within_rounding(device):
    plan = scalar_plan(48, 4, kind="dense")
    packed, scales, _ = NUMPY.encode(plan, samples(48)[:17])
    expected = NUMPY.decode(plan, packed, scales, None)
    np.testing.assert_allclose(GpuBackend(device).decode(plan, packed, scales, None), expected, rtol=1e-4, atol=1e-5)
    given = device.asarray(packed), device.asarray(scales)
    out = device.xp.empty((17, 48), np.float16)
    assert decode(device, plan, *given, None, out=out) is out
    np.testing.assert_allclose(device.to_host(out), expected, rtol=1e-2, atol=1e-2)
    with pytest.raises(BackendUnavailable, match="float32 and float16 alone"):
        decode(device, plan, *given, None, out=device.xp.empty((17, 48), np.uint16))


def test_the_first_stage_of_a_sketched_plan(device):
    plain, sketched = scalar_plan(100, 3), scalar_plan(100, 3, sketch=Sketch(100, 100, "gaussian", 5))
    packed, scales, _ = NUMPY.encode(sketched, samples(100))
    expected = NUMPY.decode(plain, np.ascontiguousarray(packed[:, : plain.row_bytes]), scales, None)
    same_bits(device.to_host(first_stage(device, sketched, device.asarray(packed), device.asarray(scales))), expected)


def test_codes_that_no_encoder_writes_stay_inside_the_tables(device):
    for bits in (2.25, 2.5, 3.25, 3.5):
        plan = scalar_plan(100, bits)
        packed = np.full((3, plan.row_bytes), 255, np.uint8)
        got = GpuBackend(device).decode(plan, packed, np.ones(3, np.float32), None)
        assert np.isfinite(got).all()


def test_no_rows_decode_to_none(device):
    plan = scalar_plan(64, 4)
    none = np.empty((0, 32), np.uint8), np.empty(0, np.float32)
    assert GpuBackend(device).decode(plan, *none, None).shape == (0, 64)


def test_arrays_that_do_not_fit_are_refused(device):
    plan, xp = scalar_plan(64, 4), device.xp
    packed, scales = xp.zeros((3, 32), np.uint8), xp.ones(3, np.float32)
    with pytest.raises(ShapeMismatch, match=r"must be \(rows, 32\), got \(3, 31\)"):
        decode(device, plan, packed[:, :31], scales, None)
    with pytest.raises(ShapeMismatch, match=r"scales must be \(3,\)"):
        decode(device, plan, packed, scales[:2], None)
    with pytest.raises(ShapeMismatch, match=r"out must be \(3, 64\) and C-contiguous"):
        decode(device, plan, packed, scales, None, out=xp.empty((3, 128), np.float32)[:, ::2])
    with pytest.raises(InvalidDtype, match="packed rows must be one of uint8"):
        decode(device, plan, packed.astype(np.int8), scales, None)
    with pytest.raises(InvalidDtype, match="scales must be one of float32, float16"):
        decode(device, plan, packed, scales.astype(np.float64), None)
    with pytest.raises(InvalidDtype, match="out must be one of"):
        decode(device, plan, packed, scales, None, out=xp.empty((3, 64), np.float64))
