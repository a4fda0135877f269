"""A replay asks what a decoder would have asked, and its figures are those of the caches themselves."""

import json
from dataclasses import replace

import numpy as np
import pytest

from tq_cache import PRESETS, InvalidPolicy, PolicyMismatch, QuantizedKVCache
from tq_core import BackendUnavailable, CorruptData, InvalidSpec, NotFinite
from tq_trace import KvTrace, Report, TraceNotFound, TraceSet, Workload, answers, replay, synthetic
from tq_trace import task as task_module
from tq_trace.catalogue import method_of
from tq_trace.methods import Setting
from tq_trace.policies import _AtOnce, _Stepped
from tq_trace.task import tasks

SMALL = Workload(layers=2, kv_heads=2, head_dim=32, tokens=96, query_count=12, query_groups=2, norm_ratio=4.0)


@pytest.fixture(scope="module")
def traces():
    return synthetic(SMALL, seed=3)


@pytest.fixture(scope="module")
def report(traces):
    return replay(traces, ["k=mse4,v=mse4", "k=mse2,v=mse3,sinks=2,window=16", "k=mse3,v=mse3"], times=False)


def by_hand(trace, policy):
    """KL and output error of one head: a cache of its own, token by token, asked at each position."""
    sample = trace.sample(0)
    kl, error, power = [], 0.0, 0.0
    cache = QuantizedKVCache(trace.head_dim, policy)
    for position in range(trace.tokens):
        cache.append(sample.keys[position : position + 1], sample.values[position : position + 1])
        for query in sample.queries[sample.query_positions == position]:
            wide = query.astype(np.float64)
            exact = sample.keys[: position + 1].astype(np.float64) @ wide / np.sqrt(trace.head_dim)
            measured = cache.scores(query[None])[0].astype(np.float64) / np.sqrt(trace.head_dim)
            logs = [logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max() for logits in (exact, measured)]
            kl.append((np.exp(logs[0]) * (logs[0] - logs[1])).sum())
            output = np.exp(logs[0]) @ sample.values[: position + 1].astype(np.float64)
            error += ((cache.attend(query[None])[0] - output) ** 2).sum()
            power += (output**2).sum()
    return np.mean(kl), np.sqrt(error / power), cache.ledger().token_bytes


@pytest.mark.parametrize("policy", ["k=mse4,v=mse4", "k=mse2,v=mse3,sinks=2,window=16"])
def test_figures_are_those_of_a_cache_that_is_filled_token_by_token(traces, report, policy):
    row = report.row(policy)
    for head in row.heads:
        kl, error, held = by_hand(traces[head["layer"], head["head"]], policy)
        assert head["kl_mean"] == pytest.approx(kl, rel=1e-4)
        assert head["output_error"] == pytest.approx(error, rel=1e-4)
        assert head["bytes"] == held
    assert row["kl_mean"] == pytest.approx(np.mean([head["kl_mean"] for head in row.heads]))


@pytest.mark.parametrize("policy", ["k=mse3,v=mse4,kmean=16", "k=mse3x8+mse2,v=mse2.5,ksplit=12"])
def test_what_a_cache_learns_from_its_first_tokens_is_learned_in_a_replay(traces, policy):
    row = replay(traces, [policy], baselines=(), times=False).rows[1]
    for head in row.heads:
        kl, error, _ = by_hand(traces[head["layer"], head["head"]], policy)
        assert head["kl_mean"] == pytest.approx(kl, rel=1e-4)
        assert head["output_error"] == pytest.approx(error, rel=1e-4)


def test_heads_follow_options_of_their_own(traces):
    rows = replay(traces, ["k=mse2,v=mse2,layer1.head0.k=mse8"], baselines=(), times=False).rows
    errors = {(head["layer"], head["head"]): head["kl_mean"] for head in rows[1].heads}
    assert errors[1, 0] < 0.01 * min(errors[0, 0], errors[0, 1], errors[1, 1])


