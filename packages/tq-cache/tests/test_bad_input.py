"""Bad input is a typed error that says what came, and it changes nothing."""

import numpy as np
import pytest

from tq_cache import DecoderCache, InvalidPolicy, MultiHeadKVCache, PolicyMismatch, QuantizedKVCache
from tq_core import (
    BackendUnavailable,
    InvalidDimension,
    InvalidDtype,
    InvalidSpec,
    NotFinite,
    ScaleRange,
    ShapeMismatch,
    TurboQuantError,
)

DIM = 16
POLICY = "k=mse4,v=mse3,sinks=1,window=4"


@pytest.fixture
def filled(vectors):
    """A layer cache with 10 tokens, and what it held before the bad call."""
    cache = MultiHeadKVCache(2, DIM, POLICY)
    cache.append(vectors(2, 10, DIM), vectors(2, 10, DIM, seed=1))
    return cache


def _state(cache):
    return cache.keys().tobytes(), cache.values().tobytes(), len(cache), cache.ledger()


def _bad(change, value):
    good = np.ones((2, 3, DIM), np.float32)
    good[change] = value
    return good


@pytest.mark.parametrize(
    ("keys", "values", "error", "says"),
    [
        (np.ones((2, 3, DIM + 1)), np.ones((2, 3, DIM)), ShapeMismatch, r"keys must have shape \(2, n, 16\)"),
        (np.ones((2, 3, DIM)), np.ones((2, 3, DIM - 1)), ShapeMismatch, r"values must have shape \(2, n, 16\)"),
        (np.ones((3, DIM)), np.ones((3, DIM)), ShapeMismatch, r"got \(3, 16\)"),
        (np.ones((1, 3, DIM)), np.ones((1, 3, DIM)), ShapeMismatch, r"got \(1, 3, 16\)"),
        (np.ones((2, 3, DIM)), np.ones((2, 2, DIM)), ShapeMismatch, "keys hold 3 tokens and values 2"),
        (np.ones((2, 3, DIM), int), np.ones((2, 3, DIM)), InvalidDtype, "keys must be float16, float32 or float64"),
        (np.ones((2, 3, DIM)), np.ones((2, 3, DIM), complex), InvalidDtype, "values must be float16"),
        (_bad((1, 2, 5), np.nan), np.ones((2, 3, DIM)), NotFinite, r"keys\[1, 2, 5\] is nan"),
        (np.ones((2, 3, DIM)), _bad((0, 1, 7), -np.inf), NotFinite, r"values\[0, 1, 7\] is -inf"),
        (np.ones((2, 9, DIM)) * 1e6, np.ones((2, 9, DIM)), ScaleRange, "norms=float32"),
        (np.ones((2, 9, DIM)), np.ones((2, 9, DIM)) * 1e6, ScaleRange, "norms=float32"),
    ],
)
def test_a_failing_append_leaves_every_head_untouched(filled, keys, values, error, says):
    before = _state(filled)
    for _ in range(2):
        with pytest.raises(error, match=says) as caught:
            filled.append(keys, values)
        assert isinstance(caught.value, TurboQuantError)
    assert _state(filled) == before


