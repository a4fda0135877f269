"""Rows of `tq-trace inspect` as JSON, CSV, Markdown, or a table for people.

Strings from a file are a stranger's: what could steer a terminal is shown as an escape, never sent.
"""

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from rich.console import Console, Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tq_trace.inspection import Row

# The table needs the one and gains nothing from more than the other; a narrower terminal wraps lines itself.
MIN_WIDTH: Final = 76
MAX_WIDTH: Final = 120


def visible(text: str) -> str:
    """The text with everything that is not printable (control codes, line breaks, bidi marks) as an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def to_json(rows: Sequence[Row]) -> str:
    """`{"rows": [...]}`, numbers in full; what a file cannot tell is null."""
    return json.dumps({"rows": list(rows)}, indent=2, allow_nan=False) + "\n"


def to_csv(rows: Sequence[Row]) -> str:
    """A header and one line a file, numbers in full; peaks as `index:ratio index:ratio`, unknown as empty."""
    flat = [dict(_flat(row)) for row in rows]
    out = io.StringIO()
    writer = csv.DictWriter(out, list(flat[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return out.getvalue()


def _flat(row: Row, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in row.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}_")
        elif isinstance(value, (list, tuple)):
            yield prefix + name, " ".join(f"{peak['index']}:{_plain(peak['ratio'])}" for peak in value)
        else:
            yield prefix + name, visible(value) if isinstance(value, str) else value


def _plain(ratio: float | None) -> str:
    return "" if ratio is None else repr(ratio)


CELLS: Final[dict[str, Callable[[Row], str]]] = {
    "file": lambda row: row["file"],
    "model": lambda row: row["model"],
    "benchmark": lambda row: _benchmark(row),
    "layer": lambda row: str(row["layer"]),
    "head": lambda row: _known(row["head"]),
    "samples": lambda row: str(row["samples"]),
    "tokens": lambda row: str(row["tokens"]),
    "dims K/V": lambda row: f"{row['head_dim']}/{row['value_dim']}",
    "dtype": lambda row: _dtypes(row["dtypes"]),
    "bytes": lambda row: str(row["disk_bytes"]),
    "K+V as float16": lambda row: str(row["float16_bytes"]),
    "K norm min/median/max": lambda row: _norms(row["keys"]),
    "V norm min/median/max": lambda row: _norms(row["values"]),
    "K/V norm": lambda row: _number(row["norm_ratio"]),
    "K outlier channels": lambda row: _peaks(row["keys"]["outlier_channels"], 4),
    "K energy in mean": lambda row: _share(row["keys"]["mean_share"]),
    "largest K at": lambda row: _peaks(row["keys"]["largest"], 4),
    "note": lambda row: _known(row["note"]),
}
"""Columns of Markdown and HTML: title -> text of a row."""


def to_markdown(rows: Sequence[Row]) -> str:
    """One table, one line a file, numbers rounded to four digits."""
    lines = [list(CELLS), ["---"] * len(CELLS)]
    lines += [[escaped(cell(row)) for cell in CELLS.values()] for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def escaped(text: str) -> str:
    """The text as Markdown shows it literally: no cell ends early, no markup or HTML of a stranger's takes effect."""
    return "".join(f"\\{c}" if c in "\\`*_[]<>|&!#~$" else c for c in visible(text))


def to_table(rows: Sequence[Row], width: int = 80, *, styled: bool = False) -> str:
    """A block for each file that fits into `width` columns, 76 at least; `styled` adds terminal colours."""
    buffer = io.StringIO()
    width = max(MIN_WIDTH, min(width, MAX_WIDTH))
    console = Console(file=buffer, width=width, force_terminal=styled, highlight=False, markup=False, emoji=False)
    for number, row in enumerate(rows):
        if number:
            console.print()
        console.print(_block(row))
    console.print()
    console.print("Times (x) are to the median channel, or to the median position.", style="dim")
    text = buffer.getvalue()
    return text if styled else "".join(f"{line.rstrip()}\n" for line in text.splitlines())


