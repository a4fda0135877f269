"""Attention from packed codes on a device against float64 attention over decoded rows."""

import numpy as np
import pytest
from attention_oracle import Store, attended, error_of, make_store, oracle, plan_of, relative
from gpu_plans import same_bits, scalar_plan

from tq_core.errors import InvalidDtype, InvalidSpec, NotFinite, ShapeMismatch
from tq_core.numpy_backend import NumpyBackend
from tq_core.prod import TurboQuantProd
from tq_kernels_gpu.attention import PackedAttention
from tq_kernels_gpu.backend import GpuBackend
from tq_kernels_gpu.ops.attend import exact_launch, halves_launch, split_count
from tq_kernels_gpu.readers import half_words, reader

NUMPY = NumpyBackend()
BOUNDS = {"exact": 1e-5, "integer": 2e-3}
both = pytest.mark.parametrize("accuracy", list(BOUNDS))

WIDTHS = ((1, 8), (2, 7), (3, 6), (4, 5), (5, 4), (6, 3), (7, 2), (8, 1), (4, 4), (2, 3), (3, 2))
TRELLISES = (((2, 256), 4), (4, (3, 8)), ((1, 1024), (2, 1024)), ((4, 4096), (4, 8)))
DIMS = (
    (2, 64),
    (9, 31),
    (32, 32),
    (33, 96),
    (64, 17),
    (96, 128),
    (128, 160),
    (129, 2),
    (160, 64),
    (256, 20),
    (64, 288),
)


@both
@pytest.mark.parametrize("dims", [(128, 64), (96, 32), (20, 33)])
@pytest.mark.parametrize("bits", WIDTHS)
def test_every_width_stays_within_its_bound(device, accuracy, dims, bits):
    assert error_of(device, make_store(dims, bits, groups=2), accuracy) <= BOUNDS[accuracy]


@both
@pytest.mark.parametrize("bits", TRELLISES)
def test_trellis_codes_stay_within_the_same_bounds(device, accuracy, bits):
    assert error_of(device, make_store((64, 33), bits, groups=1, tokens=40), accuracy) <= BOUNDS[accuracy]


@both
@pytest.mark.parametrize("dims", DIMS)
def test_every_dim_stays_within_its_bound(device, accuracy, dims):
    for bits in ((4, 4), (3, 2)):
        assert error_of(device, make_store(dims, bits, groups=1, tokens=40), accuracy) <= BOUNDS[accuracy]


@both
@pytest.mark.parametrize("tokens", [1, 2, 31, 32, 33, 63, 64, 65, 129, 300])
def test_every_length_stays_within_its_bound(device, accuracy, tokens):
    store = make_store((64, 64), (4, 2), lanes=1, groups=1, count=1, tokens=tokens, spread=0.5)
    assert error_of(device, store, accuracy) <= BOUNDS[accuracy]


@both
@pytest.mark.parametrize("heads", [1, 4, 7, 8, 9, 16, 17])
def test_grouped_heads_share_what_is_read(device, accuracy, heads):
    assert error_of(device, make_store((64, 64), (4, 4), groups=heads, count=1), accuracy) <= BOUNDS[accuracy]


@both
def test_limits_masks_and_caps(device, accuracy):
    store = make_store((64, 32), (4, 4), groups=2, count=21, tokens=150)
    at = np.arange(21)
    causal = np.stack([np.zeros(21), 100 + at], axis=1).astype(np.int64)
    window = np.stack([at * 5 - 20, at * 5 + 12], axis=1).astype(np.int64)
    window[5] = (80, 80)  # sees nothing
    window[6] = (90, 10)
    window[7] = (-(2**62), 2**62)
    mask = np.random.default_rng(0).random((21, 150)) < 0.3
    mask[3] = False
    cases = {
        "causal": {"limits": causal},
        "window": {"limits": window},
        "mask": {"mask": mask},
        "cap": {"softcap": 1.5},
        "all": {"limits": window, "mask": mask, "softcap": 30.0},
        "scale": {"scale": 0.3},
        "negative": {"scale": -0.1},
    }
    errors = {name: error_of(device, store, accuracy, **options) for name, options in cases.items()}
    assert max(errors.values()) <= BOUNDS[accuracy], errors


