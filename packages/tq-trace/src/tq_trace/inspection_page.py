"""`tq-trace inspect --format html`: the Markdown table's columns as a page."""

from collections.abc import Sequence
from typing import Final

from tq_trace import formats
from tq_trace.document import Column, Document, Sheet
from tq_trace.inspection import Row

TEXTS: Final = ("file", "model", "benchmark", "dtype", "K outlier channels", "largest K at", "note")

NOTES: Final = (
    "Norms are smallest, median, largest; K/V norm is median of keys over median of values: the larger needs bits.",
    "Outlier channels: RMS over 3 times the median channel's; they break quantizers that do not rotate.",
    "Energy in mean: squared norm of the mean key over the mean squared norm; storing the mean once saves this much.",
    "Largest: positions of the keys of largest norm. Times (x) are to the median channel, or to the median position.",
)


def to_html(rows: Sequence[Row]) -> str:
    """One page that needs nothing else, one line a trace; what is not known is empty."""
    columns = [Column(name, name, str, name in TEXTS) for name in formats.CELLS]
    cells = [{name: cell(row) for name, cell in formats.CELLS.items()} for row in rows]
    heading = f"{len(rows)} traces" if len(rows) != 1 else "1 trace"
    return Document("tq-trace inspect", heading, [Sheet("", columns, cells)], {"rows": list(rows)}, NOTES).render(
        "html"
    )
