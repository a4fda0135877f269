"""A replay's report as a document: figures, times, heads."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from tq_trace.document import Column, Document, Plot, Sheet, plain, signed, small, whole
from tq_trace.report import Report, Row

NAMES: Final = (Column("number", "#", whole), Column("policy", "policy", str, True))

ATTENTION: Final = (
    *NAMES,
    Column("kind", "kind", str, True),
    Column("bits_per_value", "bits/value", plain(2)),
    Column("cache_bytes", "bytes", whole),
    Column("ratio", "ratio", plain(2)),
    Column("kl_mean", "KL mean", small),
    Column("kl_p99", "KL p99", small),
    Column("top_k", "top-k", plain(3)),
    Column("top_1", "top-1", plain(3)),
    Column("first_divergence", "1st div.", whole),
    Column("output_error", "output error", small),
    Column("output_error_keys", "by K", small),
    Column("output_error_values", "by V", small),
)

SCORES: Final = (
    *NAMES,
    Column("score_rmse", "score rmse", small),
    Column("score_shift", "shift", signed),
    Column("score_bias", "bias", signed),
    Column("score_correlation", "correlation", plain(5)),
    Column("key_error", "K mse", small),
    Column("value_error", "V mse", small),
)

TIMES: Final = (
    Column("policy", "policy", str, True),
    Column("backend", "backend", str, True),
    Column("encode_ns", "encode", plain(2)),
    Column("score_ns", "score", plain(3)),
    Column("attend_ns", "attend", plain(3)),
)


def view(report: Report) -> Document:
    """The report as a document."""
    rows = [_flat(row, number) for number, row in enumerate(report.rows, 1)]
    sheets = [Sheet("", ATTENTION, rows), Sheet("Scores and vectors", SCORES, rows)]
    if report.times:
        sheets.append(Sheet(_times_title(report.times), TIMES, _times(report.times)))
    notes = [
        f"top-k: share of the {report.protocol['top_k']} tokens of largest weight that are the same; 1st div.: the "
        "lowest position whose top token differs; bias: slope of measured on exact logits, less 1; K mse, V mse: "
        "squared error of decoded vectors over their squared norm.",
        *report.notes,
        *(f"Not shown: {reason}." for reason in report.skipped),
    ]
    table = Sheet("", (*ATTENTION, *SCORES[len(NAMES) :]), rows)
    data = report.to_dict()
    return Document("tq-trace replay", report.heading(), sheets, data, notes, lambda: _plots(report), table)


def _plots(report: Report) -> Sequence[Plot]:
    from tq_trace.plots import plots_of  # late: it needs the plot library, which is an extra

    return plots_of(report)


def _flat(row: Row, number: int) -> dict[str, Any]:
    plain_values = {name: value for name, value in row.to_dict().items() if not isinstance(value, (dict, list))}
    return {"number": number, **plain_values, **row.figures}


def _times_title(times: Mapping[str, Any]) -> str:
    protocol = times["protocol"]
    return (
        f"Times: CPU nanoseconds a number, one layer of {protocol['heads']} heads, {protocol['tokens']:,} tokens and "
        f"{protocol['queries']} queries a head in one call (median of {protocol['turns']})"
    )


def _times(times: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"policy": name, **row} for name, row in times["rows"].items()]
