"""Mutators work on packed codes: mutate(compress(x)) equals compress(mutate(x)), bit for bit, row by row."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tq_cache import DecoderCache, MultiHeadKVCache, PolicyMismatch, QuantizedKVCache
from tq_core import InvalidSpec, ShapeMismatch

HEADS, DIM = 2, 12
POLICIES = [
    "k=mse4,v=mse3",
    "k=mse3,v=prod4,sinks=2,window=3",
    "k=int4,v=float16,window=1",
    "k=mse3,v=mse4,kmean=3,sinks=1,window=2",
    "k=mse4x3+mse2,v=mse3x2+mse2,kmean=2,ksplit=3,vsplit=4,head1.k=mse8,head1.vscale=mse",
    "k=mse2.25,v=mse3.5,window=2",
    "k=trellis4s8,v=trellis3s8,kmean=2,sinks=1,window=2",
]


class PlainRow:
    """One sequence as the calls that made it: replayed token by token into a cache of one row."""

    def __init__(self, calls=()):
        self.calls = list(calls)

    def replay(self, policy, limit):
        cache = DecoderCache(1, HEADS, DIM, policy, max_tokens=limit)
        for name, argument in self.calls:
            if name == "append":
                for token in range(argument.shape[2]):
                    part = argument[:, :, token : token + 1]
                    cache.append(part, -part, 0)
            else:
                cache.crop(argument)
        return cache


def _same(cache, rows, policy, limit):
    assert cache.batch == len(rows)
    for part, row in zip(cache.split(), rows, strict=True):
        expected = row.replay(policy, limit)
        assert len(part) == len(expected)
        assert np.array_equal(part.keys(0), expected.keys(0))
        assert np.array_equal(part.values(0), expected.values(0))


indices = st.lists(st.integers(0, 7), min_size=1, max_size=4)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(0, 5)),
        st.tuples(st.just("crop"), st.integers(0, 9)),
        st.tuples(st.just("crop_rows"), st.lists(st.integers(0, 9), min_size=8, max_size=8)),
        st.tuples(st.just("reorder"), st.lists(st.integers(0, 7), min_size=8, max_size=8)),
        st.tuples(st.just("select"), indices),
        st.tuples(st.just("repeat"), st.integers(1, 2)),
        st.tuples(st.just("fork"), st.integers(0, 1)),
        st.tuples(st.just("split_and_merge"), st.just(0)),
    ),
    max_size=9,
)


@settings(max_examples=60, deadline=None)
@given(steps, st.sampled_from(POLICIES), st.sampled_from([0, 6]))
def test_any_sequence_of_mutators_equals_the_same_on_the_raw_vectors(actions, policy, limit):
    cache = DecoderCache(1, HEADS, DIM, policy, batch=2, max_tokens=limit)
    rows = [PlainRow(), PlainRow()]
    generator = np.random.default_rng(5)
    for name, argument in actions:
        batch = cache.batch
        if name == "append":
            x = generator.standard_normal((batch, HEADS, argument, DIM)).astype(np.float32)
            cache.append(x, -x, 0)
            for row, new in zip(rows, x, strict=True):
                row.calls.append(("append", new[None]))
        elif name == "crop":
            cache.crop(argument)
            for row in rows:
                row.calls.append(("crop", argument))
        elif name == "crop_rows":
            cache.crop(argument[:batch])
            for row, tokens in zip(rows, argument, strict=False):
                row.calls.append(("crop", tokens))
        elif name == "fork":
            twin = cache.fork()
            x = generator.standard_normal((batch, HEADS, 2, DIM)).astype(np.float32)
            (cache if argument else twin).append(x, x, 0)  # whoever is thrown away must not be seen
            cache = twin if argument else cache
        elif name == "split_and_merge":
            cache = DecoderCache.merge(cache.split())
        else:
            if name == "repeat":
                chosen = [row for row in range(batch) for _ in range(argument)]
            else:
                chosen = [index % batch for index in (argument[:batch] if name == "reorder" else argument)]
            if len(chosen) > 8:
                continue
            getattr(cache, name)(argument if name == "repeat" else chosen)
            rows = [PlainRow(rows[index].calls) for index in chosen]
    _same(cache, rows, policy, limit)


def test_rows_of_different_lengths_attend_to_their_own_tokens(vectors):
    cache = DecoderCache(1, HEADS, 32, "k=mse4,v=mse4,window=4", batch=3)
    cache.append(vectors(3, HEADS, 20, 32), vectors(3, HEADS, 20, 32, seed=1), 0)
    cache.crop([20, 7, 0])
    assert cache.lengths == (20, 7, 0)
    queries = vectors(3, 4, 2, 32, seed=2)
    scores, found = cache.scores(queries, 0), cache.attend(queries, 0)
    for row, part in enumerate(cache.split()[:2]):
        length = len(part)
        assert np.array_equal(scores[row, ..., :length], part.scores(queries[row : row + 1], 0)[0])
        assert (scores[row, ..., length:] == -np.inf).all()
        assert np.array_equal(found[row], part.attend(queries[row : row + 1], 0)[0])
    assert not found[2].any()
    with pytest.raises(ShapeMismatch, match=r"rows hold \[0, 7, 20\] tokens"):
        cache.keys(0)
    with pytest.raises(ShapeMismatch, match="rows hold"):
        cache.update(vectors(3, HEADS, 1, 32), vectors(3, HEADS, 1, 32), 0)
    assert cache.lengths == (20, 7, 0)


@pytest.mark.parametrize(
    "make", [lambda: QuantizedKVCache(DIM, "k=mse4,v=mse3"), lambda: MultiHeadKVCache(2, DIM, "k=prod3,v=mse3")]
)
def test_tokens_are_kept_in_any_order_without_quantizing_again(make, vectors):
    cache = make()
    lead = () if isinstance(cache, QuantizedKVCache) else (2,)
    cache.append(vectors(*lead, 9, DIM), vectors(*lead, 9, DIM, seed=1))
    keys, values = cache.keys(), cache.values()
    cache.reorder([8, 0, -2, 3, 3])
    assert np.array_equal(cache.keys(), keys[..., [8, 0, 7, 3, 3], :])
    assert np.array_equal(cache.values(), values[..., [8, 0, 7, 3, 3], :])
    cache.reorder(np.array([True, False, True, False, False]))
    assert np.array_equal(cache.keys(), keys[..., [8, 7], :])
    cache.reorder([])
    assert len(cache) == 0


def test_pruning_keeps_sinks_and_window_exact(vectors):
    cache = QuantizedKVCache(DIM, "k=mse2,v=mse2,sinks=2,window=3")
    x = vectors(12, DIM)
    cache.append(x, x)
    held = cache.keys()
    cache.reorder([0, 4, 2, 9, 11])
    assert np.array_equal(cache.keys(), held[[0, 4, 2, 9, 11]])
    cache.append(x[:2], x[:2])  # positions go on: these are no sinks, and the window holds three again
    assert np.array_equal(cache.keys()[:4], np.concatenate([held[[0, 4, 2]], cache.keys()[3:4]]))
    assert np.array_equal(cache.keys()[4:], np.stack([x[11], x[0], x[1]]))
    with pytest.raises(InvalidSpec, match="cannot change places"):
        cache.reorder([5, 0])
    assert len(cache) == 7


def test_forks_share_memory_until_one_grows(vectors):
    cache = DecoderCache(2, HEADS, DIM, "k=mse4,v=mse4", batch=1)
    for layer in range(2):
        cache.append(vectors(1, HEADS, 500, DIM), vectors(1, HEADS, 500, DIM), layer)
    alone = cache.ledger()
    cache.repeat(8)
    assert cache.ledger().total == alone.total
    assert cache.ledger().values == 8 * alone.values
    twin = cache.fork()
    cache.append(vectors(8, HEADS, 1, DIM), vectors(8, HEADS, 1, DIM), 0)
    assert cache.ledger().token_bytes > 4 * alone.token_bytes  # the first layer of all rows but one was copied
    assert twin.ledger().total == alone.total
    assert twin.lengths == (500,) * 8


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda c: c.reorder([0]), ShapeMismatch, "a row for each of 2, got 1"),
        (lambda c: c.reorder([0, 2]), ShapeMismatch, r"rows names 2, expected -2\.\.1"),
        (lambda c: c.select([]), ShapeMismatch, "at least one row"),
        (lambda c: c.select([[0]]), ShapeMismatch, "list of indices"),
        (lambda c: c.select([0.5]), ShapeMismatch, "list of indices"),
        (lambda c: c.repeat(0), InvalidSpec, "times must lie in 1"),
        (lambda c: c.crop([1]), ShapeMismatch, "one for each of 2 rows, got 1"),
        (lambda c: c.crop([1, -9]), InvalidSpec, "tokens must lie in -5"),
        (lambda c: c.crop(np.array(3)), InvalidSpec, "tokens must be an integer, got array"),
        (lambda c: c.crop(np.ones((2, 2), int)), InvalidSpec, "tokens must be an integer, got array"),
        (lambda c: DecoderCache.merge([c, 1]), InvalidSpec, "merge takes a list of DecoderCache"),
        (lambda c: DecoderCache.merge(iter([c])), InvalidSpec, "merge takes a list of DecoderCache"),
        (lambda c: DecoderCache.merge([]), ShapeMismatch, "at least one cache"),
        (lambda c: DecoderCache.merge([c, DecoderCache(1, HEADS, DIM, "safe")]), PolicyMismatch, "differ in policy"),
        (
            lambda c: DecoderCache.merge([c, DecoderCache(1, HEADS, DIM, c.policy, seed=1)]),
            PolicyMismatch,
            "seed: 0 and 1",
        ),
    ],
)
def test_a_bad_mutation_changes_nothing(call, error, says, vectors):
    cache = DecoderCache(1, HEADS, DIM, "k=mse4,v=mse4,window=2", batch=2)
    cache.append(vectors(2, HEADS, 5, DIM), vectors(2, HEADS, 5, DIM), 0)
    before = cache.keys(0).tobytes(), cache.lengths, cache.ledger()
    with pytest.raises(error, match=says):
        call(cache)
    assert (cache.keys(0).tobytes(), cache.lengths, cache.ledger()) == before


@pytest.mark.parametrize("grows", ["twin", "cache"])
def test_a_fork_does_not_see_the_other_move_its_tokens_down(grows, vectors):
    """Evicted tokens leave room in front, into which an array that is not shared would move."""
    cache = QuantizedKVCache(DIM, "k=mse4,v=mse4", max_tokens=20)
    cache.append(vectors(20, DIM), vectors(20, DIM))
    for seed in range(1, 18):
        cache.append(vectors(1, DIM, seed=seed), vectors(1, DIM, seed=seed))
    twin = cache.fork()
    expected = cache.keys()
    growing, other = (twin, cache) if grows == "twin" else (cache, twin)
    for seed in range(40):
        growing.append(vectors(1, DIM, seed=seed), vectors(1, DIM, seed=seed))
        assert np.array_equal(other.keys(), expected)


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
def test_an_update_that_fails_while_it_decodes_appended_nothing(error, monkeypatch, tmp_path):
    x = np.random.default_rng(3).standard_normal((1, 2, 9, 32)).astype(np.float32)
    cache = DecoderCache(1, 2, 32, "k=mse4,v=mse4,sinks=1,window=1", max_tokens=7, backend="numpy")
    cache.append(x[:, :, :5], x[:, :, :5], 0)
    cache.save(tmp_path / "before")

    def fails(*_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(DecoderCache, "values", fails)
        for count in (1, 3, 4):
            with pytest.raises(error):
                cache.update(x[:, :, 5 : 5 + count], x[:, :, 5 : 5 + count], 0)
            cache.save(tmp_path / "after", overwrite=True)
            assert (tmp_path / "after").read_bytes() == (tmp_path / "before").read_bytes()
