"""Attention on packed codes against float64 attention over what the codes decode to."""

import gc
import tracemalloc

import numpy as np
import pytest

from tq_cache import DecoderCache, MultiHeadKVCache, QuantizedKVCache
from tq_core import InvalidDtype, InvalidSpec, NotFinite, ShapeMismatch

POLICIES = [
    "k=mse4,v=mse4",
    "k=prod4,v=mse3,sinks=3,window=20",
    "k=int4,v=absmax4,window=5",
    "k=mse3.5,v=mse2.25,sinks=2",
    "k=mse4,v=mse2.5,window=5",
    "k=mse2,v=prod3,sinks=1",
    "k=float16,v=mse8,window=400",
    "k=mse4,v=mse4,kmean=32,sinks=2,window=9",
    "k=mse4x8+mse2,v=mse4x5+mse2,kmean=16",
    "k=mse4,v=mse3,kmean=8,head1.k=mse6,head1.v=int5",
]


def _softmax_attention(queries, keys, values, scale, visible, softcap=None):
    """(heads, n, value dim) float64; `visible` (heads, n, tokens) bool."""
    group = len(queries) // len(keys)
    out = np.zeros((*queries.shape[:2], values.shape[2]))
    for head, asked in enumerate(queries.astype(np.float64)):
        logits = asked @ keys[head // group].astype(np.float64).T * scale
        if softcap:
            logits = softcap * np.tanh(logits / softcap)
        for row, seen in enumerate(visible[head]):
            if seen.any():
                weights = np.exp(logits[row, seen] - logits[row, seen].max())
                out[head, row] = weights / weights.sum() @ values[head // group, seen]
    return out


def _visible(heads, count, tokens, causal=False, sliding_window=0, mask=None):
    last = np.arange(tokens - count + 1, tokens + 1) if causal or sliding_window else np.full(count, tokens)
    positions = np.arange(tokens)
    seen = positions < last[:, None]
    if sliding_window:
        seen &= positions >= last[:, None] - sliding_window
    seen = np.broadcast_to(seen, (heads, count, tokens))
    return seen if mask is None else seen & mask


@pytest.fixture
def layer(vectors, request):
    cache = MultiHeadKVCache(2, 48, request.param, value_dim=20)
    cache.append(vectors(2, 200, 48), vectors(2, 200, 20, seed=1))
    return cache


@pytest.mark.parametrize("layer", POLICIES, indirect=True)
@pytest.mark.parametrize("workspace_bytes", [1, 30_000, 16 << 20])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"causal": True},
        {"sliding_window": 9},
        {"causal": True, "sliding_window": 60},
        {"softcap": 2.0},
        {"scale": 0.5},
    ],
    ids=str,
)
def test_attend_is_attention_over_the_decoded_tokens(layer, workspace_bytes, options, vectors):
    queries = 3 * vectors(6, 7, 48, seed=2)
    options = dict(options)
    found = layer.attend(queries, workspace_bytes=workspace_bytes, **options)
    scale, softcap = options.pop("scale", 48**-0.5), options.pop("softcap", None)
    seen = _visible(6, 7, 200, **options)
    expected = _softmax_attention(queries, layer.keys(), layer.values(), scale, seen, softcap)
    assert found.shape == (6, 7, 20)
    assert found.dtype == np.float32
    # a logit is a float32 sum, and what it is rounded by is a share of its weight
    logits = np.abs(queries.reshape(2, -1, 48) @ layer.keys().transpose(0, 2, 1)).max() * scale
    assert np.abs(found - expected).max() <= (1e-5 + 2**-22 * logits) * np.abs(expected).max()


@pytest.mark.parametrize("layer", POLICIES[:2] + POLICIES[-3:], indirect=True)
@pytest.mark.parametrize("shape", [(7, 200), (6, 7, 200), (1, 7, 200)])
def test_masks_hide_tokens_and_a_query_that_sees_nothing_gets_zeros(layer, shape, vectors):
    queries = vectors(6, 7, 48, seed=2)
    mask = np.random.default_rng(0).random(shape) > 0.8
    mask[..., 3, :] = False
    found = layer.attend(queries, mask=mask, causal=True, workspace_bytes=20_000)
    seen = _visible(6, 7, 200, causal=True, mask=mask)
    expected = _softmax_attention(queries, layer.keys(), layer.values(), 48**-0.5, seen)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert not found[:, 3].any()


def test_each_row_of_a_batch_attends_to_its_own_tokens(vectors):
    cache = DecoderCache(2, 2, 32, "k=mse4,v=mse4,sinks=2,window=6", batch=3)
    for layer in range(2):
        cache.append(vectors(3, 2, 40, 32, seed=layer), vectors(3, 2, 40, 32, seed=9), layer)
    queries = vectors(3, 4, 5, 32, seed=3)
    mask = np.random.default_rng(1).random((3, 4, 5, 40)) > 0.3
    found = cache.attend(queries, 1, mask=mask)
    per_row = cache.attend(queries, 1, mask=mask[:, :1])
    for row in range(3):
        expected = _softmax_attention(queries[row], cache.keys(1)[row], cache.values(1)[row], 32**-0.5, mask[row])
        np.testing.assert_allclose(found[row], expected, atol=2e-5)
        shared = np.broadcast_to(mask[row, :1], (4, 5, 40))
        expected = _softmax_attention(queries[row], cache.keys(1)[row], cache.values(1)[row], 32**-0.5, shared)
        np.testing.assert_allclose(per_row[row], expected, atol=2e-5)


