"""A cache that is saved, loaded and continued equals one that never was, bit for bit."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tq_cache import DecoderCache, MultiHeadKVCache, QuantizedKVCache
from tq_core import CorruptData

HEADS, DIM, LAYERS = 2, 12, 2
POLICIES = [
    "k=mse4,v=mse3",
    "k=mse3,v=prod4,sinks=2,window=3",
    "k=int4,v=float16,window=1",
    "k=mse3.25,v=mse2.5,ksearch=3,sinks=1,window=1,boundary=1@6",
    "k=absmax3,v=float32,norms=float32,sinks=1,window=2",
    "k=mse1,v=mse8,kscale=mse,vscale=norm,vsearch=3,boundary=1@5",
    "k=mse3,v=mse4,kmean=3,sinks=1,window=2",
    "k=mse4x3+mse2,v=mse3x2+mse2,kmean=2,ksplit=3,vsplit=4,head1.k=mse8,layer1.head0.v=int4",
    "k=trellis3s8,v=trellis4s8,vsearch=3,window=2",
]
DTYPES = [np.float16, np.float32, np.float64]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The bytes of a cache's snapshot: everything that the cache is, apart from spare room and backend."""
    folder, count = tmp_path_factory.mktemp("bytes"), itertools.count()

    def write(cache, **facts):
        path = folder / f"{next(count)}.safetensors"
        cache.save(path, **facts)
        return path.read_bytes()

    return write


@pytest.fixture(scope="module")
def reloaded(tmp_path_factory):
    """The cache after it was saved and loaded."""
    folder, count = tmp_path_factory.mktemp("reloaded"), itertools.count()

    def reload(cache, **how):
        path = folder / f"{next(count)}.safetensors"
        cache.save(path)
        return type(cache).load(path, **how)

    return reload


def _change(cache, name, argument, generator):
    batch = cache.batch
    if name == "append":
        tokens, dtype = argument
        x = generator.standard_normal((LAYERS, batch, HEADS, tokens, DIM)).astype(dtype)
        for layer in range(LAYERS):
            cache.append(x[layer], -2 * x[layer], layer)
    elif name == "crop_rows":
        cache.crop(argument[:batch])
    elif name == "reorder":
        cache.reorder([index % batch for index in argument[:batch]])
    elif name == "select":
        cache.select([index % batch for index in argument])
    elif name == "clear":
        cache.clear()
    else:
        cache.crop(argument)


changes = st.one_of(
    st.tuples(st.just("append"), st.tuples(st.integers(0, 6), st.sampled_from(DTYPES))),
    st.tuples(st.just("crop"), st.integers(0, 9)),
    st.tuples(st.just("crop_rows"), st.lists(st.integers(0, 9), min_size=3, max_size=3)),
    st.tuples(st.just("reorder"), st.lists(st.integers(0, 2), min_size=3, max_size=3)),
    st.tuples(st.just("select"), st.lists(st.integers(0, 2), min_size=1, max_size=3)),
    st.tuples(st.just("clear"), st.none()),
)
steps = st.lists(st.one_of(changes, changes, st.tuples(st.just("save_and_load"), st.booleans())), max_size=8)


@settings(max_examples=80, deadline=None)
@given(steps, st.sampled_from(POLICIES), st.sampled_from([0, 6]), st.booleans())
def test_any_history_with_snapshots_equals_the_same_without(saved, reloaded, actions, policy, limit, lazy):
    plain = DecoderCache(LAYERS, HEADS, DIM, policy, batch=2, max_tokens=limit, seed=3)
    other = DecoderCache(LAYERS, HEADS, DIM, policy, batch=2, max_tokens=limit, seed=3)
    _change(plain, "append", (4, np.float32), np.random.default_rng(1))
    _change(other, "append", (4, np.float32), np.random.default_rng(1))
    other = reloaded(other, lazy=lazy)
    for index, (name, argument) in enumerate(actions):
        if name == "save_and_load":
            other = reloaded(other, lazy=argument)
            continue
        for cache in (plain, other):
            _change(cache, name, argument, np.random.default_rng(index))
    assert other.lengths == plain.lengths
    queries = np.random.default_rng(9).standard_normal((plain.batch, 4, 1, DIM)).astype(np.float32)
    for layer in range(LAYERS):
        assert np.array_equal(other.attend(queries, layer), plain.attend(queries, layer))
        assert np.array_equal(other.scores(queries, layer), plain.scores(queries, layer))
    assert saved(other) == saved(plain)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_one_head_and_one_layer_continue_exactly(policy, dtype, saved, reloaded, vectors):
    for plain, lead in (
        (QuantizedKVCache(DIM, policy, value_dim=16, seed=2**63 + 5, max_tokens=30), ()),
        (MultiHeadKVCache(3, DIM, policy, value_dim=16, seed=7), (3,)),
    ):
        plain.append(vectors(*lead, 20, DIM, dtype=dtype), vectors(*lead, 20, 16, dtype=dtype, seed=1))
        other = reloaded(plain)
        assert (other.seed, other.max_tokens, str(other.policy)) == (plain.seed, plain.max_tokens, str(plain.policy))
        more = vectors(*lead, 15, DIM, seed=2), vectors(*lead, 15, 16, seed=3)
        for cache in (plain, other):
            assert cache.append(*more) == range(len(cache) - cache.policy.window - 15, len(cache) - cache.policy.window)
            cache.crop(-2)
            cache.reorder(np.arange(len(cache)) % 3 != 1)
        assert np.array_equal(other.keys(), plain.keys())
        assert np.array_equal(other.values(), plain.values())
        assert other.ledger().token_bytes == plain.ledger().token_bytes
        assert saved(other) == saved(plain)