def test_options_of_heads_need_all_heads_of_a_layer(traces):
    with pytest.raises(InvalidPolicy, match=r"layer 1 of the trace holds heads \(1,\) together"):
        replay(traces[1, 1], ["k=mse2,v=mse2,layer1.head1.k=mse8"], times=False)


def test_all_at_once_and_step_by_step_are_the_same_where_there_is_no_window(traces):
    task = next(tasks(traces))
    method = method_of("k=mse4,v=mse3,sinks=3", Setting(0, "auto", 2, "float16"))
    count = len(task.positions)
    found = [run.ask(0, count) for run in (_AtOnce(method, task), _Stepped(method, task))]
    visible = np.broadcast_to(np.arange(task.tokens) <= task.positions[:, None], found[0][0].shape)
    np.testing.assert_allclose(found[0][0][visible], found[1][0][visible], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found[0][1], found[1][1], rtol=1e-4, atol=1e-5)


def test_blocks_of_queries_change_nothing(traces, report, monkeypatch):
    monkeypatch.setattr(answers, "BLOCK", 1)
    again = replay(traces, ["k=mse2,v=mse3,sinks=2,window=16"], times=False)
    for name, value in again.row("k=mse2,v=mse3,sinks=2,window=16").figures.items():
        assert value == pytest.approx(report.row("k=mse2,v=mse3,sinks=2,window=16")[name], rel=1e-5, abs=1e-9)


def test_heads_apart_and_together_are_the_same(traces, report, monkeypatch):
    monkeypatch.setattr(task_module, "LARGEST", 1)
    again = replay(traces, ["k=mse2,v=mse3,sinks=2,window=16"], times=False)
    row, before = (one.row("k=mse2,v=mse3,sinks=2,window=16") for one in (again, report))
    assert row.ledger == before.ledger
    for name, value in row.figures.items():
        assert value == pytest.approx(before[name], rel=1e-5, abs=1e-9)
    assert (
        replay(traces, ["k=mse2,v=mse2,layer1.head1.k=mse8"], times=False, baselines=()).rows[1].heads[3]["kl_mean"]
        < 1e-3
    )


def test_exact_attention_has_no_error_and_its_own_bytes(report, traces):
    row = report.row("exact")
    assert row["kl_mean"] < 1e-9
    assert row["output_error"] < 1e-5
    assert row["top_1"] == 1
    assert row["first_divergence"] is None
    assert row.cache_bytes == row.float16_bytes == 2 * sum(one.keys.size + one.values.size for one in traces)


def test_bytes_are_the_ledger_of_all_layers_with_tables_once(report):
    row = report.row("k=mse4,v=mse4")
    cache = QuantizedKVCache(32, "k=mse4,v=mse4")
    cache.append(np.ones((96, 32)), np.ones((96, 32)))
    ledger = cache.ledger()
    assert row.ledger["codes"] == 4 * ledger.codes
    assert row.ledger["norms"] == 4 * ledger.norms
    assert row.ledger["tables"] == ledger.tables
    assert row.cache_bytes == sum(row.ledger.values())
    assert row.bits_per_value == pytest.approx(ledger.bits_per_value)
    assert row.ratio == row.float16_bytes / row.cache_bytes


def test_more_bits_are_better_and_a_window_is_exact(report):
    assert report.row("k=mse4,v=mse4")["kl_mean"] < report.row("k=mse3,v=mse3")["kl_mean"] / 2
    along = report.row("k=mse2,v=mse3,sinks=2,window=16").along
    assert all(stretch["kl_mean"] < 1e-9 for stretch in along if stretch["from"] < 12)
    assert all(stretch["kl_mean"] > 1e-4 for stretch in along if stretch["from"] > 40)


def test_plain_integers_and_kivi_stand_beside_the_policies(report):
    kinds = {row.policy: row.kind for row in report.rows}
    for name in ("k=int8,v=int8", "k=int4,v=int4", "kivi4", "kivi2"):
        assert kinds[name] == "baseline"
    assert report.row("k=int8,v=int8")["kl_mean"] < report.row("k=int4,v=int4")["kl_mean"]


