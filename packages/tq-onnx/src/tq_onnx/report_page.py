"""An evaluation as one HTML page: the table, pictures, and what a terminal has no room for."""

from typing import Any, Final

from tq_onnx.errors import visible
from tq_onnx.report import Report
from tq_trace.document import Column, Document, Plot, Sheet

TEXT_COLUMNS: Final = ("policy", "mode")
FURTHER: Final = {
    "top5_agreement": "top-5",
    "accuracy": "accuracy",
    "logit_rmse": "logit RMSE",
    "nominal_bits_per_value": "bits of codes and norms",
    "float_buffer_bytes": "float buffers, bytes",
    "state_bytes": "states, bytes",
}


def to_page(report: Report) -> str:
    """The page as text; MissingExtra of tq-trace where there is no plot library."""
    titles = ("row", *report.columns)
    rows = [
        dict(zip(titles, (str(number), *row.cells(report.asked)), strict=True))
        for number, row in enumerate(report.rows)
    ]
    columns = [Column(name, name, is_text=name in TEXT_COLUMNS) for name in titles]
    sheets = [Sheet("", columns, rows), _further(report), *_by_text(report)]
    document = Document(
        "tq-onnx evaluate", visible(report.heading()), sheets, report.to_dict(), report.notes, lambda: _plots(report)
    )
    return document.render("html")


def _further(report: Report) -> Sheet:
    def shown(value: float) -> str:
        return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"

    columns = [Column("policy", "policy", is_text=True), *(Column(key, name, shown) for key, name in FURTHER.items())]
    return Sheet("Further figures", columns, [{"policy": row.policy} | dict(row.figures) for row in report.rows])


def _by_text(report: Report) -> list[Sheet]:
    """KL of each row on each text, where there are several."""
    names = list(report.rows[0].by_text)
    if not names:
        return []
    columns = [Column("policy", "policy", is_text=True), *(Column(name, name, "{:.4g}".format) for name in names)]
    rows: list[dict[str, Any]] = [
        {"policy": row.policy} | {name: row.by_text[name]["kl_mean"] for name in names} for row in report.rows
    ]
    return [Sheet("KL mean by text", columns, rows)]


def _plots(report: Report) -> list[Plot]:
    from tq_trace.plots import bits_plot  # late: it needs the plot library, which is an extra

    points = [
        (number, "baseline" if row.policy.startswith(("k=int", "k=absmax")) else "policy", row["bits_per_value"], row)
        for number, row in enumerate(report.rows)
        if number
    ]
    kl = [(number, kind, bits, row["kl_mean"]) for number, kind, bits, row in points]
    tail = [(number, kind, bits, row["kl_p99"]) for number, kind, bits, row in points]
    if not kl:
        return []
    titles = ("KL to the exact logits, mean (nats)", "KL, 99th percentile (nats)")
    caption = "Divergence against bytes; numbers are those of the table. Lower left is better."
    return [bits_plot([kl, tail], titles, caption)]
