"""Caches against a plain model: a list of tokens, each exact, or quantized once when it leaves the window.

Where something is learned from the first tokens to be quantized, these wait for the last of them.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tq_cache import CachePolicy, DecoderCache, MultiHeadKVCache, QuantizedKVCache
from tq_core import TrellisQuant, TurboQuantMSE, TurboQuantProd, VectorCodec

DIM = 12


class PlainModel:
    """One side of one head. `tokens` are (decoded row, is settled); `position` counts every token ever seen.

    `learn` makes a function that quantizes one row, from the first `waits` rows that are to be quantized.
    """

    def __init__(self, learn, sinks, window, max_tokens, waits=0):
        self.learn, self.sinks, self.window, self.max_tokens, self.waits = learn, sinks, window, max_tokens, waits
        self.clear()

    def append(self, rows):
        for row in rows:
            self.tokens.append((row.astype(np.float32), row, self.position < self.sinks))
            self.position += 1
            recent = [i for i, (_, raw, settled) in enumerate(self.tokens) if not settled]
            leaving = recent[: max(0, len(recent) - self.window)]
            if self.decode is None and leaving and len(leaving) >= self.waits:
                self.decode = self.learn([self.tokens[i][1] for i in leaving])
            for i in leaving if self.decode else []:
                raw = self.tokens[i][1]
                self.tokens[i] = (self.decode(raw), raw, True)
            if self.max_tokens and len(self.tokens) > self.max_tokens:
                self.tokens.pop(0)

    def crop(self, count):
        self.position -= max(0, len(self.tokens) - count)
        self.tokens = self.tokens[:count]

    def clear(self):
        self.tokens, self.position, self.decode = [], 0, None

    def rows(self):
        return np.array([row for row, _, _ in self.tokens], np.float32).reshape(-1, DIM)


def _row_by_row(quantizer, scale):
    codec = VectorCodec(quantizer, scale=scale, underflow="zero")
    return lambda row: codec.decode(codec.encode(row))


def _learned(mean=0, channels=0, split=0, bits=(4, 2)):
    """How a head quantizes a row less the mean of its first `mean` ones, some channels at more bits."""
    parts = [_row_by_row(TurboQuantMSE(size, b, seed=5), "unbiased") for size, b in _sizes(channels, bits)]

    def learn(rows):
        rows = [row.astype(np.float64) for row in rows]
        middle = np.float32(sum(rows[:mean], np.zeros(DIM)) / mean) if mean else np.zeros(DIM, np.float32)
        energy = sum(((row.astype(np.float32) - middle).astype(np.float64) ** 2 for row in rows[:split]), np.zeros(DIM))
        ranked = sorted(range(DIM), key=lambda channel: (-energy[channel], channel))
        high, rest = sorted(ranked[:channels]), sorted(ranked[channels:])

        def decode(row):
            moved, found = row.astype(np.float32) - middle, np.empty(DIM, np.float32)
            for channels_of, part in zip([high, rest] if high else [rest], parts, strict=True):
                found[channels_of] = part(moved[channels_of])
            return found + middle

        return decode

    return learn


def _sizes(channels, bits):
    return [(channels, bits[0]), (DIM - channels, bits[1])] if channels else [(DIM, bits[0])]


def _always(decode):
    return lambda rows: decode


# what a side's options are, how it quantizes, and how many tokens it learns from
KEYS = [
    ("k=mse3", _always(_row_by_row(TurboQuantMSE(DIM, 3, seed=5), "unbiased")), 0),
    ("k=prod3", _always(_row_by_row(TurboQuantProd(DIM, 3, seed=5), "unbiased")), 0),
    ("k=trellis4s8", _always(_row_by_row(TrellisQuant(DIM, 4, seed=5, states=8), "unbiased")), 0),
    ("k=mse2.5", _always(_row_by_row(TurboQuantMSE(DIM, 2.5, seed=5), "unbiased")), 0),
    ("k=float16", _always(lambda row: row.astype(np.float16).astype(np.float32)), 0),
    ("k=mse4,kmean=3", _learned(mean=3), 3),
    ("k=mse4x3+mse2,ksplit=4", _learned(channels=3, split=4), 4),
    ("k=mse4x5+mse2,kmean=2,ksplit=3", _learned(mean=2, channels=5, split=3), 3),
    ("k=mse4x5+mse2,kmean=5,ksplit=1", _learned(mean=5, channels=5, split=1), 5),
]
VALUES = [
    ("v=mse4,vscale=norm", _always(_row_by_row(TurboQuantMSE(DIM, 4, seed=5), "norm")), 0),
    ("v=float16", _always(lambda row: row.astype(np.float16).astype(np.float32)), 0),
    ("v=mse4x2+mse2,vsplit=2", _learned(channels=2, split=2), 2),
]

steps = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(0, 9)),
        st.tuples(st.just("crop"), st.integers(0, 20)),
        st.tuples(st.just("drop"), st.integers(0, 4)),
        st.tuples(st.just("clear"), st.just(0)),
    ),
    max_size=12,
)


@settings(max_examples=120, deadline=None)
@given(
    steps,
    st.sampled_from(KEYS),
    st.sampled_from(VALUES),
    st.integers(0, 3),
    st.integers(0, 6),
    st.sampled_from([0, 1, 5, 11, 16]),
    st.sampled_from([np.float16, np.float32, np.float64]),
)
def test_any_sequence_of_calls_equals_the_plain_model_bit_for_bit(actions, keys, values, sinks, window, limit, dtype):
    policy = CachePolicy.parse(f"{keys[0]},{values[0]},sinks={sinks},window={window}")
    waits = max(keys[2], values[2])
    if waits and 0 < limit < window + waits:
        limit = window + waits  # less is refused
    cache = QuantizedKVCache(DIM, policy, seed=5, max_tokens=limit)
    models = [PlainModel(learn, sinks, window, limit, waits) for _, learn, _ in (keys, values)]
    generator = np.random.default_rng(3)
    for action, count in actions:
        if action == "append":
            rows = generator.standard_normal((2, count, DIM)).astype(dtype)
            cache.append(rows[0], rows[1])
            for model, side in zip(models, rows, strict=True):
                model.append(side)
        elif action == "clear":
            cache.clear()
            for model in models:
                model.clear()
        else:
            keep = count if action == "crop" else max(0, len(cache) - count)
            cache.crop(count if action == "crop" else -min(count, len(cache)) or len(cache))
            for model in models:
                model.crop(keep)
        assert len(cache) == len(models[0].tokens)
        assert np.array_equal(cache.keys(), models[0].rows())
        assert np.array_equal(cache.values(), models[1].rows())


@pytest.mark.parametrize(
    "policy",
    [
        "k=mse4,v=mse4",
        "k=prod4,v=mse2,sinks=2,window=5",
        "k=int4,v=absmax3,window=3",
        "k=mse4,v=mse4,kmean=16,sinks=1,window=3",
        "k=mse4x4+mse2,v=int8x2+mse2,kmean=30,ksplit=8,vsplit=9,head1.k=mse3",
    ],
)
def test_one_by_one_equals_all_at_once(policy, vectors):
    keys, values = vectors(3, 40, DIM), vectors(3, 40, DIM, seed=1)
    at_once, one_by_one = (MultiHeadKVCache(3, DIM, policy) for _ in range(2))
    at_once.append(keys, values)
    for token in range(40):
        one_by_one.append(keys[:, token : token + 1], values[:, token : token + 1])
    assert np.array_equal(at_once.keys(), one_by_one.keys())
    assert np.array_equal(at_once.values(), one_by_one.values())


@pytest.mark.parametrize("options", ["", ",kmean=5", ",kmean=12", ",kmean=13"])
def test_heads_layers_and_rows_hold_what_single_heads_hold(options, vectors):
    policy = f"k=mse4,v=mse3,sinks=1,window=4{options}"
    keys, values = vectors(2, 3, 17, DIM), vectors(2, 3, 17, DIM, seed=1)
    decoder = DecoderCache(2, 3, DIM, policy, batch=2, seed=9)
    decoder.append(keys, values, 1)
    assert decoder.keys(0).shape == (2, 3, 0, DIM)
    for row in range(2):
        layer = MultiHeadKVCache(3, DIM, policy, seed=9)
        layer.append(keys[row], values[row])
        assert np.array_equal(decoder.keys(1)[row], layer.keys())
        for head in range(3):
            single = QuantizedKVCache(DIM, policy, seed=9)
            single.append(keys[row, head], values[row, head])
            assert np.array_equal(layer.keys()[head], single.keys())
            assert np.array_equal(layer.values()[head], single.values())


def test_append_reports_the_positions_it_quantized(vectors):
    cache = QuantizedKVCache(DIM, "k=mse4,v=mse4,sinks=2,window=3")
    x = vectors(12, DIM)
    assert cache.append(x[:4], x[:4]) == range(2, 2)
    assert cache.append(x[4:5], x[4:5]) == range(2, 2)
    assert cache.append(x[5:6], x[5:6]) == range(2, 3)
    assert cache.append(x[6:12], x[6:12]) == range(3, 9)
    exact = np.flatnonzero((cache.keys() == x).all(axis=1))
    assert exact.tolist() == [0, 1, 9, 10, 11]


def test_cropping_does_not_bring_a_quantized_token_back(vectors):
    cache = QuantizedKVCache(DIM, "k=mse2,v=mse2,window=4")
    x = vectors(10, DIM)
    cache.append(x, x)
    before = cache.keys()
    cache.crop(6)
    assert np.array_equal(cache.keys(), before[:6])
    cache.append(x[:4], x[:4])
    assert np.array_equal(cache.keys()[:6], before[:6])
    assert np.array_equal(cache.keys()[6:], x[:4])


def test_the_oldest_tokens_are_evicted(vectors):
    x = vectors(50, DIM)
    limited, free = (QuantizedKVCache(DIM, "k=mse4,v=mse4", max_tokens=limit) for limit in (8, 0))
    for cache in (limited, free):
        for start in range(0, 50, 7):
            cache.append(x[start : start + 7], x[start : start + 7])
    assert len(limited) == 8
    assert np.array_equal(limited.keys(), free.keys()[-8:])


def test_eviction_keeps_memory_bounded(vectors):
    cache = QuantizedKVCache(DIM, "k=mse4,v=mse4,window=16", max_tokens=64)
    x = vectors(1, DIM)
    cache.append(vectors(1000, DIM), vectors(1000, DIM))
    for _ in range(300):
        cache.append(x, x)
    held = cache.ledger()
    assert held.padding <= held.token_bytes  # a fraction of the 1300 tokens that passed through


def test_exact_tokens_take_the_widest_dtype_seen(vectors):
    cache = QuantizedKVCache(DIM, "k=mse4,v=mse4,window=8")
    half, single = vectors(2, DIM, dtype=np.float16), vectors(2, DIM, seed=1)
    cache.append(half, half)
    assert cache.ledger().window == 2 * 2 * DIM * 2
    cache.append(single, single)
    assert cache.ledger().window == 2 * 4 * DIM * 4
    assert np.array_equal(cache.keys(), np.concatenate([half.astype(np.float32), single]))
