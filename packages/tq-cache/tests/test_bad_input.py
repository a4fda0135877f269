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
        (np.ma.masked_array(np.ones((2, 3, DIM)), True), np.ones((2, 3, DIM)), InvalidDtype, "keys is a masked array"),
        ([[[1.0], [1.0, 2.0]]], np.ones((2, 3, DIM)), ShapeMismatch, "keys must be an array of rows of one length"),
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
        (lambda: QuantizedKVCache(np.array([DIM]), POLICY), InvalidDimension, "head_dim must be an integer, got array"),
        (lambda: QuantizedKVCache(DIM, POLICY, seed=np.array([1])), InvalidSpec, "seed must be an integer, got array"),
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
        (np.full((2, 1, DIM), 3e38), ScaleRange, r"queries are beyond 2\*\*64"),
        (np.ones((2, 1, DIM), int), InvalidDtype, "queries must be float16"),
    ],
)
def test_bad_queries_are_refused(filled, queries, error, says):
    for ask in (filled.scores, filled.attend):
        with pytest.raises(error, match=says):
            ask(queries)


@pytest.mark.parametrize("backend", ["numpy", "auto"])
@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"scale": 1e300}, InvalidSpec, r"scale must lie in .* what float32 holds, got 1e\+300"),
        ({"softcap": 1e-300}, InvalidSpec, "softcap must lie in .* what float32 holds, got 1e-300"),
        ({"softcap": 0}, InvalidSpec, "softcap must be finite and above 0"),
        ({"mask": [[True], [True, False]]}, ShapeMismatch, "mask must be an array of rows of one length"),
        ({"fresh": (np.full((2, 1, DIM), 1e300), np.ones((2, 1, DIM)))}, ScaleRange, "fresh keys are beyond float32"),
        ({"fresh": (np.ones((2, 1, DIM)), np.full((2, 1, DIM), 1e39))}, ScaleRange, "fresh values are beyond float32"),
    ],
)
def test_bad_options_of_attend_are_refused(options, error, says, backend, vectors):
    cache = MultiHeadKVCache(2, DIM, POLICY, backend=backend)
    cache.append(vectors(2, 10, DIM), vectors(2, 10, DIM, seed=1))
    with pytest.raises(error, match=says):
        cache.attend(np.ones((2, 1, DIM)), **options)


@pytest.mark.parametrize("backend", ["numpy", "auto"])
def test_the_smallest_softcap_leaves_the_sign_of_each_logit(backend, vectors):
    cache = QuantizedKVCache(DIM, "k=mse4,v=mse4", backend=backend)
    x = vectors(50, DIM)
    cache.append(x, x)
    found = cache.attend(x[:3], softcap=2e-38)  # every logit becomes 0, nearly
    np.testing.assert_allclose(found, np.repeat(cache.values().mean(axis=0, keepdims=True), 3, axis=0), atol=1e-5)


@pytest.mark.parametrize(
    ("span", "says"), [((-1, 2), r"-1\.\.2"), ((5, 4), r"5\.\.4"), ((0, 11), r"0\.\.11 .* holds 10")]
)
def test_a_span_outside_the_cache_is_refused(filled, span, says):
    with pytest.raises(ShapeMismatch, match=says):
        filled.keys(*span)


@pytest.mark.parametrize("span", [(1.0, 2), ("a", 2), (0, True), (np.array([0]), 2)])
def test_a_span_of_no_integers_is_refused(filled, span):
    for read in (filled.keys, filled.values):
        with pytest.raises(InvalidSpec, match=r"st(art|op) must be an integer"):
            read(*span)


@pytest.mark.parametrize(
    ("tokens", "says"),
    [
        (-11, "must lie in -10"),
        (1.5, "must be an integer"),
        (True, "integer"),
        (np.array([3]), "must be an integer, got array"),
    ],
)
def test_a_bad_crop_changes_nothing(filled, tokens, says):
    before = _state(filled)
    with pytest.raises(InvalidSpec, match=says):
        filled.crop(tokens)
    assert _state(filled) == before


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (np.array([2**64 - 1], np.uint64), "rows names 18446744073709551615"),  # not -1
        ([[1], [1, 2]], "rows must be an array of rows of one length"),
    ],
)
def test_a_bad_order_changes_nothing(filled, rows, says):
    before = _state(filled)
    with pytest.raises(ShapeMismatch, match=says):
        filled.reorder(rows)
    assert _state(filled) == before


@pytest.mark.parametrize("side", ["keys", "values"])
def test_a_sink_beyond_float32_is_refused(side, vectors):
    cache = QuantizedKVCache(DIM, "k=mse4,v=mse4,sinks=4")
    cache.append(vectors(2, DIM), vectors(2, DIM))
    before = _state(cache)
    tokens = {"keys": np.ones((1, DIM)), "values": np.ones((1, DIM))} | {side: np.full((1, DIM), -1e39)}
    with pytest.raises(ScaleRange, match=r"sinks are beyond float32, up to 1e\+39; scale the data down"):
        cache.append(**tokens)
    assert _state(cache) == before


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