def test_positions_repeated_by_reorder_are_saved(saved, reloaded, vectors):
    cache = QuantizedKVCache(DIM, "k=mse4,v=mse4,sinks=4")
    cache.append(vectors(2, DIM), vectors(2, DIM))
    cache.reorder([0, 0, 0, 1, 1])  # two tokens seen, five held: two more will be sinks
    other = reloaded(cache)
    x = vectors(4, DIM, seed=1)
    for held in (cache, other):
        assert held.append(x, x) == range(7, 9)
    assert np.array_equal(other.keys(), cache.keys())
    assert np.array_equal(cache.keys()[5:7], x[:2])
    assert saved(other) == saved(cache)


def test_an_empty_cache_keeps_the_dtype_of_its_window(saved, reloaded, vectors):
    cache = QuantizedKVCache(DIM, "k=mse4,v=mse4,window=4")
    assert saved(reloaded(cache)) == saved(cache)
    cache.append(vectors(2, DIM, dtype=np.float64), vectors(2, DIM, dtype=np.float32))
    cache.crop(0)
    other = reloaded(cache)
    half = vectors(3, DIM, dtype=np.float16)
    for held in (cache, other):
        held.append(half, half)
    assert other.ledger().window == cache.ledger().window == 3 * DIM * (8 + 4)


def test_equal_caches_give_equal_bytes_however_they_came_to_be(saved, vectors):
    keys, values = vectors(3, 40, DIM), vectors(3, 40, DIM, seed=1)
    at_once = MultiHeadKVCache(3, DIM, "k=mse4,v=prod3,window=5", capacity=100)
    at_once.append(keys, values)
    one_by_one = MultiHeadKVCache(3, DIM, " v=prod3 ,k=mse4,window=5")
    for token in range(40):
        one_by_one.append(keys[:, token : token + 1], values[:, token : token + 1])
    twin = one_by_one.fork()
    twin.append(keys, values)
    twin.crop(40)
    facts = {"model": "m", "rope": {"b": 1, "a": [2.5]}, "tokens": list(range(40))}
    assert saved(at_once, **facts) == saved(one_by_one, **{**facts, "rope": {"a": [2.5], "b": 1}})
    assert saved(at_once) != saved(twin)  # the window was quantized and stays so
    assert saved(at_once) == saved(at_once.fork())


def test_rows_that_share_memory_are_rows_of_their_own_when_loaded(saved, reloaded, vectors):
    cache = DecoderCache(1, HEADS, DIM, "k=mse4,v=mse4")
    cache.append(vectors(1, HEADS, 9, DIM), vectors(1, HEADS, 9, DIM), 0)
    cache.repeat(2)
    other = reloaded(cache)
    other.crop([3, 9])
    assert other.lengths == (3, 9)
    cache.crop([3, 9])
    assert saved(other) == saved(cache)
    assert saved(DecoderCache.merge(other.split())) == saved(cache)


def test_only_tokens_in_use_are_written(saved, vectors):
    small, roomy = (QuantizedKVCache(DIM, "k=mse4,v=mse4", capacity=room) for room in (0, 10_000))
    for cache in (small, roomy):
        cache.append(vectors(3, DIM), vectors(3, DIM))
    assert saved(small) == saved(roomy)
    assert len(saved(roomy)) < 4000


def test_a_layer_of_another_length_in_the_middle_of_a_step_is_kept(saved, reloaded, vectors):
    cache = DecoderCache(2, HEADS, DIM, "k=mse4,v=mse4,sinks=1", max_tokens=4)
    x = vectors(1, HEADS, 6, DIM)
    cache.append(x, x, 0)
    other = reloaded(cache)
    for held in (cache, other):
        assert (held.get_seq_length(0), held.get_seq_length(1)) == (4, 0)
        held.append(x, x, 1)
        held.append(x, x, 0)
    assert saved(other) == saved(cache)


