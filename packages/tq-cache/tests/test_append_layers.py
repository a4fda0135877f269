"""A step's tokens of all layers in one call: the same bytes as a call for each layer, and all layers or none."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tq_cache import DecoderCache
from tq_cache.codecs import TurboCodec
from tq_cache.side import Side
from tq_core import NotFinite, ScaleRange, ShapeMismatch

LAYERS, HEADS, DIM, VALUE_DIM = 3, 2, 12, 8
POLICIES = (
    "k=mse4,v=mse4",
    "k=mse4,v=mse4,sinks=2,window=3",
    "k=mse3,v=prod4,window=1,layer1.k=mse8,layer2.v=int5",
    "k=mse3,v=mse4,kmean=3,sinks=1,window=2,layer0.kmean=0",
    "k=mse4x3+mse2,v=mse3x2+mse2,ksplit=3,vsplit=4,head1.k=mse8,layer2.window=2",
    "k=float16,v=float32",
)


def empty(policy: str, *, batch: int = 2, value_dim: int = VALUE_DIM, max_tokens: int = 0) -> DecoderCache:
    return DecoderCache(LAYERS, HEADS, DIM, policy, batch=batch, value_dim=value_dim, seed=5, max_tokens=max_tokens)


def drawn(seed: int, tokens: int, *, batch: int = 2, value_dim: int = VALUE_DIM, dtype: str = "float32"):
    random = np.random.default_rng(seed)
    return [
        tuple(random.standard_normal((batch, HEADS, tokens, dim)).astype(dtype) for dim in (DIM, value_dim))
        for _ in range(LAYERS)
    ]


def saved(cache: DecoderCache, folder, name: str) -> bytes:
    """Everything that the cache holds, down to the last bit."""
    cache.save(folder / name, overwrite=True)
    return (folder / name).read_bytes()


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(POLICIES),
    st.lists(st.tuples(st.integers(0, 6), st.sampled_from(["float32", "float16", "float64"])), min_size=1, max_size=6),
    st.sampled_from([0, 7]),  # the most that any of these waits for, and a window
    st.sampled_from([VALUE_DIM, DIM]),
)
def test_one_call_holds_what_a_call_for_each_layer_holds(tmp_path_factory, policy, steps, max_tokens, value_dim):
    options = {"value_dim": value_dim, "max_tokens": max_tokens}
    together, apart = empty(policy, **options), empty(policy, **options)
    for seed, (tokens, dtype) in enumerate(steps):
        new = drawn(seed, tokens, value_dim=value_dim, dtype=dtype)
        quantized = together.append_layers(new)
        assert quantized == [apart.append(*pair, layer) for layer, pair in enumerate(new)]
        together.crop(-(len(together) > 9))  # and goes on from there
        apart.crop(-(len(apart) > 9))
    folder = tmp_path_factory.mktemp("saved")
    assert saved(together, folder, "together") == saved(apart, folder, "apart")
    assert together.ledger() == apart.ledger()


def test_sides_of_many_rows_hold_what_they_hold_alone(tmp_path):
    together, apart = empty(POLICIES[1]), empty(POLICIES[1])
    for seed, tokens in enumerate((400, 1, 127)):  # 800, 2 and 254 rows a side
        new = drawn(seed, tokens)
        together.append_layers(new)
        for layer, pair in enumerate(new):
            apart.append(*pair, layer)
    assert saved(together, tmp_path, "together") == saved(apart, tmp_path, "apart")


def test_scratch_memory_of_a_call_does_not_grow_with_the_layers(monkeypatch):
    rows, encode = [], TurboCodec.encode
    monkeypatch.setattr(TurboCodec, "encode", lambda codec, x: rows.append(len(x)) or encode(codec, x))
    for tokens, expected in ((1, [24]), (30, [240, 240, 240]), (70, [140] * 12)):
        rows.clear()
        empty("k=mse4,v=mse4", value_dim=DIM).append_layers(drawn(3, tokens, value_dim=DIM))
        assert rows == expected


def _spoilt(new, layer: int, side: int, value: float):
    new[layer][side][1, 1, 2, 3] = value
    return new


@pytest.mark.parametrize("policy", POLICIES[:2])
@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        (lambda new: new[:2], ShapeMismatch, "a pair for each of 3 layers, got 2"),
        (lambda new: [*new[:2], (new[2][0], new[2][1][:, :, 1:])], ShapeMismatch, "keys hold 9 tokens and values 8"),
        (
            lambda new: [*new[:2], (new[2][0][:1], new[2][1][:1])],
            ShapeMismatch,
            r"keys must have shape \(2, 2, n, 12\)",
        ),
        (lambda new: _spoilt(new, 2, 1, np.nan), NotFinite, r"values\[1, 1, 2, 3\] is nan"),
        # the second of two lanes, nine tokens each; with a full window, three older ones come before
        (lambda new: _spoilt(new, 2, 0, 1e6), ScaleRange, r"scale of row (11|14) \(norm 1e\+06\) overflows float16"),
    ],
)
def test_what_one_layer_refuses_no_layer_takes(tmp_path, policy, change, error, says):
    cache = empty(policy)
    cache.append_layers(drawn(1, 5))
    before = saved(cache, tmp_path, "cache")
    with pytest.raises(error, match=says):
        cache.append_layers(change(drawn(2, 9)))
    assert saved(cache, tmp_path, "cache") == before
    assert cache.append_layers(drawn(3, 1)) == empty_after_five(policy).append_layers(drawn(3, 1))


def empty_after_five(policy: str) -> DecoderCache:
    cache = empty(policy)
    cache.append_layers(drawn(1, 5))
    return cache


@pytest.mark.parametrize("policy", POLICIES[:4])
def test_memory_that_runs_out_in_the_last_layer_changes_none(tmp_path, policy, monkeypatch):
    cache = empty(policy)
    cache.append_layers(drawn(1, 5))
    before = saved(cache, tmp_path, "cache")
    (*_, last), reserve = cache._rows[-1][-1].sides(), Side.reserve

    def failing(side, pending):
        if side is last:
            raise MemoryError("no room")
        reserve(side, pending)

    with monkeypatch.context() as patch:
        patch.setattr(Side, "reserve", failing)
        with pytest.raises(MemoryError, match="no room"):
            cache.append_layers(drawn(2, 40))
    assert saved(cache, tmp_path, "cache") == before
