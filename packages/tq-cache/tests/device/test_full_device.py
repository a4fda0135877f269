"""Wherever in a call the memory of a device runs out, the error is typed and the cache is as it was."""

import numpy as np
import pytest
from device_pair import DIM, HEADS, LAYERS, POLICIES, Pair

from tq_cache import DecoderCache, MultiHeadKVCache, QuantizedKVCache
from tq_core import OutOfDeviceMemory
from tq_core.strict_device import full_after


def state(cache, path):
    """All that a cache holds."""
    cache.save(path, overwrite=True)
    return path.read_bytes()


def wherever_full(call, check, *, thinned=0):
    """What `call` gives once memory suffices, and how often it did not: for no allocation, for one more each time.

    `check` looks at what a failed call left. `thinned`: steps grow by one each so many allocations.
    """
    room = failures = 0
    while True:
        try:
            with full_after(room):
                return call(), failures
        except OutOfDeviceMemory:
            check()
            room += 1 + (room // thinned if thinned else 0)
            failures += 1


@pytest.mark.parametrize("policy", POLICIES)
def test_a_full_device_is_a_typed_error_and_changes_nothing(gpu, policy, tmp_path):
    pair = Pair(gpu, policy)
    pair.append(9)
    before = pair.snapshots(tmp_path).read_bytes()
    keys, values = (gpu.device.asarray(pair.vectors(40)) for _ in range(2))
    pair.there.fork().append(keys, values, 0)  # the tables of codecs are made at first use

    def unchanged():
        assert state(pair.there, tmp_path / "there") == before

    _, failures = wherever_full(lambda: pair.there.append(keys, values, 0), unchanged)
    assert failures > 10
    pair.here.append(gpu.device.to_host(keys), gpu.device.to_host(values), 0)
    pair.snapshots(tmp_path)


@pytest.mark.parametrize("policy", POLICIES[::4])
def test_reorder_moves_all_or_nothing(gpu, policy, tmp_path):
    cache = MultiHeadKVCache(HEADS, DIM, policy, backend="gpu")
    x = gpu.device.asarray(np.random.default_rng(1).standard_normal((HEADS, 9, DIM)).astype(np.float32))
    cache.append(x, x)
    cache.save(tmp_path / "before")
    for arrays in range(6):
        with full_after(arrays), pytest.raises(OutOfDeviceMemory):
            cache.reorder([0, 1, 3, 7, 8])
        cache.save(tmp_path / "after", overwrite=True)
        assert (tmp_path / "after").read_bytes() == (tmp_path / "before").read_bytes()


@pytest.mark.parametrize("held", [(1,), (1, 9, 1, 1)])  # the first with all that is learned still to come
@pytest.mark.parametrize("policy", [*POLICIES, "k=mse4,v=mse4,window=1", "k=mse4,v=int4,sinks=2,window=3,max=9"])
def test_an_update_that_cannot_decode_appended_nothing(gpu, policy, held, tmp_path):
    policy, _, most = policy.partition(",max=")
    pair = Pair(gpu, policy, max_tokens=int(most or 0), capacity=20)
    for tokens in held:
        pair.append(tokens)
    before = pair.snapshots(tmp_path).read_bytes()
    keys, values = (gpu.device.asarray(pair.vectors(5)) for _ in range(2))
    pair.there.fork().update(keys, values, 0)  # the tables of codecs are made at first use

    def unchanged():
        assert state(pair.there, tmp_path / "there") == before

    found, failures = wherever_full(lambda: pair.there.update(keys, values, 0), unchanged, thinned=8)
    assert failures > 10
    expected = pair.here.update(gpu.device.to_host(keys), gpu.device.to_host(values), 0)
    for got, want in zip(found, expected, strict=True):
        np.testing.assert_array_equal(gpu.device.to_host(got), want)
    pair.append(2)
    pair.snapshots(tmp_path)


@pytest.mark.parametrize(("origin", "capacity"), [("made", 0), ("made", 30), ("loaded", 0)])
@pytest.mark.parametrize("policy", POLICIES[::3])
def test_wherever_a_device_is_full_the_error_is_typed_and_nothing_has_changed(gpu, policy, origin, capacity, tmp_path):
    pair = Pair(gpu, policy, capacity=capacity)
    pair.append(9)
    path = pair.snapshots(tmp_path)
    keys, values, asked = (gpu.device.asarray(pair.vectors(3, heads)) for heads in (HEADS, HEADS, 4))
    calls = {
        "clear": lambda cache: cache.clear(),
        "crop": lambda cache: cache.crop([3, 5]),
        "reorder": lambda cache: cache.reorder([1, 1]),
        "save": lambda cache: cache.save(tmp_path / "saved", overwrite=True),
        "append_layers": lambda cache: cache.append_layers([(keys, values)] * LAYERS),
        "update": lambda cache: cache.update(keys, values, 1),
        "keys": lambda cache: cache.keys(0),
        "scores": lambda cache: cache.scores(asked, 0),
        "attend": lambda cache: cache.attend(asked, 0, causal=True, fresh=(keys, values)),
        "merge": lambda cache: DecoderCache.merge([cache, cache]),
    }
    for name, call in calls.items():
        failed = 0
        while True:
            cache = pair.there.fork() if origin == "made" else DecoderCache.load(path, backend="gpu")
            before = state(cache.fork(), tmp_path / "before")
            try:
                with full_after(failed):
                    call(cache)
                break
            except OutOfDeviceMemory:
                failed += 1 + failed // 3  # each of the first, then some
            assert state(cache, tmp_path / "after") == before, name


def test_a_device_too_full_for_a_cache_is_a_typed_error(gpu, tmp_path):
    Pair(gpu, POLICIES[0]).snapshots(tmp_path)
    for make in (
        lambda: DecoderCache(1, 2, 32, "balanced", backend="gpu", capacity=100),
        lambda: QuantizedKVCache(32, "balanced", backend="gpu", capacity=100),
        lambda: DecoderCache.load(tmp_path / "here", backend="gpu", lazy=False),
    ):
        with full_after(0), pytest.raises(OutOfDeviceMemory, match="the device is full"):
            make()
