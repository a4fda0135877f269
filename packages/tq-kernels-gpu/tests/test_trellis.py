"""Trellis codes on a device: the walk finds numpy's path to the bit, and rows decode to what numpy decodes them to."""

import numpy as np
import pytest
from gpu_plans import same_bits, trellis_plan

from tq_core import trellis_path
from tq_core.errors import InvalidDtype, ShapeMismatch
from tq_core.norms import row_norms
from tq_core.numpy_backend import NumpyBackend
from tq_core.plan import RULES
from tq_core.testing import samples
from tq_core.trellis_table import BITS, STATES
from tq_kernels_gpu.backend import GpuBackend
from tq_kernels_gpu.ops.decode import centroids, decode
from tq_kernels_gpu.ops.encode import encode
from tq_kernels_gpu.ops.walk import walk
from tq_kernels_gpu.packed_tokens import PackedTokens

NUMPY = NumpyBackend()
FEW = [0, 10, 12, 13, 14, 16, 17, 20]  # Gaussian, one-hot, two-hot, constant, negative, zero, an outlier, huge


def _check(device, plan, x):
    packed, scales, _ = NUMPY.encode(plan, x)
    got = GpuBackend(device).encode(plan, x)
    same_bits(got[0], packed)
    same_bits(got[1], scales)
    assert got[2] is None
    same_bits(GpuBackend(device).decode(plan, packed, scales, None), NUMPY.decode(plan, packed, scales, None))


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("states", STATES)
def test_every_code(device, states, bits):
    _check(device, trellis_plan(64, bits, states), samples(64)[FEW] if states == 4096 else samples(64))


@pytest.mark.parametrize(
    ("dim", "bits", "states"),
    [
        (16, 1, 8),
        (10, 2, 8),
        (8, 3, 8),
        (7, 4, 8),
        (33, 3, 8),
        (301, 4, 8),
        (32, 1, 256),
        (45, 3, 256),
        (129, 1, 256),
        (300, 4, 256),
        (40, 1, 1024),
        (99, 2, 1024),
        (100, 3, 1024),
        (127, 4, 1024),
        (48, 1, 4096),
        (31, 2, 4096),
        (16, 3, 4096),
        (12, 4, 4096),
    ],
)
def test_dimensions_from_the_shortest_circle_on(device, dim, bits, states):
    _check(device, trellis_plan(dim, bits, states), samples(dim)[FEW])


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("dim", "bits", "states"), [(64, 1, 8), (33, 4, 256), (40, 3, 1024)])
def test_every_scale_rule(device, dim, bits, states, rule):
    _check(device, trellis_plan(dim, bits, states, rule=rule), samples(dim)[FEW])


@pytest.mark.parametrize("search", [3, 5, 9])
@pytest.mark.parametrize(("dim", "bits", "states"), [(64, 2, 8), (45, 3, 256), (100, 4, 256), (64, 1, 1024)])
def test_scale_search_picks_the_same_winner(device, dim, bits, states, search):
    _check(device, trellis_plan(dim, bits, states, rule="mse", search=search), samples(dim)[FEW])


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("dim", "bits", "states"), [(64, 1, 8), (33, 4, 256), (40, 2, 1024)])
def test_numbers_at_both_ends_of_int16(device, dim, bits, states, rule):
    # strict rows are not normalised: the tiny ones have v of -2..2 and codes that may point away from them or tie, the
    # large ones saturate v, its double, differences to levels and metrics
    lengths = np.array([0, 4e-5, 6e-5, 1e-4, 2e-4, 1, 2, 3, 5, 10, 100], np.float32)
    rows = np.concatenate([samples(dim, seed)[:10] for seed in range(3 if states == 8 else 1)])
    x = rows[:, None] * lengths[:, None] / np.float32(np.sqrt(dim))
    _check(device, trellis_plan(dim, bits, states, rule=rule, search=5, strict=True), x.reshape(-1, dim))


@pytest.mark.parametrize(("bits", "states"), [(1, 8), (2, 8), (4, 8), (1, 256), (3, 1024)])
def test_coordinates_that_saturate_beside_others_that_do_not(device, bits, states):
    plan = trellis_plan(48, bits, states, rule="plain", strict=True)
    sizes = np.array([-100, -8, -4, -3, -0.3, 0, 0.3, 3, 4, 8, 100], np.float32)
    z = np.random.default_rng(bits).choice(sizes, (150, 48))
    _check(device, plan, NUMPY.unrotate(plan.rotation, z))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_norms_are_taken_before_rows_are_narrowed(device, dtype):
    third = samples(64)[:5].astype(np.float64) / 3
    _check(device, trellis_plan(64, 2, 256), np.concatenate([third, third * 1e-42]).astype(dtype))
    unit = (third / row_norms(third)[:, None]).astype(dtype)
    _check(device, trellis_plan(64, 2, 256, rule="plain", strict=True), unit)


def test_bfloat16_is_read_from_its_bits(device):
    bits = (samples(64)[:5].view(np.uint32) >> 16).astype(np.uint16)
    plan = trellis_plan(64, 2, 256)
    expected = NUMPY.encode(plan, (bits.astype(np.uint32) << 16).view(np.float32))
    got = GpuBackend(device).encode(plan, bits)
    same_bits(got[0], expected[0])
    same_bits(got[1], expected[1])


