"""The ledger's total is the arrays that a cache holds: found by walking the object, and by tracing memory."""

import gc
import tracemalloc

import numpy as np
import pytest

from tq_cache import DecoderCache, MultiHeadKVCache, QuantizedKVCache
from tq_core import InvalidDtype

POLICIES = [
    "k=mse4,v=mse4",
    "k=mse3,v=prod4,sinks=2,window=7",
    "k=int4,v=absmax8,window=3",
    "k=float16,v=float32",
    "k=mse2.5,v=mse3.25,window=3",
    "k=mse4,v=mse2,boundary=1@8,norms=float32",
    "k=mse4,v=mse2,kmean=20,sinks=1",
    "k=mse4x8+mse2,v=mse3x4+mse2,kmean=4,layer1.head1.k=mse8,layer2.head0.v=int4",
]


def _arrays(root):
    """Every array that owns memory and is reached from `root` through attributes and containers; no modules."""
    seen, found, queue = set(), {}, [root]
    while queue:
        item = queue.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, np.ndarray):
            base = item if item.base is None or not isinstance(item.base, np.ndarray) else item.base
            found[id(base)] = base
        elif isinstance(item, dict):
            queue += item.values()
        elif isinstance(item, (list, tuple, set, frozenset)):
            queue += item
        elif type(item).__module__.startswith(("tq_core", "tq_cache")) and "backend" not in type(item).__module__:
            queue += list(getattr(item, "__dict__", {}).values())
    return list(found.values())


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("tokens", [0, 1, 130])
def test_total_is_the_arrays_held(policy, tokens, vectors):
    cache = DecoderCache(3, 2, 48, policy, batch=2)
    for layer in range(3):
        cache.append(vectors(2, 2, tokens, 48), vectors(2, 2, tokens, 48), layer)
        for _ in range(5):
            cache.append(vectors(2, 2, 1, 48), vectors(2, 2, 1, 48), layer)
    cache.crop(tokens + 2)
    ledger = cache.ledger()
    assert ledger.total == sum(array.nbytes for array in _arrays(cache))
    assert ledger.total == sum(ledger.items.values()) == cache.nbytes
    assert ledger.values == 3 * 2 * 2 * 48 * 2 * (tokens + 2)


def test_token_bytes_are_the_formats(vectors):
    cache = MultiHeadKVCache(2, 100, "k=mse3,v=prod4,sinks=1,window=2")
    cache.append(vectors(2, 50, 100), vectors(2, 50, 100))
    ledger = cache.ledger()
    coded = 2 * 47
    assert ledger.codes == coded * ((25 + 13) + (25 + 13 + 13))  # mse3 is 2 + 1; prod4 is mse3 and a 1-bit plane
    assert ledger.norms == coded * (2 + 4)
    assert ledger.sinks == 2 * 1 * 2 * 100 * 4
    assert ledger.window == 2 * 2 * 2 * 100 * 4
    assert ledger.workspace == 0


def test_bits_and_ratio_count_norms_and_tables(vectors):
    cache = QuantizedKVCache(128, "k=mse4,v=mse4", capacity=1000)
    cache.append(vectors(1000, 128), vectors(1000, 128))
    ledger = cache.ledger()
    assert ledger.padding == 0
    assert ledger.bits_per_value == 4.125
    assert ledger.exact_bytes() == 2 * 1000 * 128 * 2
    assert ledger.exact_bytes("float32") == 2 * ledger.exact_bytes()
    assert ledger.ratio() == ledger.exact_bytes() / ledger.total < 16 / 4.125
    assert ledger.ratio("bfloat16") == ledger.ratio() == ledger.ratio("float32") / 2
    with pytest.raises(InvalidDtype, match="dtype is the name of a dtype such as 'float16', got 'halves'"):
        ledger.ratio("halves")
    assert "tables" in str(ledger)
    assert f"{ledger.total:,}" in str(ledger)


def test_the_tables_are_counted_once(vectors):
    one, many = DecoderCache(1, 1, 64, "k=mse4,v=mse4"), DecoderCache(8, 1, 64, "k=mse4,v=mse4")
    assert one.ledger().tables == many.ledger().tables > 0
    assert QuantizedKVCache(64, "k=float16,v=int4").ledger().tables == 0


def test_memory_traced_is_the_total(vectors):
    keys, values = vectors(4, 3000, 64), vectors(4, 3000, 64)
    warm = MultiHeadKVCache(4, 64, "k=mse4,v=mse4,window=10")  # imports and codebook tables are not this cache's
    warm.append(keys[:, :9], values[:, :9])
    gc.collect()
    tracemalloc.start()
    try:
        cache = MultiHeadKVCache(4, 64, "k=mse4,v=mse4,window=10")
        for start in range(0, 3000, 250):
            cache.append(keys[:, start : start + 250], values[:, start : start + 250])
        gc.collect()
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    ledger = cache.ledger()
    own = ledger.total - ledger.tables
    assert own <= held <= own + 20_000


def test_clear_gives_the_memory_back(vectors):
    cache = QuantizedKVCache(64, "k=mse4,v=mse4,sinks=2,window=4")
    cache.append(vectors(500, 64), vectors(500, 64))
    cache.clear()
    ledger = cache.ledger()
    assert len(cache) == 0
    assert ledger.total == ledger.tables
    assert ledger.bits_per_value == 0
    assert ledger.ratio() == 0


def test_appending_one_token_costs_the_same_at_any_length(vectors):
    """Allocations grow with the logarithm of the length: the arrays are copied a bounded number of times a token."""
    cache = QuantizedKVCache(64, "k=float16,v=float16")
    x = vectors(1, 64)
    sizes = set()
    for _ in range(3000):
        cache.append(x, x)
        sizes.add(cache.ledger().total)
    assert len(sizes) < 120
    ledger = cache.ledger()
    assert ledger.padding <= ledger.token_bytes / 16 + 2 * 16 * 128
