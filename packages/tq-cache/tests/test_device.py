"""A cache on a device does what one on the host does, number for number, and no array leaves the device unasked.

The device is tq_core's strict one: host memory behind arrays that refuse all that cupy's refuse.
"""

import numpy as np
import pytest

from tq_cache import DecoderCache, MultiHeadKVCache, QuantizedKVCache
from tq_core import InvalidDtype, NotFinite, OutOfDeviceMemory, ScaleRange, ShapeMismatch, WrongDevice
from tq_core.strict_device import HostGpu, StrictArray, full_after, installed, waits

POLICIES = [
    "k=mse4,v=mse4,sinks=2,window=4",
    "k=mse3,v=mse2.5,kscale=norm,vscale=mse,norms=float32",
    "k=prod4,v=mse8,window=3",
    "k=trellis2s8,v=trellis3s8,sinks=1",
    "k=float16,v=float32,sinks=1,window=2",
    "k=int4,v=int3,sinks=1",
    "k=absmax5,v=int7,window=2",
    "k=mse3x8+mse2,v=mse3x8+mse2,ksplit=3,vsplit=2,kmean=4,sinks=1,window=2",
    "k=mse3x4+mse2,v=int5,kmean=2,ksplit=3,vsplit=2,sinks=1,window=2,head1.k=mse2,head1.v=mse3x5+mse2",
]
LAYERS, BATCH, HEADS, DIM = 2, 2, 2, 32


def dtype_of(name):
    """A dtype by name; bfloat16 comes from ml_dtypes, or the test is skipped."""
    if name == "bfloat16":
        reason = "bfloat16 arrays come from ml_dtypes, which is not installed"
        return pytest.importorskip("ml_dtypes", reason=reason).bfloat16
    return np.dtype(name)


@pytest.fixture
def gpu():
    """A backend `gpu` whose arrays are as strict as cupy's."""
    with installed(HostGpu()) as backend:
        yield backend


class Pair:
    """The same cache on the host and on a device, told the same."""

    def __init__(self, gpu, policy, *, dtype=np.float32, **options):
        self.gpu, self.dtype = gpu, dtype
        self.here = DecoderCache(LAYERS, HEADS, DIM, policy, batch=BATCH, backend="numpy", **options)
        self.there = DecoderCache(LAYERS, HEADS, DIM, policy, batch=BATCH, backend="gpu", **options)
        self.random = np.random.default_rng(7)

    def vectors(self, tokens, heads=HEADS):
        made = self.random.standard_normal((self.here.batch, heads, tokens, DIM))
        return (made * np.exp(self.random.uniform(-1, 1, (self.here.batch, heads, 1, 1)))).astype(self.dtype)

    def append(self, tokens):
        put = self.gpu.device.asarray
        if tokens > 8:  # all layers in one call
            new = [(self.vectors(tokens), self.vectors(tokens)) for _ in range(LAYERS)]
            moved = [tuple(map(put, both)) for both in new]
            assert self.here.append_layers(new) == self.there.append_layers(moved)
            return
        for layer in range(LAYERS):
            keys, values = self.vectors(tokens), self.vectors(tokens)
            assert self.here.append(keys, values, layer) == self.there.append(put(keys), put(values), layer)

    def both(self, change):
        """The same change of both."""
        change(self.here)
        change(self.there)

    def check(self):
        """Everything that can be read of both is equal."""
        assert self.there.lengths == self.here.lengths
        assert str(self.there.ledger()) == str(self.here.ledger())
        queries = self.random.standard_normal((self.here.batch, 2 * HEADS, 3, DIM)).astype(np.float32)
        asked, downloads = self.gpu.device.asarray(queries), self.gpu.device.downloads
        causal = min(self.here.lengths) >= 3
        fresh = self.vectors(2), self.vectors(2)
        moved = tuple(map(self.gpu.device.asarray, fresh))
        for layer in range(LAYERS):
            found = [
                (self.here.scores(queries, layer), self.there.scores(asked, layer)),
                (self.here.attend(queries, layer, causal=causal), self.there.attend(asked, layer, causal=causal)),
                (
                    self.here.attend(queries, layer, softcap=5.0, fresh=fresh),
                    self.there.attend(asked, layer, softcap=5.0, fresh=moved),
                ),
            ]
            if len(set(self.here.lengths)) == 1:
                found += [(self.here.keys(layer), self.there.keys(layer))]
                found += [(self.here.values(layer, 1), self.there.values(layer, 1))]
            assert self.gpu.device.downloads == downloads
            for expected, got in found:
                assert type(got) is StrictArray
                np.testing.assert_array_equal(self.gpu.device.to_host(got), expected)
                downloads += 1

    def snapshots(self, folder):
        """Both as bytes, which must be equal."""
        self.here.save(folder / "here", overwrite=True)
        self.there.save(folder / "there", overwrite=True)
        assert (folder / "there").read_bytes() == (folder / "here").read_bytes()
        return folder / "here"


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


