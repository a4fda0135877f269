"""Every knob of a synthetic workload does what it says, and nothing is left to chance."""

import numpy as np
import pytest

from tq_core import InvalidSpec, NotFinite
from tq_trace import WORKLOADS, Workload, measure, replay, synthetic

PLAIN = {"layers": 1, "kv_heads": 1, "tokens": 512, "query_count": 16}


def one(model="isotropic", **knobs):
    return next(iter(synthetic(model, **(PLAIN | knobs))))


def test_the_same_seed_gives_the_same_numbers_and_another_one_others():
    first = synthetic("llama-3-8b", **(PLAIN | {"layers": 2, "kv_heads": 2}), seed=4)
    again = synthetic("llama-3-8b", **(PLAIN | {"layers": 2, "kv_heads": 2}), seed=4)
    other = synthetic("llama-3-8b", **(PLAIN | {"layers": 2, "kv_heads": 2}), seed=5)
    assert first == again
    assert first.fingerprint() != other.fingerprint()
    heads = [trace.keys for trace in first]
    assert all(not np.array_equal(heads[0], keys) for keys in heads[1:])


@pytest.mark.parametrize("model", WORKLOADS)
def test_every_named_workload_has_the_shape_that_it_says(model):
    workload = WORKLOADS[model]
    traces = synthetic(model, layers=1, tokens=64, query_count=4)
    trace = next(iter(traces))
    assert len(traces) == workload.kv_heads
    assert trace.head_dim == workload.head_dim
    assert trace.query_count == 4 * workload.query_groups
    assert trace.suite == "synthetic"
    assert "(synthetic)" in trace.model
    assert trace.query_positions.max() == 63


def test_named_workloads_cover_the_dims_that_models_have():
    assert {workload.head_dim for workload in WORKLOADS.values()} >= {64, 80, 96, 128, 256}


def test_the_isotropic_control_has_no_structure():
    found = measure(one())
    assert found.keys.mean_share < 0.02
    assert found.keys.outlier_channels == ()
    assert found.norm_ratio == pytest.approx(1.0, rel=0.05)


@pytest.mark.parametrize("ratio", [0.5, 4.0, 50.0])
def test_norm_ratio_is_that_of_keys_over_values(ratio):
    assert measure(one(norm_ratio=ratio)).norm_ratio == pytest.approx(ratio, rel=0.05)


def test_key_mean_is_energy_that_mean_removal_saves():
    for size in (1.0, 3.0):
        assert measure(one(key_mean=size)).keys.mean_share == pytest.approx(size**2 / (1 + size**2), abs=0.03)
    assert measure(one(key_mean=3.0)).values.mean_share < 0.02


def test_a_mean_outlives_the_rotary_embedding():
    assert measure(one(key_mean=3.0, rope=10_000.0)).keys.mean_share > 0.5


def test_outlier_channels_are_as_many_and_as_loud_as_asked():
    found = measure(one(outlier_channels=3, outlier_scale=10.0)).keys.outlier_channels
    assert len(found) == 3
    assert all(peak.ratio == pytest.approx(10.0, rel=0.15) for peak in found)


def test_the_rotary_embedding_turns_pairs_of_channels_with_the_position():
    from tq_trace.synthetic import _turned

    rows = np.tile(np.array([1.0, 0.0, 0.0, 0.0], np.float32), (7, 1))
    turned = _turned(rows, np.arange(7), 100.0)
    np.testing.assert_allclose(turned[:, 0] + 1j * turned[:, 2], np.exp(1j * np.arange(7)), atol=1e-6)
    assert (turned[:, [1, 3]] == 0).all()


def test_norms_have_the_tail_that_was_asked_for():
    logs = np.log(np.linalg.norm(one(norm_tail=0.5, dtype="float32").values[0], axis=1))
    assert logs.std() == pytest.approx(0.5, rel=0.15)
    assert np.log(np.linalg.norm(one(dtype="float32").values[0], axis=1)).std() < 0.05


