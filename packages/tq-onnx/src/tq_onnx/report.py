"""What an evaluation found, as data and as text: table, JSON, CSV, Markdown."""

import csv
import io
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from tq_onnx.rows import ASKED, COLUMNS, Row

FORMATS: Final = ("table", "json", "csv", "markdown", "html")
MEASURED_WITH: Final = ("numpy", "onnxruntime", "tokenizers", "tq-core", "tq-cache", "tq-onnx")

NOTES: Final = (
    "bits/value: all bits held per cached number at the measured length, with norms, padding and exact tokens (in the "
    "dtype that the model gives), without the tables that all layers share. cache bytes: everything, of one batch of "
    "windows. ratio: float16 bytes over cache bytes.",
    "int and absmax rows are the yardsticks, plain rounding of each vector: int with its minimum and maximum, absmax "
    "symmetric with one scale.",
    "KL is KL(exact || row) in nats, +-95 % half of Student's interval of its mean over seeds; 1st div. is the median "
    "over windows of the scored tokens before the first whose best token differs, '-' where most windows have none; "
    "ms/token is the median step over the batch.",
)
ASKED_NOTES: Final[Mapping[str, str]] = {
    "recall": "recall is the share of scored tokens that the row ranks first, all of which the window held before.",
    "token match": "token match and free div. are of greedy text that each row writes by itself: the share of tokens "
    "that are those of the exact row, place by place, and the median first that is not. One other token changes all "
    "that follow, so they describe and do not rank.",
    "peak MiB": "peak is the most resident memory of a fresh process that decodes the first batch of windows in that "
    "mode, growth how much of it came after the model was loaded; both hold what the runtime works with.",
}
# What cache bytes mean for memory, in each mode that packs.
MEMORY_NOTES: Final[Mapping[str, str]] = {
    "reconstruct": "reconstruct saves no memory by itself: the runtime holds a float cache; the bytes are what the "
    "codes hold.",
    "fused": "fused holds no float cache: between steps the bytes are all that there is.",
}


@dataclass(frozen=True)
class Report:
    """An evaluation: rows, and all that is needed to run it again."""

    rows: Sequence[Row]
    bundle: Mapping[str, Any]
    versions: Mapping[str, str]
    text: Mapping[str, Any]
    protocol: Mapping[str, Any]
    machine: Mapping[str, Any] = field(default_factory=dict)
    command: str = ""

    @property
    def asked(self) -> list[str]:
        """The columns of ASKED that this report has figures for; recall where there is something to recall."""
        names = [name for name, figure in ASKED.items() if any(figure in row.figures for row in self.rows)]
        return [name for name in names if name != "recall" or self.protocol.get("task", "text") != "text"]

    @property
    def columns(self) -> tuple[str, ...]:
        """Titles of the columns."""
        return (*COLUMNS, *self.asked)

    @property
    def notes(self) -> tuple[str, ...]:
        """How to read the figures, with what they mean in the modes that were run."""
        modes = dict.fromkeys(row.mode for row in self.rows)
        asked = [ASKED_NOTES[name] for name in self.asked if name in ASKED_NOTES]
        if self.protocol.get("control_accuracy") is not None:
            control = self.protocol["control_accuracy"]
            asked.append(f"Without anything to recall from, the exact model ranks {control:.3f} of these tokens first.")
        asked += [f"{policy} was left out: {why}." for policy, why in self.protocol.get("left_out", {}).items()]
        return (NOTES[0], *(MEMORY_NOTES[mode] for mode in modes if mode in MEMORY_NOTES), *NOTES[1:], *asked)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for strict JSON."""
        return {
            "kind": "real-model evaluation",
            "command": self.command,
            "bundle": dict(self.bundle),
            "text": dict(self.text),
            "protocol": dict(self.protocol),
            "versions": dict(self.versions),
            "machine": dict(self.machine),
            "notes": list(self.notes),
            "rows": [row.to_dict() for row in self.rows],
        }

    def to_json(self) -> str:
        """Strict JSON, one value a line, ending in a newline."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n"

    def to_csv(self) -> str:
        """One line a row, full precision; an absent figure is empty."""
        out = io.StringIO()
        names = ["policy", "mode", "seed", *self.rows[0].figures]
        writer = csv.DictWriter(out, names, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        for row in self.rows:
            flat = row.to_dict()
            if isinstance(flat["seed"], list):
                flat["seed"] = " ".join(map(str, flat["seed"]))
            writer.writerow(flat)
        return out.getvalue()

    def to_markdown(self) -> str:
        """A table with its heading and notes."""
        lines = [
            self.heading(),
            "",
            "| " + " | ".join(self.columns) + " |",
            "| --- | --- |" + " ---: |" * (len(self.columns) - 2),
            *("| " + " | ".join(row.cells(self.asked)) + " |" for row in self.rows),
            "",
            *(f"- {note}" for note in self.notes),
        ]
        return "\n".join(lines) + "\n"

    def to_table(self) -> str:
        """A table for a terminal, as plain text."""
        # No box: its lines are no ASCII, and a narrower table fits more terminals.
        table = Table(title=self.heading() + "\n", title_justify="left", title_style="", box=None)
        for name in self.columns:
            table.add_column(name, justify="left" if name in ("policy", "mode") else "right", no_wrap=True)
        for row in self.rows:
            table.add_row(*row.cells(self.asked))
        out = io.StringIO()
        # Wider than any row, so that no figure is cut; a terminal may scroll or wrap, a file must be whole.
        console = Console(file=out, width=240, no_color=True, highlight=False, markup=False)
        console.print(table)
        lines = [line.rstrip() for line in out.getvalue().splitlines()]
        return "\n".join([*lines, "", *self.notes]) + "\n"

    def heading(self) -> str:
        """One sentence: which model, which text, how much of it."""
        protocol, bundle = self.protocol, self.bundle
        seeds, task = protocol["seeds"], protocol.get("task", "text")
        task = "" if task == "text" else f"task {task}, "
        return (
            f"{bundle['name']} (real model): {task}{protocol['windows']} windows of {protocol['tokens']} tokens, "
            f"{protocol['scored_tokens']} scored from position {protocol['scored_from']}, one token a step, "
            f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
        )

    def render(self, form: str) -> str:
        """The report in one of FORMATS."""
        if form == "html":
            from tq_onnx.report_page import to_page  # late: a page is made of reports

            return to_page(self)
        return {"table": self.to_table, "json": self.to_json, "csv": self.to_csv, "markdown": self.to_markdown}[form]()


def versions() -> dict[str, str]:
    """Versions of everything that the numbers depend on."""
    return {"python": platform.python_version()} | {name: version(name) for name in MEASURED_WITH}
