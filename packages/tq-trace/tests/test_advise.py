"""The advisor finds what a trace needs, proves it, and says when there is no answer."""

import json
from itertools import pairwise
from math import sqrt

import numpy as np
import pytest

from tq_cache import DecoderCache
from tq_core import InvalidSpec
from tq_core.registry import resolve
from tq_trace import KvTrace, Row, advise, replay, synthetic
from tq_trace.advise import FAST, KINDS, additions, sides
from tq_trace.goal import CLOSE, Goal

SEARCHES_TRELLISES = pytest.mark.skipif(
    resolve("auto").name not in FAST,
    reason="what is claimed here takes trellis stores, searched with fast kernels alone",
)
SHAPE = {"layers": 1, "kv_heads": 2, "head_dim": 64, "tokens": 256, "query_count": 16}


def numbers(traces):
    return sum(trace.keys.size + trace.values.size for trace in traces)


def bits(advice):
    """Bits of keys and of values in the advised policy."""
    from tq_cache import CachePolicy

    policy = CachePolicy.parse(advice.policy)
    return policy.keys.bits, policy.values.bits


@pytest.fixture(scope="module")
def told():
    """What the search of `plain` said of its progress."""
    return []


@pytest.fixture(scope="module")
def plain(told):
    """Control: no structure, budget for 4 bits."""
    traces = synthetic("isotropic", **SHAPE)
    budget = int(numbers(traces) * 4.3 / 8)
    return traces, advise(traces, budget_bytes=budget, times=False, progress=lambda *progress: told.append(progress))


def test_a_strong_key_mean_is_removed():
    traces = synthetic("isotropic", key_mean=5.0, **SHAPE)
    found = advise(traces, budget_bytes=int(numbers(traces) * 4.3 / 8), times=False)
    assert "kmean=64" in found.policy
    without = replay(traces, [found.policy.replace(",kmean=64", "")], baselines=(), times=False).rows[1]
    assert found.row["output_error"] < without["output_error"] / 2


@SEARCHES_TRELLISES
def test_an_absent_key_mean_is_not_removed(plain):
    assert "kmean" not in plain[1].policy


@pytest.mark.parametrize("seed", range(3))
def test_a_mean_is_removed_only_where_all_queries_show_a_gain_beyond_noise(seed):
    traces = synthetic("isotropic", **SHAPE, seed=seed)
    found = advise(traces, budget_bytes=int(numbers(traces) * 4.3 / 8), times=False)
    without = replay(traces, [found.policy.replace(",kmean=64", "")], baselines=(), times=False).rows[1]
    if "kmean" in found.policy:
        assert without["output_error"] > (1 + CLOSE) * found.row["output_error"]
    else:
        assert without["output_error"] == found.row["output_error"]


@pytest.mark.parametrize(
    ("shape", "goal"),
    [
        ({}, "budget"),
        pytest.param({"head_dim": 96, "query_groups": 2, "seed": 1}, "budget", marks=SEARCHES_TRELLISES),
        ({"head_dim": 256, "kv_heads": 1, "query_groups": 4, "seed": 1}, "kl"),
    ],
)
def test_keys_fifty_times_longer_than_values_get_more_bits(shape, goal):
    traces = synthetic("isotropic", norm_ratio=50.0, logit_std=0.0, **SHAPE | shape)
    bound = {"budget_bytes": int(numbers(traces) * 4.3 / 8)} if goal == "budget" else {"max_kl": 0.05}
    keys, values = bits(advise(traces, times=False, **bound))
    assert keys > values


def test_keys_as_short_as_values_get_fewer_bits():
    traces = synthetic("isotropic", norm_ratio=1.0, logit_std=0.0, **SHAPE)
    keys, values = bits(advise(traces, budget_bytes=int(numbers(traces) * 4.3 / 8), times=False))
    assert keys < values


def test_the_proof_is_a_replay_of_the_policy_within_the_budget(plain):
    traces, found = plain
    assert found.row.policy == found.policy
    assert found.row.token_bytes <= int(numbers(traces) * 4.3 / 8)
    again = replay(traces, [found.policy], baselines=(), times=False)
    assert again.row(found.policy).figures == found.row.figures
    assert {"exact", "k=int8,v=int8", "k=int4,v=int4"} <= {row.policy for row in found.proof.rows}
    assert found.proof.protocol["queries"] == 2 * SHAPE["query_count"]