def test_sinks_draw_attention_and_have_small_values():
    def weight(sinks):
        trace = one(sinks=sinks, sink_logit=6.0, logit_std=1.0)
        logits = trace.queries[0, -1].astype(np.float64) @ trace.keys[0].T / np.sqrt(trace.head_dim)
        weights = np.exp(logits - logits.max())
        return weights[:4].sum() / weights.sum()

    assert weight(4) > 0.4
    assert weight(0) < 0.1
    assert measure(one(sinks=4)).values.first_token == pytest.approx(0.1, rel=0.05)


def test_logits_have_the_spread_that_was_asked_for_whatever_the_norms():
    for ratio in (1.0, 50.0):
        trace = one(norm_ratio=ratio, logit_std=3.0)
        logits = trace.queries[0].astype(np.float64) @ (trace.keys[0] - trace.keys[0].mean(axis=0)).T
        assert logits.std() / np.sqrt(trace.head_dim) == pytest.approx(3.0, rel=0.05)
    free = one(norm_ratio=50.0, logit_std=0.0)
    assert np.square(free.queries.astype(np.float64)).mean() == pytest.approx(1.0, rel=0.1)


def test_focus_makes_some_token_stand_out():
    def top(focus):
        trace = one(focus=focus, logit_std=2.0)
        logits = trace.queries[0, -1].astype(np.float64) @ trace.keys[0].T
        return (logits.max() - logits.mean()) / logits.std()

    assert top(0.8) > top(0.0) + 3


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_dtypes_hold_the_same_numbers_rounded(dtype):
    wide, narrow = one(dtype="float32").keys, one(dtype=dtype)
    assert narrow.dtypes["keys"] == dtype
    np.testing.assert_allclose(narrow.keys.astype(np.float32), wide, rtol=2**-8, atol=1e-7)


def test_samples_and_groups_are_asked_at_the_same_positions():
    trace = one(samples=3, query_groups=4)
    assert len(trace) == 3
    positions = trace.query_positions
    assert (positions == positions[0]).all()
    assert (positions[0].reshape(-1, 4) == positions[0, ::4, None]).all()
    assert positions[0, -1] == 511


def test_norms_beyond_float16_are_refused_with_their_place():
    with pytest.raises(NotFinite, match=r"keys\[0, \d+, \d+\] is -?inf"):
        one(norm_ratio=1e6)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"layers": 0}, "layers is a whole number in 1"),
        ({"tokens": 2.5}, "tokens is a whole number"),
        ({"outlier_channels": -1}, "outlier_channels is a whole number in 0"),
        ({"norm_ratio": 0}, "norm_ratio must be above 0"),
        ({"norm_ratio": float("nan")}, "norm_ratio is a number"),
        ({"key_mean": "big"}, "key_mean is a number"),
        ({"focus": 1}, "focus is a share below 1"),
        ({"outlier_channels": 129}, "129 outlier channels of 128"),
        ({"head_dim": 9, "rope": 100.0}, "even head_dim, got 9"),
        ({"sinks": 512}, "512 sinks of 512 tokens"),
        ({"dtype": "int8"}, "dtype is float16, bfloat16 or float32, got 'int8'"),
        ({"heads": 3}, "no knob is called 'heads'; known: dtype, focus"),
        ({"seed": -1}, "seed is a whole number"),
    ],
)
def test_a_knob_that_cannot_be_is_named(knobs, message):
    with pytest.raises(InvalidSpec, match=message):
        synthetic("isotropic", **(PLAIN | knobs))


def test_a_name_that_does_not_exist_is_refused_with_those_that_do():
    with pytest.raises(InvalidSpec, match=r"no workload is called 'gpt-9'; known: isotropic"):
        synthetic("gpt-9")


def test_a_workload_of_ones_own_is_replayed_like_a_named_one():
    own = Workload(layers=1, kv_heads=1, head_dim=20, tokens=64, query_count=4)
    found = replay(synthetic(own), ["k=mse4,v=mse4"], baselines=(), times=False)
    assert found.trace["kind"] == "synthetic trace"
    assert found.rows[1]["key_error"] == pytest.approx(0.0093, rel=0.3)
