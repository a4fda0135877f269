"""Encoding on a device equals that of `numpy` bit for bit: codes, scales, residuals of sketches."""

import numpy as np
import pytest
from gpu_plans import WIDTHS, same_bits, scalar_plan

from tq_core.errors import InvalidDtype, ShapeMismatch
from tq_core.norms import row_norms, unit_rows
from tq_core.numpy_backend import NumpyBackend
from tq_core.plan import RULES
from tq_core.radix import RADICES
from tq_core.sketch import Sketch
from tq_core.testing import DIMS, LARGE_DIMS, samples
from tq_kernels_gpu.backend import GpuBackend
from tq_kernels_gpu.ops.encode import encode, first_stage
from tq_kernels_gpu.ops.normalize import normalize

NUMPY = NumpyBackend()


def _check(device, plan, x):
    packed, scales, _ = NUMPY.encode(plan, x)
    got = GpuBackend(device).encode(plan, x)
    same_bits(got[0], packed)
    same_bits(got[1], scales)
    assert got[2] is None


@pytest.mark.parametrize("dim", [*DIMS, *LARGE_DIMS])
def test_every_width_and_dimension(device, dim):
    for bits in WIDTHS:
        _check(device, scalar_plan(dim, bits), samples(dim))


@pytest.mark.parametrize("rule", RULES)
def test_every_scale_rule(device, rule):
    for dim in (8, 100, 128):
        for bits in (1, 4, 2.25):
            _check(device, scalar_plan(dim, bits, rule=rule), samples(dim))


@pytest.mark.parametrize("search", [3, 9, 13])
@pytest.mark.parametrize("dim", [64, 100, 768])
def test_scale_search_picks_the_same_winner(device, dim, search):
    for bits in (2, 3, 4, 8, *RADICES):
        _check(device, scalar_plan(dim, bits, rule="norm", search=search), samples(dim))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_norms_are_taken_before_rows_are_narrowed(device, dtype):
    third = samples(64)[:10].astype(np.float64) / 3
    large = 1e3 if dtype is np.float16 else 1e30
    _check(device, scalar_plan(64, 4), np.concatenate([third, third * 1e-42, third * large]).astype(dtype))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_strict_rows_are_taken_as_they_are(device, dtype):
    x = samples(64)[:10].astype(np.float64)
    unit = (x / row_norms(x)[:, None]).astype(dtype)
    _check(device, scalar_plan(64, 4, rule="plain", strict=True), unit)


def test_bfloat16_is_read_from_its_bits(device):
    bits = (samples(128)[:17].view(np.uint32) >> 16).astype(np.uint16)
    values = (bits.astype(np.uint32) << 16).view(np.float32)
    plan = scalar_plan(128, 4)
    expected = NUMPY.encode(plan, values)
    got = GpuBackend(device).encode(plan, bits)
    same_bits(got[0], expected[0])
    same_bits(got[1], expected[1])


def test_every_float16_is_read_as_numpy_reads_it(device):
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    halves = np.where(np.isfinite(halves), halves, np.float16(0)).reshape(-1, 64)
    units, norms = normalize(device, device.asarray(halves), strict=True)
    same_bits(device.to_host(units), halves.astype(np.float32))
    assert (device.to_host(norms) == 1).all()


def test_norms_and_unit_rows(device):
    for dim in (2, 3, 31, 33, 64, 100, 129, 1536):
        x = samples(dim)
        units, norms = normalize(device, device.asarray(x))
        expected = row_norms(x)
        same_bits(device.to_host(norms), expected)
        same_bits(device.to_host(units), unit_rows(x, expected))


def test_rows_beyond_shared_memory_go_through_global_memory(shim):
    device = shim.ShimDevice(shared_limit=2048)
    for dim in (768, 1000):
        _check(device, scalar_plan(dim, 4, search=3), samples(dim))


@pytest.mark.parametrize(("bits", "rule", "search"), [(3, "unbiased", 0), (2, "mse", 9), (7, "plain", 0)])
@pytest.mark.parametrize("dim", [64, 100])
def test_the_first_stage_of_a_sketched_plan(device, dim, bits, rule, search):
    sketch = Sketch(dim, dim, "hadamard", 5)
    plan, x = scalar_plan(dim, bits, rule=rule, search=search, sketch=sketch), samples(dim)
    packed, scales, gammas = NUMPY.encode(plan, x)
    stage = first_stage(device, plan, device.asarray(x))
    same_bits(device.to_host(stage.packed)[:, : plan.stage_bytes], packed[:, : plan.stage_bytes])
    same_bits(device.to_host(stage.scales), scales)
    same_bits(device.to_host(stage.gammas), gammas)
    bits_of_residuals = NUMPY.sketch(sketch, device.to_host(stage.residuals).astype(np.int64))
    same_bits(bits_of_residuals, np.ascontiguousarray(packed[:, plan.stage_bytes :]))


def test_a_dense_rotation_gives_numpys_codes_but_at_edges(device):
    plan, x = scalar_plan(48, 4, kind="dense"), samples(48)[:17]
    expected, got = NUMPY.encode(plan, x), GpuBackend(device).encode(plan, x)
    assert (got[0] != expected[0]).mean() < 0.01
    np.testing.assert_allclose(got[1], expected[1], rtol=1e-3)


def test_many_rows_none_and_rows_with_strides(device):
    plan, x = scalar_plan(64, 4), np.tile(samples(64), (50, 1))
    _check(device, plan, x)
    assert GpuBackend(device).encode(plan, x[:0])[0].shape == (0, 32)
    wide = device.asarray(samples(128))
    packed, _, _ = encode(device, plan, wide[::2, 32:96])
    same_bits(device.to_host(packed), NUMPY.encode(plan, samples(128)[::2, 32:96])[0])


def test_what_cannot_be_encoded_is_refused(device):
    plan = scalar_plan(64, 4)
    with pytest.raises(ShapeMismatch, match=r"must be \(rows, 64\), got \(3, 65\)"):
        encode(device, plan, device.xp.zeros((3, 65), np.float32))
    with pytest.raises(InvalidDtype, match=r"must be one of float32, .*got int32"):
        encode(device, plan, device.xp.zeros((3, 64), np.int32))