def test_a_cache_of_the_policy_holds_no_more_than_the_budget_and_what_is_told_apart(plain):
    traces, found = plain
    cache = DecoderCache(1, SHAPE["kv_heads"], SHAPE["head_dim"], found.policy)
    keys, values = (np.stack([getattr(trace, side)[0] for trace in traces])[None] for side in ("keys", "values"))
    for token in range(SHAPE["tokens"]):
        cache.append(keys[:, :, token : token + 1], values[:, :, token : token + 1], 0)
    held = dict(cache.ledger().items)
    told = found.to_dict()
    assert held.pop("tables") == told["table_bytes"] > 0
    assert held.pop("padding") <= told["counted_bytes"] / 16
    assert sum(held.values()) == told["counted_bytes"] <= int(numbers(traces) * 4.3 / 8)
    for text in (found.view().to_table(), found.view().to_markdown()):
        assert f"{told['counted_bytes']:,} bytes, and tables of {told['table_bytes']:,} bytes" in text


def test_the_choice_is_not_beaten_by_anything_that_was_searched(plain):
    traces, found = plain
    chosen = next(point for point in found.points if point.policy == found.policy)
    within = [point for point in found.points if point.token_bytes <= int(numbers(traces) * 4.3 / 8)]
    assert len(within) > 5
    assert chosen.output_error <= (1 + CLOSE) * min(point.output_error for point in within)


def test_the_frontier_rises_in_bytes_and_falls_in_error(plain):
    edge = plain[1].frontier
    assert len(edge) >= 3
    assert all(a.token_bytes < b.token_bytes and a.output_error > b.output_error for a, b in pairwise(edge))
    for point in plain[1].points:
        beaten = any(one.token_bytes <= point.token_bytes and one.output_error < point.output_error for one in edge)
        assert point.on_frontier != beaten or not point.on_frontier


def test_a_bound_on_the_kl_is_kept_with_the_fewest_bytes(plain):
    traces, _ = plain
    found = advise(traces, max_kl=0.01, times=False)
    chosen = next(point for point in found.points if point.policy == found.policy)
    assert chosen.kl_mean <= 0.01
    assert found.row["output_error_values"] <= sqrt(2 * 0.01)
    for point in found.points:
        if point.token_bytes < chosen.token_bytes:
            assert point.kl_mean > 0.01 or point.output_error > sqrt(2 * 0.01)


@SEARCHES_TRELLISES
def test_a_bound_on_the_kl_is_kept_on_all_queries_not_only_on_those_of_the_search():
    # 16 queries of one head: the later half, which the search asks, shows about half the KL of them all
    traces = synthetic("isotropic", **SHAPE | {"kv_heads": 1}, norm_ratio=50.0, logit_std=0.0, seed=2)
    found = advise(traces, max_kl=0.05, times=False)
    first = next(point for point in found.points if point.policy == "k=mse4,v=trellis2,sinks=4")
    assert first.kl_mean <= 0.05
    assert replay(traces, [first.policy], baselines=(), times=False).rows[1]["kl_mean"] > 0.05
    assert found.row["kl_mean"] <= 0.05
    assert found.row["output_error_values"] <= sqrt(2 * 0.05)