def _block(row: Row) -> Group:
    title = Text(visible(row["file"]), style="bold cyan", overflow="fold")
    return Group(title, Padding(_facts(row), (0, 0, 1, 2)), Padding(_statistics(row), (0, 0, 0, 2)))


def _facts(row: Row) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    dims = (
        f"{row['head_dim']}"
        if row["head_dim"] == row["value_dim"]
        else f"{row['head_dim']} (values {row['value_dim']})"
    )
    facts = {
        "model": row["model"],
        "benchmark": _benchmark(row),
        "layer": str(row["layer"]) + ("" if row["head"] is None else f", head {row['head']}"),
        "shape": f"{_counted(row['samples'], 'sample')} of {_counted(row['tokens'], 'token')}, head_dim {dims}, "
        f"{_counted(row['query_count'], 'query')} each",
        "dtype": _dtypes(row["dtypes"]),
        "size": f"{_size(row['disk_bytes'])} on disk; keys and values as float16: {_size(row['float16_bytes'])}",
        "note": row["note"] or "",
    }
    for name, value in facts.items():
        if value:
            table.add_row(name, Text(visible(value)))
    return table


def _statistics(row: Row) -> Table:
    table = Table(box=None, padding=(0, 3, 0, 0), header_style="bold")
    table.add_column("", style="dim", no_wrap=True)
    table.add_column("keys", overflow="fold", min_width=20)
    table.add_column("values", overflow="fold", min_width=20)
    both = (row["keys"], row["values"])
    table.add_row("norm min / median / max", *(_norms(found, " / ") for found in both))
    table.add_row("key norm / value norm", _number(row["norm_ratio"]), "")
    table.add_row("energy in the mean", *(_share(found["mean_share"]) for found in both))
    table.add_row("outlier channels", *(_peaks(found["outlier_channels"], 6) for found in both))
    table.add_row("largest at positions", *(_peaks(found["largest"], 4) for found in both))
    table.add_row("norm of first token", *(_times(found["first_token"]) for found in both))
    return table


def _benchmark(row: Row) -> str:
    suite = f" (suite {row['suite']})" if row["suite"] else ""
    return f"{row['benchmark']}{suite}"


def _known(value: object) -> str:
    return "" if value is None else str(value)


def _counted(count: int, noun: str) -> str:
    plural = "queries" if noun == "query" else f"{noun}s"
    return f"{count} {noun if count == 1 else plural}"


def _dtypes(dtypes: dict[str, str]) -> str:
    floats = {name: kind for name, kind in dtypes.items() if name != "query_positions"}
    if len(set(floats.values())) == 1:
        return floats["keys"]
    return ", ".join(f"{name} {kind}" for name, kind in floats.items())


def _number(value: float | None) -> str:
    return "?" if value is None else f"{value:.4g}"


def _times(ratio: float | None) -> str:
    return "?" if ratio is None else f"{ratio:.3g}x"


def _share(share: float | None) -> str:
    return "?" if share is None else f"{100 * share:.1f} %"


def _norms(found: dict[str, Any], between: str = "/") -> str:
    return between.join(_number(found["norms"][name]) for name in ("minimum", "median", "maximum"))


def _peaks(peaks: Sequence[dict[str, Any]], most: int) -> str:
    """`index:ratio` of the first few, without a space at which a line could break, and how many more there are."""
    shown = [f"{peak['index']}:{_times(peak['ratio'])}" for peak in peaks[:most]]
    if len(peaks) > most:
        shown.append(f"and {len(peaks) - most} more")
    return ", ".join(shown) or "none"


def _size(size_bytes: int) -> str:
    """Bytes in powers of 1000, three digits."""
    value, units = float(size_bytes), ["B", "kB", "MB", "GB", "TB"]
    while value >= 999.5 and len(units) > 1:
        value /= 1000
        units.pop(0)
    return f"{size_bytes} B" if units[0] == "B" else f"{value:.3g} {units[0]}"
