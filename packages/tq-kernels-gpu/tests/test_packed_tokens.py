"""Tokens appended at a length that only the device knows, and attended there."""

import weakref

import numpy as np
import pytest
from attention_oracle import relative
from gpu_plans import same_bits, scalar_plan, trellis_plan

from tq_core.errors import InvalidDtype, InvalidSpec, ShapeMismatch, TurboQuantError
from tq_core.numpy_backend import NumpyBackend
from tq_kernels_gpu.attention import PackedAttention
from tq_kernels_gpu.backend import GpuBackend
from tq_kernels_gpu.errors import CapacityExceeded, NotUploaded
from tq_kernels_gpu.packed_tokens import PackedTokens

NUMPY = NumpyBackend()
KEYS, VALUES = scalar_plan(64, 4), scalar_plan(32, 3)
RNG = np.random.default_rng(11)


def tokens_of(count, dtype=np.float32):
    return tuple(RNG.standard_normal((2, count, dim)).astype(dtype) for dim in (64, 32))


def held(device, store):
    """What the store holds, on the host, as many tokens as the device says."""
    length = int(device.to_host(store.length)[0])
    return {name: device.to_host(array)[:, :length] for name, array in store.arrays.items()}


def encoded(keys, values, scale_dtype):
    """The same by `numpy`."""
    found = {}
    for name, plan, rows in (("key", KEYS, keys), ("value", VALUES, values)):
        packed, scales, _ = NUMPY.encode(plan, np.ascontiguousarray(rows).reshape(-1, plan.dim))
        found[f"{name}_packed"] = packed.reshape(2, -1, plan.row_bytes)
        found[f"{name}_scales"] = scales.astype(scale_dtype).reshape(2, -1)
    return found


@pytest.mark.parametrize("scale_dtype", ["float16", "float32"])
def test_appending_piece_by_piece_gives_the_bits_of_encode(device, scale_dtype):
    keys, values = tokens_of(23)
    store = PackedTokens(KEYS, VALUES, GpuBackend(device), 2, 40, scale_dtype=scale_dtype)
    for first, last in ((0, 1), (1, 2), (2, 2), (2, 20), (20, 23)):
        part = keys[:, first:last], values[:, first:last]
        store.append(*(device.asarray(one) for one in part))
    assert store.claimed == 23
    expected = encoded(keys, values, scale_dtype)
    for name, array in held(device, store).items():
        same_bits(array, expected[name])


def test_every_input_dtype_and_arrays_of_the_host_are_taken(device):
    store = PackedTokens(KEYS, VALUES, GpuBackend(device), 2, 40)
    keys, values = tokens_of(3, np.float64)
    store.append(keys, device.asarray(values.astype(np.float16)))
    found, expected = held(device, store), encoded(keys, values.astype(np.float16), "float16")
    for name in expected:
        same_bits(found[name], expected[name])


def test_a_full_store_refuses_before_anything_is_written(device):
    store = PackedTokens(KEYS, VALUES, GpuBackend(device), 2, 10)
    store.append(*tokens_of(7))
    before = held(device, store)
    with pytest.raises(CapacityExceeded, match="4 more tokens after 7 exceed the capacity of 10") as caught:
        store.append(*tokens_of(4))
    assert isinstance(caught.value, TurboQuantError)
    assert isinstance(caught.value, OverflowError)
    assert store.claimed == 7
    assert int(device.to_host(store.length)[0]) == 7
    for name, array in held(device, store).items():
        same_bits(array, before[name])
    store.append(*tokens_of(3))
    store.clear()
    assert not held(device, store)["key_packed"].size
    store.append(*tokens_of(10))
    assert store.claimed == 10


def test_what_the_host_did_not_count_never_leaves_the_memory(device):
    """A graph replayed too often, without `claim`: the device leaves out what does not fit."""
    store = PackedTokens(KEYS, VALUES, GpuBackend(device), 2, 10)
    keys, values = tokens_of(8)
    store.append(keys, values)
    store.claimed = 0
    more = tokens_of(5)
    store.append(*more)
    assert int(device.to_host(store.length)[0]) == 10
    expected = encoded(
        *(np.concatenate([one, two[:, :2]], axis=1) for one, two in zip((keys, values), more, strict=True)), "float16"
    )
    for name, array in held(device, store).items():
        same_bits(array, expected[name])


def test_attending_equals_attention_over_the_tokens_held(device):
    store = PackedTokens(KEYS, VALUES, GpuBackend(device), 2, 90)
    door = PackedAttention(KEYS, VALUES, GpuBackend(device))
    queries = device.asarray(RNG.standard_normal((2, 3, 2, 64)).astype(np.float32))
    empty = store.attend(queries, scale=0.1)
    assert not device.to_host(empty.sums).any()
    for count in (1, 40, 33):
        store.append(*tokens_of(count))
        limits, mask = device.asarray(np.array([[0, 90], [5, 60]])), device.asarray(RNG.random((2, 90)) < 0.8)
        for options in ({}, {"limits": limits}, {"mask": mask}, {"softcap": 2.0}):
            got = store.attend(queries, scale=0.125, **options)
            arrays = {name: device.asarray(array) for name, array in held(device, store).items()}
            if "mask" in options:
                options = {"mask": mask[:, : store.claimed]}
            expected = door.attend(**arrays, queries=queries, scale=0.125, **options)
            for one, other in zip(got, expected, strict=True):
                same_bits(device.to_host(one), device.to_host(other))