def test_queries_that_the_search_does_not_ask_choose_where_those_that_it_asks_tell_nothing():
    plain = next(iter(synthetic("isotropic", **SHAPE | {"kv_heads": 1})))
    queries = plain.queries.copy()
    queries[:, plain.query_positions[0] >= SHAPE["tokens"] // 2] = 0  # all weights equal: no key can be wrong
    trace = KvTrace(plain.keys, plain.values, queries, plain.query_positions, model="m", benchmark="b", layer=0)
    found = advise(trace, max_kl=0.01, times=False)
    assert next(point for point in found.points if point.policy == found.policy).kl_mean == 0
    assert 0 < found.row["kl_mean"] <= 0.01


@pytest.fixture(scope="module")
def on_numpy():
    """A search of one head whose later half has eight queries."""
    traces = synthetic("isotropic", **SHAPE | {"kv_heads": 1}, norm_ratio=50.0, logit_std=0.0, seed=1)
    return advise(traces, budget_bytes=int(numbers(traces) * 4.3 / 8), backend="numpy", times=False)


def test_all_queries_choose_among_what_is_close_on_those_of_the_search(on_numpy):
    # by eight queries alone, fewer bits for keys than for values look as good
    found = on_numpy
    least = min(point.output_error for point in found.points if point.token_bytes <= found.row.token_bytes)
    close = [point for point in found.points if point.output_error <= (1 + CLOSE) * least]
    assert any(point.token_bytes < found.row.token_bytes for point in close)
    keys, values = bits(found)
    assert keys > values


def test_of_equal_bytes_and_close_errors_the_smaller_kl_is_taken():
    def row(policy, token_bytes, error, kl):
        return Row(policy, policy, "policy", {"output_error": error, "kl_mean": kl}, {}, token_bytes, 1, 1.0)

    rows = [row("a", 100, 0.100, 0.3), row("b", 100, 0.109, 0.2), row("c", 100, 0.111, 0.1), row("d", 99, 0.2, 0.1)]
    assert Goal(100, None).best(rows).policy == "b"
    assert Goal(100, None).best([*rows, row("e", 99, 0.109, 0.4)]).policy == "e"


def test_a_larger_budget_is_never_worse(plain):
    traces, found = plain
    more = advise(traces, budget_bytes=int(numbers(traces) * 6.3 / 8), times=False)
    assert more.row["output_error"] < found.row["output_error"]


def test_two_searches_agree(plain):
    traces, found = plain
    again = advise(traces, budget_bytes=int(numbers(traces) * 4.3 / 8), times=False)
    assert json.dumps(again.to_dict()["searched"]) == json.dumps(found.to_dict()["searched"])
    assert again.policy == found.policy


@pytest.mark.usefixtures("plain")
def test_progress_of_all_stages_rises_to_its_end(told):
    shares = [done / total for done, total, _ in told]
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert {label.split(",")[0] for _, _, label in told} == {"each side", "pairs and additions", "all queries", "proof"}


@pytest.mark.parametrize(
    ("goal", "message"),
    [
        ({}, "either budget_bytes or max_kl"),
        ({"budget_bytes": 10, "max_kl": 0.1}, "either budget_bytes or max_kl"),
        ({"budget_bytes": 0}, "budget_bytes is a number above 0, got 0"),
        ({"max_kl": float("nan")}, "max_kl is a number above 0, got nan"),
        ({"max_kl": True}, "max_kl is a number above 0, got True"),
        ({"budget_bytes": 1000}, r"no policy holds this trace in 1,000 bytes; k=mse1,v=mse1 takes [0-9,]+"),
        ({"max_kl": 1e-12}, r"no policy keeps the KL within 1e-12; k=mse8"),
    ],
)
def test_a_goal_that_cannot_be_met_is_an_error_that_says_what_can(plain, goal, message):
    with pytest.raises(InvalidSpec, match=message):
        advise(plain[0], times=False, **goal)


def test_every_store_and_addition_that_is_searched_is_a_policy():
    from tq_cache import CachePolicy

    keys, values = sides({(64, 64)})
    assert {"k=mse4", "k=mse4,kmean=64", "k=mse2.5"} <= set(keys)
    assert {"v=mse1", "v=mse3.5", "v=mse8"} <= set(values)
    for key in keys:
        for value in values[:2]:
            for text in additions(f"{key},{value}", 32):
                assert CachePolicy.parse(text).resolve(32)
    assert not any("boundary" in text for text in additions("k=mse4,v=mse4", 3))


def test_a_trellis_is_searched_only_where_it_is_encoded_fast(on_numpy):
    assert not any("trellis" in point.policy for point in on_numpy.points)
    keys, _ = sides({(64, 64)}, KINDS)
    assert "k=trellis4" in keys
    assert not any("trellis1" in key for key in sides({(32, 64)}, KINDS)[0])  # needs more coordinates than 32
