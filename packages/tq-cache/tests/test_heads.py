"""Heads with options of their own: a layer holds what single heads with those stores hold, in one array a group."""

import numpy as np
import pytest

from tq_cache import DecoderCache, MultiHeadKVCache, PolicyMismatch, QuantizedKVCache

HEADS, DIM = 5, 24
POLICY = "k=mse4,v=mse3,sinks=1,window=2,head1.k=mse8,head3-4.v=int4,head4.k=mse8,kmean=6"
OWN = ["k=mse4,v=mse3", "k=mse8,v=mse3", "k=mse4,v=mse3", "k=mse4,v=int4", "k=mse8,v=int4"]


@pytest.fixture
def layer(vectors):
    cache = MultiHeadKVCache(HEADS, DIM, POLICY, value_dim=16)
    for start in range(0, 30, 4):
        cache.append(vectors(HEADS, 30, DIM)[:, start : start + 4], vectors(HEADS, 30, 16)[:, start : start + 4])
    return cache


def test_each_head_holds_what_a_cache_of_its_own_holds(layer, vectors):
    for head, own in enumerate(OWN):
        single = QuantizedKVCache(DIM, f"{own},sinks=1,window=2,kmean=6", value_dim=16)
        single.append(vectors(HEADS, 30, DIM)[head], vectors(HEADS, 30, 16)[head])
        assert np.array_equal(layer.keys()[head], single.keys())
        assert np.array_equal(layer.values(3, 20)[head], single.values(3, 20))
        queries = vectors(2 * HEADS, 3, DIM, seed=4)
        mine = queries[2 * head : 2 * head + 2]
        np.testing.assert_allclose(layer.scores(queries)[2 * head], single.scores(mine[0]), rtol=1e-5, atol=1e-4)
        found = layer.attend(queries, causal=True)[2 * head : 2 * head + 2]
        np.testing.assert_allclose(found, [single.attend(own, causal=True) for own in mine], atol=1e-5)


def test_heads_stored_alike_are_one_array(layer):
    groups = layer._layer.groups
    assert [group.heads for group in groups] == [[0, 2], [1], [3], [4]]
    assert [group.keys.coded["packed"].view.shape for group in groups] == [
        (n, 27, w) for n, w in ((2, 12), (1, 24), (1, 12), (1, 24))
    ]
    alike = MultiHeadKVCache(HEADS, DIM, "k=mse4,v=mse3,head0-4.k=mse8,head1.v=mse3")
    assert [group.heads for group in alike._layer.groups] == [None]


def test_a_split_that_single_heads_alone_have_is_learned_from_as_many_tokens_as_it_says(vectors):
    cache = MultiHeadKVCache(2, DIM, "k=mse4,v=mse4,vsplit=5,head1.v=mse3x4+mse2")
    assert cache.append(vectors(2, 4, DIM), vectors(2, 4, DIM)) == range(0)
    assert cache.append(vectors(2, 1, DIM), vectors(2, 1, DIM)) == range(5)
    energies = np.ones((2, DIM))
    given = MultiHeadKVCache(2, DIM, "k=mse4,v=mse4,vsplit=given,head1.v=mse3x4+mse2", value_energies=energies)
    assert given.append(vectors(2, 1, DIM), vectors(2, 1, DIM)) == range(1)


def test_masks_of_single_heads_find_their_head(layer, vectors):
    queries = vectors(2 * HEADS, 3, DIM, seed=4)
    mask = np.random.default_rng(0).random((2 * HEADS, 3, 30)) > 0.5
    whole = layer.attend(queries, mask=mask)
    keys, values = layer.keys(), layer.values()
    for head in range(2 * HEADS):
        logits = np.where(mask[head], queries[head] @ keys[head // 2].T * DIM**-0.5, -np.inf).astype(np.float64)
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        expected = weights / weights.sum(axis=1, keepdims=True) @ values[head // 2]
        np.testing.assert_allclose(whole[head], expected, atol=1e-5)


def test_rows_of_a_batch_are_put_together_by_groups(vectors):
    cache = DecoderCache(2, HEADS, DIM, POLICY + ",layer1.head0.k=int4", batch=3)
    x = vectors(3, HEADS, 20, DIM)
    for index in range(2):
        cache.append(x, -x, index)
    for index, first in ((0, "k=mse4,v=mse3"), (1, "k=int4,v=mse3")):
        single = QuantizedKVCache(DIM, f"{first},sinks=1,window=2,kmean=6")
        single.append(x[2, 0], -x[2, 0])
        assert np.array_equal(cache.keys(index)[2, 0], single.keys())
        assert np.array_equal(cache.values(index, 1, 19)[2, 0], single.values(1, 19))
    cache.crop([20, 9, 4])
    assert cache.lengths == (20, 9, 4)
    assert cache.scores(vectors(3, HEADS, 1, DIM), 1).shape == (3, HEADS, 1, 20)


def test_every_byte_of_every_group_is_in_the_ledger(layer):
    ledger = layer.ledger()
    assert ledger.codes == 27 * ((3 * 12 + 2 * 24) + (3 * 6 + 2 * 8))
    assert ledger.norms == 27 * (5 * 2 + 3 * 2 + 2 * 4)
    assert ledger.sinks == 5 * (24 + 16) * 4
    assert ledger.window == 2 * ledger.sinks
    assert ledger.means == 5 * 24 * 4
    assert ledger.values == 30 * 5 * (24 + 16)


def test_heads_that_a_layer_does_not_have_are_refused_and_a_lone_head_has_no_number():
    with pytest.raises(PolicyMismatch, match=r"head5.k=mse8 names head 5, but a layer has 0\.\.4"):
        MultiHeadKVCache(5, DIM, "k=mse4,v=mse4,head5.k=mse8")
    with pytest.raises(PolicyMismatch, match=r"layer1.head2-7.k=mse8 names head 7"):
        DecoderCache(2, 5, DIM, "k=mse4,v=mse4,layer1.head2-7.k=mse8")
    assert str(QuantizedKVCache(DIM, "k=mse4,v=mse4,head5.k=mse8").policy) == "k=mse4,v=mse4"
    assert (
        str(MultiHeadKVCache(2, DIM, "k=mse4,v=mse4,layer7.head5.k=mse8,head1.k=mse8").policy)
        == "k=mse4,v=mse4,head1.k=mse8"
    )
