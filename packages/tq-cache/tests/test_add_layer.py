"""Layers that come one by one: the same cache as one that knew their number."""

import numpy as np
import pytest

from tq_cache import DecoderCache, PolicyMismatch


def test_added_layers_hold_what_layers_known_from_the_start_hold(vectors):
    policy = "k=mse4,v=mse3,sinks=1,window=2"
    known, grown = DecoderCache(3, 2, 16, policy, batch=2), DecoderCache(1, 2, 16, policy, batch=2)
    for layer in range(3):
        if layer:
            grown.add_layer()
        assert grown.get_seq_length(layer) == 0
        for cache in (known, grown):
            cache.append(vectors(2, 2, 7, 16, seed=layer), vectors(2, 2, 7, 16, seed=layer + 9), layer)
    assert grown.layers == 3
    for layer in range(3):
        assert np.array_equal(known.keys(layer), grown.keys(layer))
        assert np.array_equal(known.values(layer), grown.values(layer))
    assert grown.ledger() == known.ledger()


def test_layers_to_a_policy_that_tells_them_apart_cannot_be_added():
    cache = DecoderCache(4, 2, 16, "k=mse4,v=mse4,boundary=1@8")
    with pytest.raises(PolicyMismatch, match="has options for single layers, so none can be added"):
        cache.add_layer()
    assert cache.layers == 4
