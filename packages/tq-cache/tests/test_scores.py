"""Scores from packed codes are the inner products with what the codes decode to."""

import numpy as np
import pytest

from tq_cache import DecoderCache, MultiHeadKVCache, QuantizedKVCache

POLICIES = [
    "k=mse4,v=mse4",
    "k=prod3,v=mse2,sinks=2,window=5",
    "k=int5,v=absmax3,window=3",
    "k=float16,v=float32",
    "k=mse4,v=mse4,kmean=7,sinks=1",
    "k=mse4x4+mse2,v=int8x3+mse2,ksplit=9,vsplit=2,window=3",
    "k=mse2.5,v=mse3.25",
    "k=mse3.5x5+mse2.25,v=mse2.5,kmean=6,ksplit=8",
]


@pytest.mark.parametrize("policy", POLICIES)
def test_one_head(policy, vectors):
    cache = QuantizedKVCache(24, policy, value_dim=10)
    cache.append(vectors(30, 24), vectors(30, 10))
    queries = vectors(4, 24, seed=2)
    found = cache.scores(queries)
    assert found.shape == (4, 30)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, queries @ cache.keys().T, rtol=0, atol=2e-4)
    assert cache.values().shape == (30, 10)


@pytest.mark.parametrize("query_heads", [3, 6, 12])
def test_grouped_query_heads_read_their_key_head(query_heads, vectors):
    cache = MultiHeadKVCache(3, 32, "k=mse4,v=mse4,window=4")
    cache.append(vectors(3, 20, 32), vectors(3, 20, 32))
    queries = vectors(query_heads, 5, 32, seed=2)
    found = cache.scores(queries)
    keys = np.repeat(cache.keys(), query_heads // 3, axis=0)
    assert found.shape == (query_heads, 5, 20)
    np.testing.assert_allclose(found, np.einsum("hnd,htd->hnt", queries, keys), rtol=0, atol=2e-4)


def test_a_whole_model(vectors):
    cache = DecoderCache(2, 2, 32, "k=mse4,v=mse4,sinks=1", batch=3)
    for layer in range(2):
        cache.append(vectors(3, 2, 9, 32, seed=layer), vectors(3, 2, 9, 32), layer)
    queries = vectors(3, 4, 2, 32, seed=7)
    for layer in range(2):
        keys = np.repeat(cache.keys(layer), 2, axis=1)
        expected = np.einsum("bhnd,bhtd->bhnt", queries, keys)
        np.testing.assert_allclose(cache.scores(queries, layer), expected, rtol=0, atol=2e-4)


def test_an_empty_cache_has_no_scores(vectors):
    cache = MultiHeadKVCache(2, 16, "k=mse4,v=mse4,window=3")
    assert cache.scores(vectors(4, 5, 16)).shape == (4, 5, 0)
    assert cache.keys().shape == (2, 0, 16)
    cache.append(np.empty((2, 0, 16)), np.empty((2, 0, 16)))
    assert len(cache) == 0


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_update_returns_everything_held_in_the_dtype_that_came(dtype, vectors):
    cache = DecoderCache(1, 2, 16, "k=mse4,v=mse4", batch=2)
    for step in range(3):
        keys, values = cache.update(
            vectors(2, 2, 2, 16, seed=step, dtype=dtype), vectors(2, 2, 2, 16, dtype=dtype), layer_idx=0
        )
    assert keys.shape == values.shape == (2, 2, 6, 16)
    assert keys.dtype == values.dtype == dtype
    assert np.array_equal(keys, cache.keys(0).astype(dtype))


def test_a_span_reads_that_span(vectors):
    cache = MultiHeadKVCache(2, 16, "k=mse4,v=mse4,sinks=3,window=5")
    cache.append(vectors(2, 20, 16), vectors(2, 20, 16))
    whole = cache.keys()
    for start in range(21):
        for stop in range(start, 21):
            assert np.array_equal(cache.keys(start, stop), whole[:, start:stop])
    assert np.array_equal(cache.values(18), cache.values()[:, 18:])


def test_layers_share_tables_and_boundary_layers_have_their_bits(vectors):
    cache = DecoderCache(4, 1, 64, "k=mse2,v=mse2,boundary=1@8")
    x = vectors(1, 1, 50, 64)
    for layer in range(4):
        cache.append(x, x, layer)
    errors = [float(((cache.keys(layer) - x) ** 2).sum() / (x**2).sum()) for layer in range(4)]
    assert errors[0] == errors[3] < 1e-3 < 0.05 < errors[1] == errors[2]


def test_layers_with_options_of_their_own_store_as_told(vectors):
    cache = DecoderCache(3, 1, 64, "k=mse4,v=mse4,layer1.k=float32,layer2.window=4")
    x = vectors(1, 1, 20, 64)
    for layer in range(3):
        cache.append(x, x, layer)
    assert np.array_equal(cache.keys(1), x)
    assert not np.array_equal(cache.values(1), x)
    assert np.array_equal(cache.keys(2)[..., 16:, :], x[..., 16:, :])
    assert not np.array_equal(cache.keys(0)[..., 16:, :], x[..., 16:, :])


def test_the_seed_changes_the_codes_and_the_printed_policy_does_not(vectors):
    x = vectors(5, 32)
    caches = [QuantizedKVCache(32, "balanced", seed=seed) for seed in (0, 1)]
    plain = [QuantizedKVCache(32, "k=mse4,v=mse4", seed=seed) for seed in (0, 0, 1)]
    for cache in (*caches, *plain):
        cache.append(x, x)
    assert np.array_equal(plain[0].keys(), plain[1].keys())
    assert not np.array_equal(plain[0].keys(), plain[2].keys())
    assert str(caches[0].policy) == "k=mse4,v=mse4,sinks=4,window=128"
    assert np.array_equal(caches[0].keys(), x)


def test_update_of_the_largest_float16_stays_finite():
    cache = DecoderCache(1, 1, 16, "k=mse2,v=mse2,norms=float32")
    largest = np.full((1, 1, 2, 16), np.finfo(np.float16).max)
    largest[..., ::2] = 0  # decodes to numbers on either side of what came in
    keys, values = cache.update(largest.astype(np.float16), -largest.astype(np.float16), 0)
    assert cache.keys(0).max() > np.finfo(np.float16).max
    assert keys.dtype == values.dtype == np.float16
    assert keys.max() == -values.min() == np.finfo(np.float16).max