BAD = [
    (lambda pair, x, put: pair.there.append(x, x, 0), WrongDevice, "keys lies on the host"),
    (lambda pair, x, put: pair.there.append(put(x), x, 0), WrongDevice, "values lies on the host"),
    (lambda pair, x, put: pair.here.append(put(x), put(x), 0), WrongDevice, "keys lies on a device and is read on"),
    (lambda pair, x, put: pair.there.attend(x, 0), WrongDevice, "queries lies on the host"),
    (lambda pair, x, put: pair.here.attend(put(x), 0), WrongDevice, "queries lies on a device"),
    (lambda pair, x, put: pair.there.attend(put(x), 0, fresh=(x, x)), WrongDevice, "keys lies on the host"),
    (lambda pair, x, put: pair.there.append(put(x.astype(int)), put(x), 0), InvalidDtype, "got int64"),
    (lambda pair, x, put: pair.there.append(put(x[..., 1:]), put(x), 0), ShapeMismatch, "keys must have shape"),
    (lambda pair, x, put: pair.there.append(put(x * np.nan), put(x), 0), NotFinite, r"keys\[0, 0, 0, 0\] is nan"),
    (lambda pair, x, put: pair.there.append(put(x), put(x * 1e30), 0), ScaleRange, "overflows float16"),
    (lambda pair, x, put: pair.there.append(put(x), put(x.astype(float) * 1e300), 0), ScaleRange, "overflows float16"),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD)
def test_bad_input_is_a_typed_error_and_changes_nothing(gpu, call, error, message, tmp_path):
    pair = Pair(gpu, "k=mse4,v=mse4,sinks=8,window=0")
    pair.append(9)
    before = pair.snapshots(tmp_path).read_bytes()
    with pytest.raises(error, match=message):
        call(pair, pair.vectors(2), gpu.device.asarray)
    assert pair.snapshots(tmp_path).read_bytes() == before
    pair.check()


@pytest.mark.parametrize("policy", POLICIES)
def test_a_full_device_is_a_typed_error_and_changes_nothing(gpu, policy, tmp_path):
    pair = Pair(gpu, policy)
    pair.append(9)
    before = pair.snapshots(tmp_path).read_bytes()
    keys, values = (gpu.device.asarray(pair.vectors(40)) for _ in range(2))
    pair.there.fork().append(keys, values, 0)  # the tables of codecs are made at first use
    failed = 0
    while True:
        try:
            with full_after(failed):
                pair.there.append(keys, values, 0)
            break
        except OutOfDeviceMemory:
            failed += 1
            pair.there.save(tmp_path / "there", overwrite=True)
            assert (tmp_path / "there").read_bytes() == before
    assert failed > 10
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


def test_auto_is_the_host_unless_the_environment_says_otherwise(gpu, monkeypatch):
    x = np.ones((BATCH, HEADS, 1, DIM), np.float32)
    monkeypatch.delenv("TQ_BACKEND", raising=False)
    DecoderCache(LAYERS, HEADS, DIM, "balanced", batch=BATCH).append(x, x, 0)
    monkeypatch.setenv("TQ_BACKEND", "gpu")
    cache = DecoderCache(LAYERS, HEADS, DIM, "balanced", batch=BATCH)
    cache.append(gpu.device.asarray(x), gpu.device.asarray(x), 0)
    with pytest.raises(WrongDevice, match="keys lies on the host"):
        cache.append(x, x, 0)


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
    failed = 0
    while True:
        try:
            with full_after(failed):
                found = pair.there.update(keys, values, 0)
            break
        except OutOfDeviceMemory:
            failed += 1 + failed // 8  # each of the first, then most
            pair.there.save(tmp_path / "there", overwrite=True)
            assert (tmp_path / "there").read_bytes() == before
    assert failed > 10
    expected = pair.here.update(gpu.device.to_host(keys), gpu.device.to_host(values), 0)
    for got, want in zip(found, expected, strict=True):
        np.testing.assert_array_equal(gpu.device.to_host(got), want)
    pair.append(2)
    pair.snapshots(tmp_path)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("policy", [*POLICIES, "k=mse4,v=mse4,kmean=4,sinks=2,window=6,norms=float32"])
