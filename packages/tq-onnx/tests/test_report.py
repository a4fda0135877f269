"""Rendering: the same figures in every form, strict JSON, nothing rounded away."""

import csv
import io
import json
from dataclasses import replace

import pytest

from tq_onnx.report import Report
from tq_onnx.rows import COLUMNS, Row, _small, figures_of

FIGURES = {
    "cache_bytes": 2_011_758,
    "exact_bytes": 7_323_648,
    "bits_per_value": 4.25,
    "perplexity": 5.68111,
    "kl_mean": 0.0076123,
    "kl_p99": 0.0701,
    "top1_agreement": 0.9629,
    "first_divergence": 12.0,
    "ms_per_token": 0.844,
}


@pytest.fixture
def report() -> Report:
    rows = [
        Row("balanced", "k=mse4,v=mse4,window=128", "reconstruct", FIGURES, {"codes": 5}, [0], [FIGURES]),
        Row("x", "k=mse2,v=mse2", "reconstruct", FIGURES | {"first_divergence": None}, {}, [0, 1], [FIGURES] * 2),
    ]
    protocol = {"windows": 8, "tokens": 448, "scored_tokens": 3072, "scored_from": 64, "seeds": [0]}
    return Report(rows, {"name": "tiny"}, {"numpy": "2"}, {"sha256": "ab"}, protocol, {}, "tq-onnx evaluate tiny")


def test_json_has_the_names_that_the_design_fixes(report) -> None:
    data = json.loads(report.to_json())
    assert set(data) == {"kind", "command", "bundle", "text", "protocol", "versions", "machine", "notes", "rows"}
    first, second = data["rows"]
    names = set(FIGURES) | {"policy", "mode", "seed", "ledger"}
    assert names <= set(first)
    assert (first["policy"], first["asked"], first["seed"]) == ("k=mse4,v=mse4,window=128", "balanced", 0)
    assert first["perplexity"] == 5.68111
    assert second["first_divergence"] is None
    assert second["seed"] == [0, 1]


def test_json_refuses_what_json_cannot_say(report) -> None:
    broken = Row("a", "a", "exact", FIGURES | {"kl_mean": float("nan")}, {}, [], [FIGURES])
    with pytest.raises(ValueError, match="not JSON compliant"):
        Report([broken], {}, {}, {}, {}).to_json()


def test_csv_has_a_line_for_each_row_and_full_precision(report) -> None:
    first, second = csv.DictReader(io.StringIO(report.to_csv()))
    assert float(first["kl_mean"]) == 0.0076123
    assert first["policy"] == "k=mse4,v=mse4,window=128"
    assert second["first_divergence"] == ""
    assert second["seed"] == "0 1"


def test_markdown_and_table_show_the_same_cells(report) -> None:
    markdown = [line for line in report.to_markdown().splitlines() if line.startswith("| k=")]
    table = [line for line in report.to_table().splitlines() if line.startswith(" k=")]
    for row, in_markdown, in_table in zip(report.rows, markdown, table, strict=True):
        assert in_markdown.strip("| ").split(" | ") == row.cells()
        assert in_table.split() == row.cells()
        assert len(row.cells()) == len(COLUMNS)
    assert report.rows[0].cells()[2:] == [
        "4.25", "2,011,758", "7,323,648", "3.64", "5.681", "0.00761", "-", "0.0701", "0.963", "12", "0.84"
    ]  # fmt: skip
    assert report.rows[1].cells()[-2] == "-"


@pytest.mark.parametrize("form", ["table", "markdown"])
def test_every_printed_form_says_that_reconstruct_saves_no_memory(report, form: str) -> None:
    assert "reconstruct saves no memory by itself" in report.render(form)
    assert "tiny (real model): 8 windows of 448 tokens, 3072 scored" in report.render(form)


def test_notes_speak_of_the_modes_that_were_run(report) -> None:
    fused = replace(report, rows=[replace(row, mode="fused") for row in report.rows])
    assert not any("reconstruct" in note for note in fused.notes)
    assert "fused holds no float cache: between steps the bytes are all that there is." in fused.to_table()
    assert not any("fused" in note for note in report.notes)


def test_table_is_plain_ascii_and_never_cut(report) -> None:
    assert report.to_table().isascii()
    assert "..." not in report.to_table()


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0, "0"), (1.234e-9, "<1e-07"), (3.38e-5, "0.0000338"), (0.0053, "0.00530"), (0.26312, "0.263"), (6.4, "6.40")],
)
def test_small_numbers_keep_three_digits(value: float, shown: str) -> None:
    assert _small(value) == shown


def test_means_over_seeds_keep_counts_whole_and_gaps_open() -> None:
    means = figures_of([{"a": 1.0, "b": 7, "c": 3.0}, {"a": 2.0, "b": 7, "c": None}])
    assert means == {"a": 1.5, "b": 7, "c": None}
    assert isinstance(means["b"], int)