@pytest.mark.parametrize(("bits", "states"), [(1, 8), (4, 256), (2, 1024), (3, 4096)])
def test_survivors_beyond_shared_memory_lie_in_global_memory(shim, bits, states):
    device = shim.ShimDevice(shared_limit=14 * 1024 if states == 4096 else 4096)
    _check(device, trellis_plan(200, bits, states), samples(200)[FEW[:3]])


@pytest.mark.parametrize(("dim", "bits", "states"), [(4096, 2, 1024), (4096, 1, 8), (1536, 3, 256)])
def test_long_rows(device, dim, bits, states):
    _check(device, trellis_plan(dim, bits, states), samples(dim)[FEW[:2]])


def test_more_rows_than_tiles_and_blocks_hold(device, monkeypatch):
    monkeypatch.setattr("tq_kernels_gpu.ops.walk.TILE_VALUES", 100 * 20)
    plan, x = trellis_plan(20, 2, 8), np.tile(samples(20), (11, 1))
    _check(device, plan, x)
    none = GpuBackend(device).encode(plan, x[:0])
    assert none[0].shape == (0, 5)
    assert GpuBackend(device).decode(plan, *none).shape == (0, 20)


def test_rows_with_strides_are_taken_as_they_are(device):
    plan, wide = trellis_plan(64, 2, 256), samples(128)[:8]
    packed, scales = walk(device, plan, device.asarray(wide)[::2, 32:96])
    expected = NUMPY.encode(plan, np.ascontiguousarray(wide[::2, 32:96]))
    same_bits(device.to_host(packed), expected[0])
    same_bits(device.to_host(scales), expected[1])


def test_appending_gives_the_bits_of_encode(device):
    plans = trellis_plan(64, 4, 256, search=3), trellis_plan(33, 3, 8)
    store = PackedTokens(*plans, GpuBackend(device), 2, 20)
    rows = [np.stack([samples(plan.dim, seed)[:9] for seed in (1, 2)]) for plan in plans]
    for first, last in ((0, 1), (1, 9)):
        store.append(*(device.asarray(np.ascontiguousarray(one[:, first:last])) for one in rows))
    for plan, name, given in zip(plans, ("key", "value"), rows, strict=True):
        packed, scales, _ = NUMPY.encode(plan, given.reshape(18, plan.dim))
        same_bits(device.to_host(store.arrays[f"{name}_packed"])[:, :9], packed.reshape(2, 9, -1))
        with np.errstate(over="ignore"):
            same_bits(device.to_host(store.arrays[f"{name}_scales"])[:, :9], scales.astype(np.float16).reshape(2, 9))


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize(("dim", "states"), [(48, 8), (101, 256), (64, 1024), (203, 4096)])
def test_centroids_are_those_of_the_windows_whatever_the_bits(device, dim, states, bits):
    plan = trellis_plan(dim, bits, states)
    packed = np.random.default_rng(bits).integers(0, 256, (7, plan.row_bytes), np.uint8)  # also set behind the stream
    got = device.to_host(centroids(device, plan, device.asarray(packed)))
    same_bits(got, trellis_path.centroids(plan.codebook, packed, dim))


@pytest.mark.parametrize("dim", [48, 1000])
def test_float16_scales_outputs_and_long_rows(shim, dim):
    device = shim.ShimDevice(shared_limit=8 * 1024)  # the table of 1024 centroids and a short row, or the table alone
    plan = trellis_plan(dim, 3, 1024)
    packed = np.random.default_rng(1).integers(0, 256, (5, plan.row_bytes), np.uint8)
    halves = np.linspace(0.5, 2, 5).astype(np.float16)
    expected = NUMPY.decode(plan, packed, halves.astype(np.float32), None)
    out = device.xp.empty((5, dim), np.float16)
    assert decode(device, plan, device.asarray(packed), device.asarray(halves), None, out=out) is out
    same_bits(device.to_host(out), expected.astype(np.float16))


def test_a_dense_rotation_gives_numpys_codes_but_where_rounding_decides(device):
    plan, x = trellis_plan(48, 2, 256, kind="dense"), samples(48)[FEW]
    packed, scales, _ = NUMPY.encode(plan, x)
    got = GpuBackend(device).encode(plan, x)
    assert (got[0] == packed).all(axis=1).mean() > 0.7
    np.testing.assert_allclose(got[1], scales, rtol=1e-2)
    expected = NUMPY.decode(plan, packed, scales, None)
    np.testing.assert_allclose(
        GpuBackend(device).decode(plan, packed, scales, None), expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max()
    )


def test_what_cannot_be_encoded_or_decoded_is_refused(device):
    plan, xp = trellis_plan(64, 2, 256), device.xp
    with pytest.raises(ShapeMismatch, match=r"must be \(rows, 64\), got \(3, 65\)"):
        encode(device, plan, xp.zeros((3, 65), np.float32))
    with pytest.raises(InvalidDtype, match=r"must be one of float32, .*got int32"):
        encode(device, plan, xp.zeros((3, 64), np.int32))
    with pytest.raises(ShapeMismatch, match=r"packed rows must be \(rows, 16\), got \(3, 15\)"):
        decode(device, plan, xp.zeros((3, 15), np.uint8), xp.ones(3, np.float32), None)