def test_loading_reads_no_tokens_and_growing_copies_only_what_grows(tmp_path, vectors):
    cache = DecoderCache(2, HEADS, 64, "k=mse4,v=mse4,window=8")
    x = vectors(1, HEADS, 500, 64)
    for layer in range(2):
        cache.append(x, x, layer)
    path = tmp_path / "cache"
    cache.save(path)
    before = path.read_bytes()
    other = DecoderCache.load(path)
    assert other.ledger().items == {**cache.ledger().items, "padding": 0}
    mapped = {id(array.memory) for layer in other._rows[0] for side in layer.sides() for _, array in side.arrays()}
    assert not any(array.memory.flags.writeable for _, array in other._rows[0][0].groups[0].keys.arrays())
    other.attend(vectors(1, HEADS, 1, 64), 0)
    other.crop(-3)
    other.append(x[:, :, :2], x[:, :, :2], 0)  # the window grows, the codes do not
    kept = {id(array.memory) for layer in other._rows[0] for side in layer.sides() for _, array in side.arrays()}
    assert len(mapped - kept) == 2
    other.append(x, x, 0)
    other.clear()
    assert path.read_bytes() == before


def test_a_cache_may_be_saved_onto_the_file_that_it_lies_in(tmp_path, saved, vectors):
    cache = QuantizedKVCache(DIM, "k=mse4,v=mse4,window=2")
    cache.append(vectors(30, DIM), vectors(30, DIM))
    path = tmp_path / "cache"
    cache.save(path)
    other = QuantizedKVCache.load(path)
    second = QuantizedKVCache.load(path)
    other.append(vectors(1, DIM), vectors(1, DIM))
    other.save(path, overwrite=True)
    assert saved(second) == saved(cache)  # its file has no name any more, and lives on
    assert len(QuantizedKVCache.load(path)) == 31


def _damaged(path, array):
    """Change one byte of that array in the file, and return its name in the header."""
    data = path.read_bytes()
    start = data.index(array.tobytes(), 8 + int.from_bytes(data[:8], "little"))
    path.write_bytes(data[:start] + bytes([data[start] ^ 1]) + data[start + 1 :])


@pytest.mark.parametrize("side", ["k", "v"])
def test_a_damaged_tensor_is_named_before_any_number_of_it_is_used(tmp_path, vectors, side):
    cache = DecoderCache(2, HEADS, 32, "k=mse4,v=mse4,window=3")
    for layer in range(2):
        x = vectors(1, HEADS, 40, 32, seed=layer)
        cache.append(x, -x, layer)
    path = tmp_path / "cache"
    cache.save(path)
    layer = cache._rows[0][1].groups[0]
    _damaged(path, (layer.keys if side == "k" else layer.values).coded["packed"].view)
    says = rf"{path}: checksum of layers\.1\.rows\.0\.{side}\.codes does not match"
    with pytest.raises(CorruptData, match=says):
        DecoderCache.load(path, lazy=False)
    other = DecoderCache.load(path)
    x, queries = vectors(1, HEADS, 1, 32), vectors(1, HEADS, 1, 32)
    assert np.array_equal(other.attend(queries, 0), cache.attend(queries, 0))
    before = other.ledger(), other.lengths, other.get_seq_length(1)
    read = (lambda: other.keys(1)) if side == "k" else (lambda: other.values(1))
    for use in (
        read,
        read,
        lambda: other.attend(queries, 1),
        lambda: other.append(x.astype(np.float64), x.astype(np.float64), 1),
        lambda: other.update(x, x, 1),
        lambda: other.fork().attend(queries, 1),
        lambda: other.save(tmp_path / "again"),
        *((lambda: other.scores(queries, 1),) if side == "k" else ()),
    ):
        with pytest.raises(CorruptData, match=says):
            use()
    assert (other.ledger(), other.lengths, other.get_seq_length(1)) == before
    assert not (tmp_path / "again").exists()
    other.crop(0)  # forgets what is damaged
    other.append(x, x, 0)
    assert other.lengths == (1,)


def test_a_reorder_that_meets_damage_changes_neither_side(tmp_path, vectors):
    cache = QuantizedKVCache(32, "k=mse4,v=mse4")
    cache.append(vectors(9, 32), vectors(9, 32, seed=1))
    path = tmp_path / "cache"
    cache.save(path)
    _damaged(path, cache._layer.groups[0].values.coded["scales"].view)
    other = QuantizedKVCache.load(path)
    with pytest.raises(CorruptData, match=r"layers\.0\.rows\.0\.v\.scales"):
        other.reorder([1, 0])
    assert len(other) == 9
    assert np.array_equal(other.keys(), cache.keys())


def test_an_append_that_meets_damage_reserves_nothing(tmp_path, vectors):
    cache = QuantizedKVCache(32, "k=mse4,v=mse4,window=4")
    cache.append(vectors(9, 32), vectors(9, 32, seed=1))
    cache.crop(-3)
    path = tmp_path / "cache"
    cache.save(path)
    _damaged(path, cache._layer.groups[0].values.coded["packed"].view)
    other = QuantizedKVCache.load(path)
    before = other.ledger()
    wide = vectors(2, 32, dtype=np.float64)  # would widen the window of the keys, which are sound
    with pytest.raises(CorruptData, match=r"layers\.0\.rows\.0\.v\.codes"):
        other.append(wide, wide)
    assert other.ledger() == before
    assert np.array_equal(other.keys(), cache.keys())
