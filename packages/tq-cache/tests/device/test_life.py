"""A cache on a device does what one on the host does, number for number, and no array leaves the device unasked."""

import numpy as np
import pytest
from device_pair import BATCH, DIM, HEADS, LAYERS, POLICIES, Pair, dtype_of

from tq_cache import DecoderCache, MultiHeadKVCache, QuantizedKVCache


@pytest.mark.parametrize("policy", POLICIES)
def test_a_life_on_a_device_is_that_on_the_host(gpu, policy, tmp_path):
    pair = Pair(gpu, policy)
    for tokens in (1, 3, 9, 1, 2):
        pair.append(tokens)
        pair.check()
    pair.both(lambda cache: cache.crop(12))
    pair.both(lambda cache: cache.reorder([1, 1]))
    pair.check()
    kept = pair.here.fork(), pair.there.fork()
    pair.append(5)
    pair.check()
    pair.both(lambda cache: cache.crop([7, 10]))
    pair.check()
    pair.snapshots(tmp_path)
    pair.here, pair.there = kept
    pair.append(2)
    pair.check()
    pair.both(lambda cache: cache.repeat(2))
    pair.both(lambda cache: cache.select([3, 0]))
    pair.check()
    pair.both(lambda cache: cache.clear())
    pair.append(6)
    pair.check()
    pair.snapshots(tmp_path)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_snapshot_moves_freely_between_both(gpu, policy, tmp_path):
    pair = Pair(gpu, policy)
    pair.append(11)
    path = pair.snapshots(tmp_path)
    for lazy in (True, False):
        pair.there = DecoderCache.load(path, backend="gpu", lazy=lazy)
        pair.here = DecoderCache.load(tmp_path / "there", backend="numpy", lazy=lazy)
        pair.check()
        pair.append(4)
        pair.check()
        pair.snapshots(tmp_path)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bfloat16"])
def test_every_dtype_of_floats(gpu, dtype, tmp_path):
    pair = Pair(gpu, POLICIES[0], dtype=dtype_of(dtype))
    pair.append(9)
    pair.check()
    pair.snapshots(tmp_path)


def test_update_gives_device_arrays_in_the_dtype_that_came(gpu):
    pair = Pair(gpu, POLICIES[0])
    keys, values = pair.vectors(7).astype(np.float16), pair.vectors(7)
    expected = pair.here.update(keys, values, 0)
    found = pair.there.update(gpu.device.asarray(keys), gpu.device.asarray(values), 0)
    assert gpu.device.downloads == 0
    for got, want in zip(found, expected, strict=True):
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(gpu.device.to_host(got), want)
    brain = gpu.device.asarray(pair.vectors(1).astype(dtype_of("bfloat16")))
    assert [array.dtype for array in pair.there.update(brain, brain, 0)] == [np.float32, np.float32]


def test_eviction_and_masks_of_either_place(gpu):
    pair = Pair(gpu, "k=mse4,v=mse4,sinks=2,window=4", max_tokens=9)
    for tokens in (8, 3, 1):
        pair.append(tokens)
        pair.check()
    queries = pair.vectors(2, 4)
    mask = np.random.default_rng(0).random((BATCH, 4, 2, 9)) < 0.6
    put = gpu.device.asarray
    for shown in (mask, mask[0], mask[0, 0]):
        expected = pair.here.attend(queries, 0, mask=shown, sliding_window=5)
        for given in (shown, put(shown)):
            found = pair.there.attend(put(queries), 0, mask=given, sliding_window=5)
            np.testing.assert_array_equal(gpu.device.to_host(found), expected)


def test_what_is_given_is_uploaded_once(gpu):
    random = np.random.default_rng(3)
    options = {
        "key_means": random.standard_normal((LAYERS, HEADS, DIM)).astype(np.float32),
        "key_energies": random.random((LAYERS, HEADS, DIM)),
        "value_energies": random.random((LAYERS, HEADS, DIM)),
    }
    policy = "k=mse3x8+mse2,v=mse3x8+mse2,kmean=given,ksplit=given,vsplit=given"
    pair = Pair(gpu, policy, **options)
    pair.append(5)
    pair.check()


@pytest.mark.parametrize("kind", ["head", "layer"])
def test_caches_of_one_layer_live_there_too(gpu, kind, tmp_path):
    made = {
        backend: QuantizedKVCache(DIM, "k=mse4,v=int4,sinks=1,window=2", backend=backend)
        if kind == "head"
        else MultiHeadKVCache(HEADS, DIM, "k=mse4,v=int4,sinks=1,window=2", backend=backend)
        for backend in ("numpy", "gpu")
    }
    lead = () if kind == "head" else (HEADS,)
    x = np.random.default_rng(1).standard_normal((*lead, 9, DIM)).astype(np.float32)
    put, back = gpu.device.asarray, gpu.device.to_host
    made["numpy"].append(x, -x)
    made["gpu"].append(put(x), put(-x))
    for cache in made.values():
        cache.reorder([0, 2, 4, 7, 8])
        cache.crop(-1)
    for read in (lambda cache, x: cache.keys(), lambda cache, x: cache.scores(x), lambda cache, x: cache.attend(x)):
        np.testing.assert_array_equal(back(read(made["gpu"], put(x[..., :2, :]))), read(made["numpy"], x[..., :2, :]))
    for name, cache in made.items():
        cache.save(tmp_path / name)
    assert (tmp_path / "gpu").read_bytes() == (tmp_path / "numpy").read_bytes()


def test_caches_of_a_device_split_and_merge(gpu):
    pair = Pair(gpu, POLICIES[0])
    pair.append(9)
    pair.here = DecoderCache.merge(pair.here.split()[::-1])
    pair.there = DecoderCache.merge(pair.there.split()[::-1])
    pair.append(1)
    pair.check()