def test_two_replays_are_the_same_but_for_times(traces):
    found = [replay(traces, ["k=mse3,v=mse4,window=8"]).to_dict() for _ in range(2)]
    assert [found[i].pop("times")["protocol"]["turns"] for i in (0, 1)] == [3, 3]
    assert json.dumps(found[0]) == json.dumps(found[1])


def test_a_seed_changes_codes_and_is_said(traces, report):
    other = replay(traces, ["k=mse3,v=mse3"], baselines=(), seed=1, times=False)
    assert other.protocol["seed"] == 1
    assert other.row("k=mse3,v=mse3")["kl_mean"] != report.row("k=mse3,v=mse3")["kl_mean"]


def test_times_are_of_each_stage_and_backend(traces):
    found = replay(traces, ["k=mse4,v=mse4"], baselines=("kivi4",), backend="numpy").times
    row = found["rows"]["k=mse4,v=mse4"]
    assert row["backend"] == "numpy"
    assert all(row[f"{stage}_ns"] > 0 for stage in ("encode", "score", "attend"))
    assert found["rows"]["kivi4"]["attend_ns"] is None


def test_heads_with_positions_of_their_own_and_more_samples_are_replayed(arguments):
    random = np.random.default_rng(0)

    def head(number, samples, queries):
        tokens = random.standard_normal((3, samples, 20, 8)).astype(np.float32)
        positions = random.integers(0, 20, (samples, queries))
        asked = tokens[2][:, :queries]
        return KvTrace(tokens[0], tokens[1], asked, positions, model="m", benchmark="b", layer=0, head=number)

    traces = TraceSet([head(0, 3, 4), head(1, 1, 4), head(2, 1, 7)])
    found = replay(traces, ["k=mse4,v=mse4"], times=False, baselines=())
    assert found.protocol["queries"] == 12 + 4 + 7
    for one in found.row("k=mse4,v=mse4").heads[1:]:
        assert one["kl_mean"] == pytest.approx(by_hand(traces[0, one["head"]], "k=mse4,v=mse4")[0], rel=1e-4)


def test_unsorted_positions_are_asked_in_order(arguments):
    arguments |= {"query_positions": np.array([[4, 0], [3, 1]])}
    trace = KvTrace(**arguments)
    found = replay(trace, ["k=mse4,v=mse4,window=1"], times=False, baselines=())
    swapped = arguments | {
        "query_positions": np.array([[0, 4], [1, 3]]),
        "queries": arguments["queries"][:, ::-1],
    }
    again = replay(KvTrace(**swapped), ["k=mse4,v=mse4,window=1"], times=False, baselines=())
    assert found.rows == again.rows


def test_presets_are_resolved_for_the_model_that_was_recorded(arguments):
    def policy(extra, **changes):
        trace = KvTrace(**(arguments | changes), extra=extra)
        return replay(trace, ["balanced"], times=False, baselines=()).rows[1]

    assert policy({}, layer=0).policy == "k=mse4,v=mse4,sinks=4,window=128"
    found = policy({"model_layers": "32"}, layer=1)
    assert found.policy == PRESETS["balanced"]
    assert found.asked == "balanced"
    assert policy({"model_layers": "32"}, layer=1)["key_error"] == 0  # 5 tokens: all of them in the window


def test_boundary_layers_have_their_bits(traces):
    found = replay(traces, ["k=mse2,v=mse2,layer1.k=mse8"], times=False, baselines=())
    heads = found.rows[1].heads
    assert heads[0]["kl_mean"] > 100 * heads[2]["kl_mean"]


def test_fewer_queries_are_spread_over_the_tokens(traces):
    found = replay(traces, ["k=mse4,v=mse4"], queries=3, times=False, baselines=())
    assert found.protocol["queries"] == 4 * 3
    assert found.rows[1].along[-1]["from"] > 80