def test_a_captured_call_looks_at_the_whole_capacity_and_keeps_its_scratch(shim):
    device = shim.ShimDevice()
    store = PackedTokens(KEYS, VALUES, GpuBackend(device), 2, 200, accuracy="exact")
    queries = RNG.standard_normal((2, 1, 1, 64)).astype(np.float32)
    store.append(*tokens_of(70))
    eager = store.attend(queries, scale=0.1)
    assert not store._captured
    device.capturing = True
    captured = store.attend(queries, scale=0.1)
    assert store._captured
    assert relative(captured.finished(), eager.finished()) <= 1e-6
    scratch = len(store._captured)
    store.append(*tokens_of(1))
    assert len(store._captured) > scratch


@pytest.mark.parametrize("accuracy", ["exact", "integer"])
@pytest.mark.parametrize("plan", [scalar_plan(64, 4), trellis_plan(64, 2, 256), trellis_plan(100, 4, 1024)])
def test_no_array_that_a_captured_step_made_is_given_back(shim, plan, accuracy):
    """Its memory would be another's by the time the graph writes there again."""
    made = []

    class Recording:
        def __getattr__(self, name):
            return getattr(np, name)

        def empty(self, *given):
            array = np.empty(*given)
            made.append(weakref.ref(array))
            return array

    device = shim.ShimDevice()
    store = PackedTokens(plan, plan, GpuBackend(device), 2, 100, accuracy=accuracy)
    keys, queries = (RNG.standard_normal((2, *shape, plan.dim)).astype(np.float32) for shape in ((3,), (1, 1)))
    store.append(keys, keys)
    store.attend(queries, scale=0.1)
    device.capturing, device.xp = True, Recording()
    store.append(keys, keys)
    found = store.attend(queries, scale=0.1)
    assert found.values.shape == queries.shape
    assert len(made) > 6
    assert all(array() is not None for array in made)


def test_what_tables_a_graph_would_upload_is_refused(shim):
    device = shim.ShimDevice()
    store = PackedTokens(KEYS, VALUES, GpuBackend(device), 2, 100)
    device.capturing = True
    with pytest.raises(NotUploaded, match="make the same call once before capturing"):
        store.append(*tokens_of(1))
    assert store.claimed == 0
    device.capturing = False
    store.append(*tokens_of(1))
    device.capturing = True
    store.append(*tokens_of(1))


def test_a_claim_counts_what_replays_append(device):
    store = PackedTokens(KEYS, VALUES, GpuBackend(device), 2, 10)
    store.claim(6)
    assert store.claimed == 6
    with pytest.raises(CapacityExceeded, match="5 more tokens after 6"):
        store.claim(5)
    assert store.claimed == 6


def test_bytes_are_those_of_all_memory(device):
    store = PackedTokens(KEYS, VALUES, GpuBackend(device), 2, 100)
    assert store.nbytes == 2 * 100 * (32 + 12 + 2 + 2) + 8


def test_bad_arguments_are_refused_and_change_nothing(device):
    store = PackedTokens(KEYS, VALUES, GpuBackend(device), 2, 10)
    keys, values = tokens_of(2)
    with pytest.raises(ShapeMismatch, match=r"keys must be \(2, 2, 64\), got \(1, 2, 64\)"):
        store.append(keys[:1], values)
    with pytest.raises(ShapeMismatch, match=r"values must be \(2, 2, 32\), got \(2, 1, 32\)"):
        store.append(keys, values[:, :1])
    with pytest.raises(InvalidDtype, match="values must be one of"):
        store.append(keys, values.astype(np.int32))
    queries = device.asarray(np.zeros((2, 1, 1, 64), np.float32))
    with pytest.raises(ShapeMismatch, match=r"mask must be \(count, 10\)"):
        store.attend(queries, scale=1.0, mask=device.asarray(np.ones((1, 9), np.bool_)))
    assert store.claimed == 0
    with pytest.raises(InvalidSpec, match="scale_dtype must be one of"):
        PackedTokens(KEYS, VALUES, GpuBackend(device), 2, 10, scale_dtype="float64")
    with pytest.raises(ShapeMismatch, match="got 0 of 10"):
        PackedTokens(KEYS, VALUES, GpuBackend(device), 0, 10)


@pytest.mark.gpu
def test_a_captured_step_appends_and_attends_at_every_replay(gpu):
    cupy = gpu.xp
    captured, eager = (PackedTokens(KEYS, VALUES, GpuBackend(gpu), 2, 100) for _ in range(2))
    keys, values = (gpu.asarray(one) for one in tokens_of(1))
    queries = gpu.asarray(RNG.standard_normal((2, 4, 1, 64)).astype(np.float32))
    gpu.wait()  # the other stream does not
    with cupy.cuda.Stream(non_blocking=True) as stream:
        for store in (captured, eager):  # also compiles, and leaves memory in the pool
            store.append(keys, values)
            store.attend(queries, scale=0.125)
        stream.synchronize()
        stream.begin_capture()
        captured.append(keys, values)
        found = captured.attend(queries, scale=0.125)
        graph = stream.end_capture()
        for replay in range(50):
            if replay:
                captured.claim(1)
            fresh = [gpu.asarray(one) for one in tokens_of(1)]
            keys[...], values[...] = fresh
            graph.launch(stream)
            eager.append(*fresh)
            expected = eager.attend(queries, scale=0.125)
            got = gpu.to_host(found.finished())
            assert relative(got, gpu.to_host(expected.finished())) <= 1e-3
        assert int(gpu.to_host(captured.length)[0]) == captured.claimed == 51