@both
def test_splits_move_the_result_by_rounding_only(shim, accuracy):
    store = make_store((64, 64), (4, 3), lanes=1, groups=2, count=1, tokens=1100)
    one, many = shim.ShimDevice(), shim.ShimDevice()
    one.processors, many.processors = 1, 64
    launch = exact_launch if accuracy == "exact" else halves_launch
    readers = tuple(reader(plan) for plan in store.plans)
    assert split_count(many, launch(many, readers, 2), 1, 1100) > 3
    options = {"limits": np.array([[300, 1090]])}  # some splits see nothing
    first, second = attended(one, store, accuracy, **options), attended(many, store, accuracy, **options)
    assert relative(first.finished(), second.finished()) <= (1e-6 if accuracy == "exact" else 1e-3)
    assert error_of(many, store, accuracy, **options) <= BOUNDS[accuracy]
    nothing = attended(many, store, accuracy, limits=np.array([[7, 7]]))
    assert not nothing.values.any()
    assert not nothing.sums.any()
    assert np.isneginf(nothing.maxima).all()


@both
def test_peaked_logits_and_scales_of_any_size(device, accuracy):
    store = make_store((128, 64), (4, 4), groups=4, count=1, tokens=200, spread=10.0)
    assert error_of(device, store, accuracy) <= 10 * BOUNDS[accuracy]
    for factor in (1e-30, 1e30):  # weights are halves in units of the heaviest so far
        values = np.float32(factor) * store.packed["value_scales"]
        scaled = store._replace(packed=store.packed | {"value_scales": values}, values=factor * store.values)
        assert error_of(device, scaled, accuracy) <= 10 * BOUNDS[accuracy]
    rising = store.packed["value_scales"] * np.geomspace(1e-4, 1e4, 200, dtype=np.float32)
    decoded = store.values * np.geomspace(1e-4, 1e4, 200, dtype=np.float32)[:, None]
    scaled = store._replace(packed=store.packed | {"value_scales": rising}, values=decoded)
    assert error_of(device, scaled, accuracy) <= 10 * BOUNDS[accuracy]


@both
def test_it_finds_what_scores_softmax_and_combine_find(device, accuracy):
    store = make_store((96, 64), (4, 3), lanes=1, groups=2, count=2)
    packed, plans = {name: array[0] for name, array in store.packed.items()}, store.plans
    queries = store.queries.reshape(-1, 96)
    logits = NUMPY.scores(plans[0], packed["key_packed"], packed["key_scales"], None, queries) * np.float32(0.125)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    values = NUMPY.combine(plans[1], packed["value_packed"], packed["value_scales"], None, weights)
    got = attended(device, store, accuracy, scale=0.125)
    assert relative(got.values.reshape(values.shape), values) <= BOUNDS[accuracy]
    np.testing.assert_allclose(got.sums.reshape(-1), weights.sum(axis=1), rtol=BOUNDS[accuracy])


@both
def test_stores_with_strides_and_odd_addresses_are_no_copy_and_right(device, accuracy):
    store = make_store((32, 64), (3, 2), tokens=50, scale_dtype=np.float16)
    wide = {}
    for name, array in store.packed.items():
        grown = np.full((3, 61, *array.shape[2:]), 0xFF, array.dtype)  # NaN, and codes of other tokens
        grown[:2, 7:57] = array
        wide[name] = device.asarray(grown)[:2, 7:57]
    door = PackedAttention(*store.plans, GpuBackend(device), accuracy=accuracy)
    part = door.attend(**wide, queries=device.asarray(store.queries), scale=0.2)
    expected = oracle(store, scale=0.2).finished()
    assert relative(device.to_host(part.finished()), expected) <= BOUNDS[accuracy]


def test_rows_that_do_not_follow_each_other_are_copied(device):
    store = make_store((32, 32), (4, 4), tokens=40)
    spaced = {name: device.asarray(np.repeat(array, 2, axis=1))[:, ::2] for name, array in store.packed.items()}
    door = PackedAttention(*store.plans, GpuBackend(device), accuracy="exact")
    part = door.attend(**spaced, queries=device.asarray(store.queries), scale=0.2)
    assert relative(device.to_host(part.finished()), oracle(store, scale=0.2).finished()) <= BOUNDS["exact"]


