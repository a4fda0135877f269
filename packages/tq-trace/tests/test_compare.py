"""What changed between two reports, beside a row in which nothing may."""

import json
from dataclasses import replace

import pytest

from tq_core import InvalidSpec
from tq_trace import Report, compare, replay, synthetic

SHAPE = {"layers": 1, "kv_heads": 1, "head_dim": 32, "tokens": 64, "query_count": 8}


@pytest.fixture(scope="module")
def reports():
    traces = synthetic("isotropic", **SHAPE)
    return [
        replay(traces, policies, baselines=(), times=False, seed=seed)
        for policies, seed in ((["k=mse4,v=mse4", "k=mse3,v=mse3"], 0), (["k=mse4,v=mse4", "k=mse2,v=mse2"], 1))
    ]


def test_the_same_report_twice_differs_in_nothing(reports):
    found = compare(reports[0], reports[0])
    assert found.is_clean
    assert found.is_same_trace
    assert all(value in (0, None) for change in found.changes for value in change.difference.values())


def test_differences_are_after_less_before_and_the_control_is_zero(reports):
    found = compare(*reports)
    assert found.changes[0].is_control
    assert found.control.policy == "exact"
    assert found.is_clean  # another seed is no other attention
    (change,) = found.changes[1:]
    assert change.policy == "k=mse4,v=mse4"
    before, after = (report.row("k=mse4,v=mse4") for report in reports)
    assert change.difference["kl_mean"] == after["kl_mean"] - before["kl_mean"] != 0
    assert change.difference["cache_bytes"] == 0
    assert (found.only_before, found.only_after) == (["k=mse3,v=mse3"], ["k=mse2,v=mse2"])


def test_a_control_that_differs_is_told(reports):
    rows = list(reports[0].rows)
    rows[0] = replace(rows[0], figures=rows[0].figures | {"kl_mean": 0.5})
    found = compare(reports[0], replace(reports[0], rows=rows))
    assert not found.is_clean
    assert any("The control is not 0" in note for note in found.view().notes)


def test_another_trace_is_told(reports):
    other = replay(synthetic("isotropic", seed=9, **SHAPE), ["k=mse4,v=mse4"], baselines=(), times=False)
    found = compare(reports[0], other)
    assert not found.is_same_trace
    assert any("different traces" in note for note in found.view().notes)


def test_reports_from_files_compare_like_those_in_memory(reports):
    read = [Report.from_dict(json.loads(report.to_json())) for report in reports]
    assert compare(*read).to_dict() == compare(*reports).to_dict()


def test_a_report_without_the_control_is_refused(reports):
    with pytest.raises(InvalidSpec, match="the second report has no row 'exact'"):
        compare(reports[0], replace(reports[0], rows=reports[0].rows[1:]))
