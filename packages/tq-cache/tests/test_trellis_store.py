"""Trellis stores: their names in policies, and a cache of them through append, attend, crop, snapshots and ledger."""

import numpy as np
import pytest

from tq_cache import CachePolicy, InvalidPolicy, MultiHeadKVCache, QuantizedKVCache
from tq_cache.stores import Store
from tq_core import InvalidDimension, TrellisQuant, VectorCodec

POLICIES = [
    "k=trellis4,v=trellis4",
    "k=trellis2s256,v=trellis3s8,ksearch=3,sinks=2,window=5",
    "k=mse4,v=trellis2s256,vscale=mse",
    "k=trellis3s256,v=int4",
]


def attention(keys, values, queries):
    logits = queries.astype(np.float64) @ keys.astype(np.float64).T / np.sqrt(keys.shape[1])
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True) @ values.astype(np.float64)


@pytest.mark.parametrize("name", ["trellis1", "trellis4", "trellis4s256", "trellis2s8", "trellis3s4096"])
def test_names_round_trip(name):
    assert Store.parse(name).name == name
    policy = CachePolicy.parse(f"k={name},v=mse4,kscale=norm,ksearch=5,layer1.v={name}")
    assert CachePolicy.parse(str(policy)) == policy
    assert CachePolicy.from_dict(policy.to_dict()) == policy
    assert f"k={name}" in str(policy)


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("trellis5", "'trellis5' does not exist; known: .*trellis1..trellis4"),
        ("trellis4s512", "'trellis4s512' does not exist; known: .*trellis4s8, trellis4s256, trellis4s4096"),
        ("trellis4s1024", "'trellis4s1024' is written 'trellis4'"),
        ("trellis4s", "no store is called 'trellis4s'"),
        ("trellis04s256", "'trellis04s256' is written 'trellis4s256'"),
        ("mse4s256", "'mse4s256' does not exist"),
        ("int4s8", "'int4s8' does not exist"),
    ],
)
def test_what_no_store_is_called(name, match):
    with pytest.raises(InvalidPolicy, match=match):
        Store.parse(name)


def test_a_boundary_beyond_four_bits_has_scalar_codes_of_the_same_rules():
    policy = CachePolicy.parse("k=trellis4,v=trellis3s256,boundary=2@8,kscale=mse,ksearch=5")
    assert str(policy) == str(CachePolicy.parse(str(policy)))
    assert [policy.for_layer(layer, 8).keys.name for layer in (0, 1, 2, 7)] == ["mse8", "mse8", "trellis4", "mse8"]
    edge = policy.for_layer(0, 8)
    assert (edge.keys.scale, edge.keys.search, edge.values.name) == ("mse", 5, "mse8")
    assert policy.for_layer(3, 8).values.name == "trellis3s256"
    within = CachePolicy.parse("k=trellis2s256,v=trellis2s256,boundary=1@4")
    assert within.for_layer(0, 8).keys.name == "trellis4s256"


def test_a_boundary_beyond_all_codes_is_refused():
    with pytest.raises(InvalidPolicy, match="'trellis9' does not exist"):
        CachePolicy.parse("k=trellis4,v=mse4,boundary=2@9")


def test_a_head_too_small_for_the_states_says_what_to_do():
    with pytest.raises(InvalidDimension, match=r"needs dim \* bits of at least 40, got 16 \* 2; use fewer states"):
        QuantizedKVCache(16, "k=trellis2,v=mse4")


@pytest.mark.parametrize("policy", POLICIES)
def test_scores_and_attention_are_those_of_the_decoded_tokens(vectors, policy):
    cache = QuantizedKVCache(64, policy, seed=3)
    for start in range(0, 40, 8):
        cache.append(vectors(8, 64, seed=start), vectors(8, 64, seed=start + 1))
    queries = vectors(5, 64, seed=99)
    expected = queries @ cache.keys().T
    assert np.abs(cache.scores(queries) - expected).max() <= 1e-4 * np.abs(expected).max()
    found, exact = cache.attend(queries), attention(cache.keys(), cache.values(), queries)
    assert np.abs(found - exact).max() <= 1e-4 * np.abs(exact).max()


def test_fused_attention_of_several_heads_reads_packed_rows(vectors):
    cache = MultiHeadKVCache(2, 64, "k=trellis3,v=trellis2s256,window=4", seed=1)
    cache.append(vectors(2, 70, 64), vectors(2, 70, 64, seed=1))
    queries = vectors(4, 3, 64, seed=2)
    found = cache.attend(queries)
    for head in range(4):
        exact = attention(cache.keys()[head // 2], cache.values()[head // 2], queries[head])
        assert np.abs(found[head] - exact).max() <= 1e-4 * np.abs(exact).max()


def test_codes_are_those_of_the_codec_and_stay_when_the_cache_is_cropped(vectors):
    cache = QuantizedKVCache(64, "k=trellis2s256,v=trellis4s256,ksearch=3", seed=9)
    keys = vectors(12, 64)
    cache.append(keys[:5], keys[:5])
    cache.append(keys[5:], keys[5:])
    codec = VectorCodec(TrellisQuant(64, 2, seed=9, states=256), search=3, underflow="zero")
    assert np.array_equal(cache.keys(), codec.decode(codec.encode(keys)))
    cache.crop(7)
    assert np.array_equal(cache.keys(), codec.decode(codec.encode(keys[:7])))


@pytest.mark.parametrize("policy", POLICIES)
def test_a_snapshot_continues_where_the_cache_was(tmp_path, vectors, policy):
    cache = QuantizedKVCache(64, policy, seed=3)
    cache.append(vectors(20, 64), vectors(20, 64, seed=1))
    cache.save(tmp_path / "snapshot")
    again = QuantizedKVCache.load(tmp_path / "snapshot")
    for each in (cache, again):
        each.append(vectors(3, 64, seed=2), vectors(3, 64, seed=3))
    assert np.array_equal(again.keys(), cache.keys())
    assert np.array_equal(again.values(), cache.values())


def test_the_ledger_counts_the_bits_of_the_stream():
    cache = QuantizedKVCache(100, "k=trellis3s256,v=trellis1s256")
    cache.append(np.ones((8, 100), np.float32), np.ones((8, 100), np.float32))
    ledger = cache.ledger()
    assert ledger.codes == 8 * (38 + 13)  # 300 and 100 bits, rows end at bytes
    assert ledger.norms == 8 * 2 * 2