def test_wide_dtypes_are_replayed(arguments):
    arguments |= {"keys": arguments["keys"].astype(np.float64)}
    found = replay(KvTrace(**arguments), ["k=mse8,v=mse8"], times=False, baselines=())
    assert found.row("exact").ledger["codes"] == 2 * 5 * (4 + 3) * 4
    assert found.rows[1]["kl_mean"] < 1e-3


def test_progress_ends_where_it_said(traces):
    seen = []
    replay(traces, ["k=mse4,v=mse4"], baselines=(), times=False, progress=lambda *told: seen.append(told))
    assert [told[:2] for told in seen] == [(1, 2), (2, 2)]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"policies": ["k=mse9,v=mse4"]}, InvalidPolicy, "mse9"),
        ({"policies": ["k=mse4,v=mse4,boundary=2@8"]}, PolicyMismatch, "the model has 2"),
        ({"policies": ["kivi3"]}, InvalidSpec, "no baseline is called 'kivi3'; known: exact, kivi2"),
        ({"policies": ["k=mse4,v=mse4"], "backend": "abacus"}, BackendUnavailable, "abacus"),
        ({"top_k": 0}, InvalidSpec, "top_k is a whole number, 1 or more, got 0"),
        ({"queries": -1}, InvalidSpec, "queries is a whole number, 0 or more"),
    ],
)
def test_bad_arguments_are_named(traces, changes, error, message):
    with pytest.raises(error, match=message):
        replay(traces, **changes)


def test_a_value_that_is_not_finite_is_named_before_any_figure(trace, tmp_path):
    trace.save(tmp_path / "t")
    data = bytearray((tmp_path / "t").read_bytes())
    nan = np.full(1, np.nan, np.float32).tobytes()
    at = data.index(trace.values[1, 2].tobytes())
    data[at : at + 4] = nan
    (tmp_path / "t").write_bytes(data)
    with pytest.raises(NotFinite, match=r"t: values\[1, 2, 0\] is nan"):
        replay(KvTrace.load(tmp_path / "t"), ["k=mse4,v=mse4"])


def test_a_report_comes_back_from_json(report, tmp_path):
    (tmp_path / "r.json").write_text(report.to_json())
    again = Report.load(tmp_path / "r.json")
    assert again.to_json() == report.to_json()
    assert again.row("kivi4") == replace(
        report.row("kivi4"), heads=again.row("kivi4").heads, along=again.row("kivi4").along
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "not a report"),
        ("{}", "not a report of tq-trace replay: 'kind'"),
        ('{"kind": "advice", "version": 1}', "expected a tq-trace replay"),
        ("\xff", "not text|not JSON"),
    ],
)
def test_what_is_no_report_is_corrupt_data(tmp_path, text, message):
    (tmp_path / "r.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(CorruptData, match=message):
        Report.load(tmp_path / "r.json")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda fields: fields["rows"][0].update(cache_bytes="many"), "numbers above 0"),
        (lambda fields: fields["rows"][0].update(figures=[]), "objects"),
        (lambda fields: fields["rows"][0]["figures"].update(kl_mean="x"), "figures are numbers"),
        (lambda fields: fields["rows"][0].pop("policy"), "policy"),
        (lambda fields: fields.update(trace=3), "trace is an object"),
        (lambda fields: fields.update(rows=3), "not a report"),
    ],
)
def test_a_report_with_a_broken_part_is_corrupt_data(report, edit, message):
    fields = json.loads(report.to_json())
    edit(fields)
    with pytest.raises(CorruptData, match=message):
        Report.from_dict(fields)


def test_a_missing_report_is_a_file_not_found_error(tmp_path):
    with pytest.raises(TraceNotFound, match="no such file"):
        Report.load(tmp_path / "nowhere")


def test_a_row_that_is_not_there_is_a_key_error(report):
    with pytest.raises(KeyError, match="no row for 'k=mse7,v=mse7'"):
        report.row("k=mse7,v=mse7")