def test_one_head_attends_as_a_layer_of_one_head(vectors):
    head, layer = QuantizedKVCache(16, "k=mse4,v=mse4"), MultiHeadKVCache(1, 16, "k=mse4,v=mse4")
    head.append(vectors(30, 16), vectors(30, 16, seed=1))
    layer.append(vectors(1, 30, 16), vectors(1, 30, 16, seed=1))
    queries = vectors(4, 16, seed=2)
    assert np.array_equal(head.attend(queries, causal=True), layer.attend(queries[None], causal=True)[0])


def test_huge_logits_do_not_overflow(vectors):
    cache = QuantizedKVCache(16, "k=mse8,v=mse8")
    cache.append(1000 * vectors(20, 16), vectors(20, 16, seed=1))
    found = cache.attend(1000 * vectors(3, 16, seed=2))
    best = (1000 * vectors(3, 16, seed=2) @ cache.keys().T).argmax(axis=1)
    np.testing.assert_allclose(found, cache.values()[best], atol=1e-4)


def test_an_empty_cache_gives_zeros_and_no_queries_give_none(vectors):
    cache = MultiHeadKVCache(2, 16, "k=mse4,v=mse4,window=2")
    assert not cache.attend(vectors(2, 3, 16)).any()
    cache.append(vectors(2, 5, 16), vectors(2, 5, 16))
    assert cache.attend(np.empty((2, 0, 16))).shape == (2, 0, 16)


@pytest.mark.parametrize("backend", ["numpy", "auto"])
@pytest.mark.parametrize(
    "policy",
    [
        "k=mse4,v=mse4,window=32",
        "k=prod4,v=prod3",
        "k=mse2.5,v=mse2.25",
        "k=mse3.5,v=int4",
        "k=mse3x32+mse2,v=absmax5",
        "k=float16,v=float32",
    ],
)
def test_scratch_memory_stays_within_the_workspace(policy, backend, vectors):
    cache = MultiHeadKVCache(2, 64, policy, backend=backend)
    cache.append(vectors(2, 20_000, 64), vectors(2, 20_000, 64, seed=1))
    for queries in (vectors(8, 4, 64, seed=2), vectors(2, 1, 64, seed=2)):  # scores take memory, or codes alone
        cache.attend(queries, workspace_bytes=1 << 20)  # whatever is made once is made
        for workspace_bytes in (1 << 20, 4 << 20):
            gc.collect()
            tracemalloc.start()
            try:
                cache.attend(queries, workspace_bytes=workspace_bytes)
                peak = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
            assert peak <= workspace_bytes + 64_000  # queries, result and Python's own objects
    dense = 2 * 20_000 * 64 * 4
    assert workspace_bytes < dense


@pytest.mark.parametrize("layer", POLICIES[:1], indirect=True)
@pytest.mark.parametrize(
    ("queries", "options", "error", "says"),
    [
        (np.ones((6, 201, 48)), {"causal": True}, ShapeMismatch, "201 causal queries .* holds 200"),
        (np.ones((3, 1, 48)), {}, ShapeMismatch, "multiple of the 2"),
        (np.full((2, 1, 48), np.inf), {}, NotFinite, r"queries\[0, 0, 0\]"),
        (np.ones((2, 1, 48)), {"scale": 0}, InvalidSpec, "scale must be finite and above 0"),
        (np.ones((2, 1, 48)), {"scale": "1"}, InvalidSpec, "scale must be a number"),
        (np.ones((2, 1, 48)), {"softcap": np.nan}, InvalidSpec, "softcap must be finite"),
        (np.ones((2, 1, 48)), {"causal": 1}, InvalidSpec, "causal must be True or False"),
        (np.ones((2, 1, 48)), {"sliding_window": -1}, InvalidSpec, "sliding_window must lie in 0"),
        (np.ones((2, 1, 48)), {"workspace_bytes": 0}, InvalidSpec, "workspace_bytes must lie in 1"),
        (np.ones((2, 1, 48)), {"mask": np.zeros((1, 200))}, InvalidDtype, "mask must be bool"),
        (np.ones((2, 1, 48)), {"mask": np.ones((1, 199), bool)}, ShapeMismatch, r"mask must have shape \(1, 200\)"),
        (np.ones((2, 1, 48)), {"mask": np.ones(200, bool)}, ShapeMismatch, r"got \(200,\)"),
        (np.ones((2, 1, 48)), {"mask": np.ones((3, 1, 200), bool)}, ShapeMismatch, r"got \(3, 1, 200\)"),
    ],
)
def test_bad_arguments_are_refused(layer, queries, options, error, says):
    with pytest.raises(error, match=says):
        layer.attend(queries, **options)
