"""What a command has to say, once: tables of plain values with notes, rendered as text, CSV, Markdown, JSON or HTML.

Strings that come from a trace are a stranger's: each form shows them literally.
"""

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from tq_trace.formats import escaped, visible

FORMATS: Final = ("table", "json", "csv", "markdown", "html")

Show = Callable[[Any], str]
SMALLEST_SHOWN: Final = 1e-9  # below it two float32 runs differ by rounding alone


@dataclass(frozen=True)
class Column:
    """A column: the key of its values in a row, its title, and how a value is shown; text is aligned left."""

    key: str
    title: str
    show: Show = str
    is_text: bool = False


@dataclass(frozen=True)
class Sheet:
    """A table; `rows` hold values in full."""

    title: str
    columns: Sequence[Column]
    rows: Sequence[Mapping[str, Any]]

    def cells(self) -> list[list[str]]:
        """The rows as shown; what is not there is a dash."""
        return [
            ["-" if row.get(column.key) is None else visible(column.show(row[column.key])) for column in self.columns]
            for row in self.rows
        ]


@dataclass(frozen=True)
class Plot:
    """A picture as SVG text, and what to read in it."""

    caption: str
    svg: str


@dataclass(frozen=True)
class Document:
    """A heading of one or more lines, sheets, notes, the same as data for JSON, and plots, drawn only where shown.

    `table` is what CSV holds, where that is not the first sheet.
    """

    title: str
    heading: str
    sheets: Sequence[Sheet]
    data: Mapping[str, Any]
    notes: Sequence[str] = ()
    plots: Callable[[], Sequence[Plot]] = field(default=tuple)
    table: Sheet | None = None

    def render(self, form: str) -> str:
        """The document in one of FORMATS."""
        if form == "html":
            from tq_trace.page import to_page  # late: a page is made of documents

            return to_page(self)
        forms = {"table": self.to_table, "json": self.to_json, "csv": self.to_csv, "markdown": self.to_markdown}
        return forms[form]()

    def to_json(self) -> str:
        """Strict JSON, ending in a newline."""
        return json.dumps(self.data, indent=1, allow_nan=False) + "\n"

    def to_csv(self) -> str:
        """One table with numbers in full; what is not there is empty."""
        sheet = self.table or self.sheets[0]
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow([column.key for column in sheet.columns])
        for row in sheet.rows:
            values = [row.get(column.key) for column in sheet.columns]
            writer.writerow([visible(value) if isinstance(value, str) else value for value in values])
        return out.getvalue()

    def to_markdown(self) -> str:
        """Heading, tables, notes."""
        lines = [*(f"{escaped(line)}  " for line in self.heading.splitlines()), ""]
        for sheet in self.sheets:
            lines += [f"**{escaped(sheet.title)}**", ""] if sheet.title else []
            lines += ["| " + " | ".join(escaped(column.title) for column in sheet.columns) + " |"]
            lines += ["|" + "|".join(" --- " if column.is_text else " ---: " for column in sheet.columns) + "|"]
            lines += ["| " + " | ".join(map(escaped, row)) + " |" for row in sheet.cells()]
            lines += [""]
        return "\n".join([*lines, *(f"- {escaped(note)}" for note in self.notes)]).rstrip() + "\n"

    def to_table(self) -> str:
        """Plain text as wide as its rows: a terminal may wrap or scroll, a file must be whole."""
        out = io.StringIO()
        console = Console(file=out, width=400, no_color=True, highlight=False, markup=False, emoji=False)
        for line in self.heading.splitlines():
            console.print(visible(line), soft_wrap=True)
        for sheet in self.sheets:
            console.print(f"\n{sheet.title}" if sheet.title else "", soft_wrap=True)
            table = Table(box=None)
            for column in sheet.columns:
                table.add_column(column.title, justify="left" if column.is_text else "right", no_wrap=True)
            for row in sheet.cells():
                table.add_row(*row)
            console.print(table)
        lines = [line.rstrip() for line in out.getvalue().splitlines()]
        return "\n".join([*lines, "", *map(visible, self.notes)]).rstrip() + "\n"


def plain(digits: int) -> Show:
    """A number with so many decimals."""
    return lambda value: f"{value:,.{digits}f}"


def signed(value: float) -> str:
    """Three significant digits and a sign, zero without one."""
    return f"{'+' if value >= SMALLEST_SHOWN else ''}{small(value)}"


def whole(value: float) -> str:
    """A whole number with separators."""
    return f"{value:,.0f}"


def small(value: float) -> str:
    """Three significant digits without an exponent; errors span ten orders of magnitude."""
    if value == 0:
        return "0"
    if abs(value) < SMALLEST_SHOWN:
        return f"<{SMALLEST_SHOWN:g}"
    return f"{Decimal(f'{value:.2e}'):f}"