def test_a_failing_update_leaves_the_model_untouched(vectors):
    cache = DecoderCache(2, 2, DIM, "k=mse4,v=mse4", batch=2)
    cache.update(vectors(2, 2, 5, DIM), vectors(2, 2, 5, DIM), 0)
    before = cache.keys(0).tobytes(), cache.ledger()
    bad = np.ones((2, 2, 1, DIM))
    bad[1, 0, 0, 3] = np.inf
    with pytest.raises(NotFinite, match=r"values\[1, 0, 0, 3\]"):
        cache.update(np.ones((2, 2, 1, DIM)), bad, 0)
    with pytest.raises(InvalidSpec, match=r"layer_idx must lie in 0\.\.1, got 2"):
        cache.append(vectors(2, 2, 1, DIM), vectors(2, 2, 1, DIM), 2)
    with pytest.raises(InvalidSpec, match="layer_idx"):
        cache.keys(-1)
    assert (cache.keys(0).tobytes(), cache.ledger()) == before


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: QuantizedKVCache(1, POLICY), InvalidDimension, "head_dim must lie in 2"),
        (lambda: QuantizedKVCache(16.0, POLICY), InvalidDimension, "head_dim must be an integer"),
        (lambda: QuantizedKVCache(DIM, POLICY, value_dim=0), InvalidDimension, "value_dim"),
        (lambda: MultiHeadKVCache(0, DIM, POLICY), InvalidSpec, "kv_heads"),
        (lambda: DecoderCache(0, 2, DIM, POLICY), InvalidSpec, "layers"),
        (lambda: DecoderCache(2, 2, DIM, POLICY, batch=0), InvalidSpec, "batch"),
        (lambda: QuantizedKVCache(DIM, POLICY, max_tokens=-1), InvalidSpec, "max_tokens"),
        (lambda: QuantizedKVCache(DIM, POLICY, capacity=True), InvalidSpec, "capacity must be an integer"),
        (lambda: QuantizedKVCache(DIM, POLICY, seed=-1), InvalidSpec, "seed"),
        (lambda: QuantizedKVCache(DIM, POLICY, backend="abacus"), BackendUnavailable, "abacus"),
        (lambda: QuantizedKVCache(DIM, "k=mse4"), InvalidPolicy, "v=... is missing"),
        (lambda: DecoderCache(3, 2, DIM, "k=mse4,v=mse4,boundary=2@8"), PolicyMismatch, "the model has 3"),
    ],
)
def test_a_cache_that_cannot_be_is_refused(make, error, says):
    with pytest.raises(error, match=says):
        make()


@pytest.mark.parametrize(
    ("queries", "error", "says"),
    [
        (np.ones((4, 1, DIM + 1)), ShapeMismatch, r"queries must have shape \(n, n, 16\)"),
        (np.ones((4, DIM)), ShapeMismatch, "queries must have shape"),
        (np.ones((3, 1, DIM)), ShapeMismatch, "queries have 3 heads; a multiple of the 2"),
        (np.ones((0, 1, DIM)), ShapeMismatch, "queries have 0 heads"),
        (np.full((2, 1, DIM), np.nan), NotFinite, r"queries\[0, 0, 0\]"),
        (np.full((2, 1, DIM), 1e300), NotFinite, "as float32"),
        (np.ones((2, 1, DIM), int), InvalidDtype, "queries must be float16"),
    ],
)
def test_bad_queries_are_refused(filled, queries, error, says):
    with pytest.raises(error, match=says):
        filled.scores(queries)


@pytest.mark.parametrize(
    ("span", "says"), [((-1, 2), r"-1\.\.2"), ((5, 4), r"5\.\.4"), ((0, 11), r"0\.\.11 .* holds 10")]
)
def test_a_span_outside_the_cache_is_refused(filled, span, says):
    with pytest.raises(ShapeMismatch, match=says):
        filled.keys(*span)


@pytest.mark.parametrize(("tokens", "says"), [(-11, "must lie in -10"), (1.5, "must be an integer"), (True, "integer")])
def test_a_bad_crop_changes_nothing(filled, tokens, says):
    before = _state(filled)
    with pytest.raises(InvalidSpec, match=says):
        filled.crop(tokens)
    assert _state(filled) == before


def test_cropping_beyond_the_end_changes_nothing(filled):
    before = _state(filled)
    filled.crop(11)
    assert _state(filled) == before


@pytest.mark.parametrize(
    "policy", ["k=mse4,v=mse4,window=9", "k=prod4,v=int4,window=9", "k=float16,v=absmax4,window=9"]
)
def test_a_token_that_could_not_leave_the_window_is_refused_when_it_comes(policy, vectors):
    cache = QuantizedKVCache(DIM, policy)
    cache.append(vectors(3, DIM), vectors(3, DIM))
    before = _state(cache)
    huge = np.full((1, DIM), 70_000.0)
    for keys, values in ((huge, vectors(1, DIM)), (vectors(1, DIM), 10 * huge)):
        with pytest.raises(ScaleRange):
            cache.append(keys, values)
    assert _state(cache) == before


def test_large_tokens_that_fit_are_taken(vectors):
    cache = QuantizedKVCache(DIM, "k=mse4,v=mse4,window=2")
    large = np.full((5, DIM), 12_000.0)  # norm 48000
    cache.append(large, large)
    np.testing.assert_allclose(cache.keys(), large, rtol=0.5)