@both
def test_a_dense_rotation_is_applied_to_queries_and_undone_on_values(device, accuracy):
    store = make_store((40, 64), (4, 2), tokens=40)
    rng = np.random.default_rng(1)
    plan = scalar_plan(40, 4, kind="dense")
    rows, scales, _ = NUMPY.encode(plan, rng.standard_normal((80, 40)).astype(np.float32))
    keys = NUMPY.decode(plan, rows, scales, None).reshape(2, 40, 40)
    packed = store.packed | {"key_packed": rows.reshape(2, 40, -1), "key_scales": scales.reshape(2, 40)}
    store = Store((plan, store.plans[1]), packed, keys, store.values, store.queries)
    assert error_of(device, store, accuracy) <= BOUNDS[accuracy]


@both
def test_no_tokens_and_no_queries(device, accuracy):
    store = make_store((64, 32), (4, 4), tokens=33)
    none = store._replace(packed={name: array[:, :0] for name, array in store.packed.items()})
    part = attended(device, none, accuracy)
    assert not part.values.any()
    assert not part.sums.any()
    assert np.isneginf(part.maxima).all()
    assert not part.finished().any()
    part = attended(device, store._replace(queries=store.queries[:, :, :0]), accuracy)
    assert part.values.shape == (2, 3, 0, 32)


@both
def test_a_length_on_the_device_hides_the_tokens_behind_it(device, accuracy):
    store = make_store((64, 32), (4, 4), tokens=90)
    for length in (0, 1, 50, 90, 1000):
        used = min(length, 90)
        cut = store._replace(keys=store.keys[:, :used], values=store.values[:, :used])
        got = attended(device, store, accuracy, scale=0.1, length=np.array([length]))
        assert relative(got.finished(), oracle(cut, scale=0.1).finished()) <= BOUNDS[accuracy]


def test_a_device_with_little_shared_memory_still_attends(shim):
    store = make_store((128, 64), (8, 4), tokens=40)
    readers = tuple(reader(plan) for plan in store.plans)
    small, smaller = shim.ShimDevice(shared_limit=96 * 1024), shim.ShimDevice(shared_limit=48 * 1024)
    assert 0 < halves_launch(small, readers, 6).threads < 256
    assert halves_launch(smaller, readers, 6) is None  # float32 then
    for device in (small, smaller):
        assert error_of(device, store, "integer") <= BOUNDS["integer"]


def test_splits_leave_every_block_resident_and_every_warp_a_tile(shim):
    device = shim.ShimDevice(shared_limit=227 * 1024)
    device.processors = 132
    readers = (reader(scalar_plan(128, 4)),) * 2
    launch = halves_launch(device, readers, 4)
    assert launch.threads == 512
    assert split_count(device, launch, 8, 131072) == 16  # 128 blocks on 132 processors
    assert split_count(device, launch, 8, 1024) == 2
    assert split_count(device, launch, 1000, 131072) == 1


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_tables_of_pairs_hold_both_codes_in_the_order_of_planes(bits):
    rows = reader(scalar_plan(64, bits))
    halves = rows.centroids.astype(np.float16)
    words = half_words(rows).view(np.float16).reshape(-1, 2)
    low = {2: 2, 3: 2, 4: 4}[bits]
    for first in range(1 << bits):
        for second in range(1 << bits):
            lows = first % (1 << low) | second % (1 << low) << low
            entry = lows | (first >> low) << 2 * low | (second >> low) << (bits + low)
            assert tuple(words[entry]) == (halves[first], halves[second])


class _Placed(np.ndarray):
    """An array of a device whose arrays are not numpy's."""


class _Module:
    """numpy, but for its type of arrays."""

    ndarray = _Placed

    def __getattr__(self, name):
        return getattr(np, name)


