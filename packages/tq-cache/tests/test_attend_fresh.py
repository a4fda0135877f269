"""Attention over tokens that are not held: exact, behind the cache's own, and gone afterwards."""

import numpy as np
import pytest
from numpy.typing import NDArray

from tq_cache import DecoderCache, MultiHeadKVCache
from tq_core import InvalidSpec, ShapeMismatch, backends

KV_HEADS, QUERY_HEADS, DIMS, NEW = 2, 4, (64, 32), 7
POLICIES = ["k=mse4,v=mse4", "k=mse8,v=mse4,sinks=2,window=5", "k=mse3,v=int4", "k=mse4,v=mse3,sinks=9,window=30"]
BACKENDS = [name for name in ("numpy", "simd") if backends().get(name) == "ok"]


def draw(seed: int, *shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def pair(seed: int, *lead: int, tokens: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    return draw(seed, *lead, tokens, DIMS[0]), draw(seed + 1, *lead, tokens, DIMS[1])


def expected(
    queries: NDArray[np.float32],
    keys: NDArray[np.float32],
    values: NDArray[np.float32],
    *,
    window: int = 0,
    softcap: float = 0.0,
) -> NDArray[np.float64]:
    """Causal attention of the last queries in float64, (query heads, n, value dim)."""
    grouped = queries.astype(np.float64).reshape(KV_HEADS, -1, *queries.shape[1:])
    logits = grouped @ keys.astype(np.float64).swapaxes(1, 2)[:, None] / np.sqrt(DIMS[0])
    if softcap:
        logits = softcap * np.tanh(logits / softcap)
    count, tokens = logits.shape[2:]
    distance = np.arange(tokens - count, tokens)[:, None] - np.arange(tokens)
    logits[..., (distance < 0) | ((distance >= window) if window else False)] = -np.inf
    weights = np.exp(logits - logits.max(axis=3, keepdims=True))
    weights /= weights.sum(axis=3, keepdims=True)
    return (weights @ values.astype(np.float64)[:, None]).reshape(QUERY_HEADS, count, DIMS[1])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("held", [0, 3, 150])
@pytest.mark.parametrize("policy", POLICIES)
def test_fresh_tokens_stand_exactly_behind_those_held(policy: str, held: int, backend: str) -> None:
    cache = MultiHeadKVCache(KV_HEADS, DIMS[0], policy, value_dim=DIMS[1], backend=backend)
    cache.append(*pair(1, KV_HEADS, tokens=held))
    fresh, queries = pair(3, KV_HEADS, tokens=NEW), draw(5, QUERY_HEADS, NEW, DIMS[0])
    before = cache.keys(), cache.values(), cache.nbytes
    keys, values = (np.concatenate(both, axis=1) for both in zip(before[:2], fresh, strict=True))
    for window, softcap, room in ((0, None, 1 << 24), (5, None, 1 << 24), (0, 2.0, 1)):
        found = cache.attend(
            queries, causal=True, sliding_window=window, softcap=softcap, workspace_bytes=room, fresh=fresh
        )
        wanted = expected(queries, keys, values, window=window, softcap=softcap or 0.0)
        assert np.abs(found - wanted).max() <= 1e-4 * np.abs(wanted).max()
    assert np.array_equal(cache.keys(), before[0])
    assert np.array_equal(cache.values(), before[1])
    assert cache.nbytes == before[2]


def test_rows_of_different_lengths_each_see_their_own_fresh_tokens() -> None:
    cache = DecoderCache(1, KV_HEADS, DIMS[0], "k=mse4,v=mse4", batch=2, value_dim=DIMS[1])
    cache.append(*pair(1, 2, KV_HEADS, tokens=20), 0)
    cache.crop([20, 4])
    fresh, queries = pair(3, 2, KV_HEADS, tokens=NEW), draw(5, 2, QUERY_HEADS, NEW, DIMS[0])
    found = cache.attend(queries, 0, causal=True, fresh=fresh)
    for row, single in enumerate(cache.split()):
        keys = np.concatenate([single.keys(0)[0], fresh[0][row]], axis=1)
        values = np.concatenate([single.values(0)[0], fresh[1][row]], axis=1)
        wanted = expected(queries[row], keys, values)
        assert np.abs(found[row] - wanted).max() <= 1e-4 * np.abs(wanted).max()


def test_a_mask_counts_fresh_tokens() -> None:
    cache = MultiHeadKVCache(KV_HEADS, DIMS[0], "k=mse4,v=mse4", value_dim=DIMS[1])
    cache.append(*pair(1, KV_HEADS, tokens=10))
    fresh, queries = pair(3, KV_HEADS, tokens=2), draw(5, QUERY_HEADS, 1, DIMS[0])
    mask = np.zeros((1, 12), bool)
    mask[0, 11] = True  # the last fresh token alone
    found = cache.attend(queries, mask=mask, fresh=fresh)
    assert np.allclose(found[:, 0], np.repeat(fresh[1][:, 1], 2, axis=0), atol=1e-6)
    with pytest.raises(ShapeMismatch, match=r"mask must have shape \(1, 12\)"):
        cache.attend(queries, mask=mask[:, :10], fresh=fresh)


def test_fresh_tokens_come_in_pairs_of_the_cache_s_shape() -> None:
    cache = MultiHeadKVCache(KV_HEADS, DIMS[0], "k=mse4,v=mse4", value_dim=DIMS[1])
    keys, values = pair(3, KV_HEADS, tokens=2)
    queries = draw(5, QUERY_HEADS, 1, DIMS[0])
    with pytest.raises(InvalidSpec, match="fresh is a pair of keys and values, got ndarray"):
        cache.attend(queries, fresh=keys)
    with pytest.raises(ShapeMismatch, match="keys hold 2 tokens and values 1"):
        cache.attend(queries, fresh=(keys, values[:, :1]))
    with pytest.raises(ShapeMismatch, match="keys must have shape"):
        cache.attend(queries, fresh=(keys[:1], values[:1]))