def test_a_call_waits_for_the_device_once(gpu, policy, dtype):
    pair = Pair(gpu, policy, dtype=dtype_of(dtype))
    put = gpu.device.asarray
    keys, values, asked = (put(pair.vectors(tokens, heads)) for tokens, heads in ((5, HEADS), (5, HEADS), (3, 4)))
    cache = pair.there
    calls = {
        "append": lambda: cache.append(keys, values, 0),
        "append_layers": lambda: cache.append_layers([(keys, values)] * LAYERS),
        "update": lambda: cache.fork().update(keys, values, 0),
        "scores": lambda: cache.scores(asked, 0),
        "attend": lambda: cache.attend(asked, 0, causal=True, fresh=(keys, values)),
        "tiles": lambda: cache.attend(asked, 0, softcap=3.0, workspace_bytes=1),
    }
    for _ in range(3):
        for name, call in calls.items():
            before = waits()
            call()
            assert waits() - before == 1, name
    before = waits()
    cache.keys(1)
    cache.crop(4)
    cache.repeat(2)
    cache.clear()
    assert waits() == before


def test_what_only_seems_too_large_for_a_window_is_looked_at_again(gpu):
    pair = Pair(gpu, "k=mse4,v=mse4,window=4")
    keys, values = pair.vectors(3), pair.vectors(3) * np.float32(3000)  # norms that float16 holds, though near its end
    pair.here.append(keys, values, 0)
    pair.there.append(gpu.device.asarray(keys), gpu.device.asarray(values), 0)
    assert pair.there.get_seq_length(0) == 3
    values[1, 1, 2] *= 100
    with pytest.raises(ScaleRange) as expected:
        pair.here.append(keys, values, 0)
    with pytest.raises(ScaleRange) as found:
        pair.there.append(gpu.device.asarray(keys), gpu.device.asarray(values), 0)
    assert str(found.value) == str(expected.value)


ODD = [  # what is bad in keys and in values, and whether the call attends
    (np.nan, 1.0),
    (1.0, np.inf),
    (np.nan, np.nan),
    (1e30, 1.0),
    (1.0, -1e30),
    (1e30, np.nan),
]


@pytest.mark.parametrize("policy", [*POLICIES, "k=mse4,v=mse4,kmean=2,sinks=3,window=8"])
@pytest.mark.parametrize(("first", "second"), ODD)
def test_bad_numbers_are_told_as_on_the_host(gpu, policy, first, second, tmp_path):
    pair = Pair(gpu, policy)
    pair.append(5)
    before = pair.snapshots(tmp_path).read_bytes()
    keys, values, asked = pair.vectors(3), pair.vectors(3), pair.vectors(2)
    keys[1, 1, 2, 7] *= first
    values[0, 1, 2, 5] *= second
    asked[1, 0, 1, 3] *= first
    put = gpu.device.asarray
    for here, there in (
        (lambda: pair.here.append(keys, values, 1), lambda: pair.there.append(put(keys), put(values), 1)),
        (lambda: pair.here.update(keys, values, 0), lambda: pair.there.update(put(keys), put(values), 0)),
        (lambda: pair.here.attend(asked, 0), lambda: pair.there.attend(put(asked), 0)),
        (lambda: pair.here.scores(asked, 0), lambda: pair.there.scores(put(asked), 0)),
        (
            lambda: pair.here.attend(np.abs(asked) < 9, 0),
            lambda: pair.there.attend(put(np.abs(asked) < 9), 0),
        ),
    ):
        told = []
        kept = pair.here.fork(), pair.there.fork()
        for call in (here, there):
            try:
                call()
                told.append("nothing")
            except (NotFinite, ScaleRange, InvalidDtype) as error:
                told.append(f"{type(error).__name__}: {error}")
        assert told[0] == told[1]
        if told[0] != "nothing":
            assert pair.snapshots(tmp_path).read_bytes() == before
        pair.here, pair.there = kept


def state(cache, path):
    cache.save(path, overwrite=True)
    return path.read_bytes()


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