def test_arrays_of_the_host_come_back_to_the_host(shim, monkeypatch):
    device = shim.ShimDevice()
    device.xp = _Module()
    monkeypatch.setattr(device, "asarray", lambda host: np.array(host, order="C").view(_Placed))
    store = make_store((64, 32), (4, 4), tokens=40)
    kernel = GpuBackend(device).attention(*store.plans, "integer")
    limits = np.array([[0, 40], [3, 20]])
    part = kernel.attend(**store.packed, queries=store.queries, scale=0.2, limits=limits, mask=np.ones((2, 40), bool))
    assert not any(isinstance(array, _Placed) for array in part)
    assert relative(part.finished(), oracle(store, scale=0.2, limits=limits).finished()) <= BOUNDS["integer"]
    store.queries[0, 0, 0, 0] = np.nan
    with pytest.raises(NotFinite, match="queries must be finite, got nan"):
        kernel.attend(**store.packed, queries=store.queries, scale=0.2)


@both
def test_no_result_depends_on_the_order_of_threads(shim, accuracy):
    store = make_store((64, 96), (4, 7), tokens=150)
    first, second = (attended(shim.ShimDevice(backwards=order), store, accuracy, scale=0.2) for order in (False, True))
    for one, other in zip(first, second, strict=True):
        same_bits(one, other)


def test_fractional_widths_have_no_kernel_and_sketches_none_either(device):
    backend, plan = GpuBackend(device), scalar_plan(64, 4)
    assert backend.attention(scalar_plan(64, 2.5), plan, "exact") is None
    with pytest.raises(InvalidSpec, match=r"rows of 2\.5 bits have no attention kernel"):
        PackedAttention(plan, scalar_plan(64, 2.5), GpuBackend(device))
    sketched = scalar_plan(64, 3, sketch=TurboQuantProd(64, 4).plan.sketch)
    with pytest.raises(InvalidSpec, match="sketch cannot be attended"):
        PackedAttention(sketched, plan, GpuBackend(device))
    with pytest.raises(InvalidSpec, match="accuracy must be one of"):
        PackedAttention(plan, plan, GpuBackend(device), accuracy="half")


def test_bad_arguments_are_refused_before_anything_is_launched(device):
    store = make_store((64, 32), (4, 4), tokens=10)
    door = PackedAttention(*store.plans, GpuBackend(device))
    good = {name: device.asarray(array) for name, array in store.packed.items()}
    good |= {"queries": device.asarray(store.queries), "scale": 0.1}
    queries = good["queries"]
    cases = [
        (ShapeMismatch, "queries must be", {"queries": queries[0]}),
        (InvalidDtype, "queries must be float32", {"queries": queries.astype(np.float16)}),
        (ShapeMismatch, "key_packed must be", {"key_packed": good["key_packed"][:, :, 1:]}),
        (InvalidDtype, "value_packed must be uint8", {"value_packed": good["value_packed"].view(np.int8)}),
        (ShapeMismatch, "value_scales must be", {"value_scales": good["value_scales"][:, 1:]}),
        (InvalidDtype, "float16 or float32", {"key_scales": good["key_scales"].astype(np.float64)}),
        (ShapeMismatch, "limits must be", {"limits": device.xp.zeros((3, 2), np.int64)}),
        (InvalidDtype, "limits must be int64", {"limits": device.xp.zeros((2, 2), np.int32)}),
        (ShapeMismatch, "mask must be", {"mask": device.xp.zeros((2, 9), np.bool_)}),
        (InvalidDtype, "mask must be bool", {"mask": device.xp.zeros((2, 10), np.uint8)}),
        (ShapeMismatch, "length must be", {"length": device.xp.zeros(2, np.int64)}),
        (InvalidSpec, "scale must be finite", {"scale": float("nan")}),
        (InvalidSpec, "softcap finite and not negative", {"softcap": -1.0}),
    ]
    for error, message, change in cases:
        with pytest.raises(error, match=message):
            door.attend(**(good | change))
    with pytest.raises(InvalidDtype, match="array of the device or of numpy"):
        door.attend(**(good | {"queries": [[1.0]]}))


def test_a_plan_of_every_kind_has_a_reader():
    assert reader(plan_of(64, (2, 256))).window == 8
    assert reader(plan_of(64, 5)).pair_format == 0
    assert reader(plan_of(64, 3)).pair_format == 3
    assert reader(plan_of(60, 3)).pair_format == 0
