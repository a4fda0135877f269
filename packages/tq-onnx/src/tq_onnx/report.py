"""What an evaluation found, as data and as text: table, JSON, CSV, Markdown."""

import csv
import io
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from importlib.metadata import version
from typing import Any, Final

from rich.console import Console
from rich.table import Table

SMALLEST_SHOWN: Final = 1e-7  # below it two float32 runs differ by rounding alone
FORMATS: Final = ("table", "json", "csv", "markdown")
MEASURED_WITH: Final = ("numpy", "onnxruntime", "tokenizers", "tq-core", "tq-cache", "tq-onnx")

NOTES: Final = (
    "bits/value: all bits held per cached number at the measured length, with norms, padding and exact tokens (in the "
    "dtype that the model gives), without the tables that all layers share. cache bytes: everything, of one batch of "
    "windows. ratio: float16 bytes over cache bytes.",
    "int and absmax rows are the yardsticks, plain rounding of each vector: int with its minimum and maximum, absmax "
    "symmetric with one scale.",
    "KL is KL(exact || row) in nats; 1st div. is the median over windows of the scored tokens before the first whose "
    "best token differs, '-' where most windows have none; ms/token is the median step over the batch.",
)
# What cache bytes mean for memory, in each mode that packs.
MEMORY_NOTES: Final[Mapping[str, str]] = {
    "reconstruct": "reconstruct saves no memory by itself: the runtime holds a float cache; the bytes are what the "
    "codes hold.",
    "fused": "fused holds no float cache: between steps the bytes are all that there is.",
}

COLUMNS: Final = (
    "policy", "mode", "bits/value", "cache bytes", "float16 bytes", "ratio", "perplexity", "KL mean", "KL p99", "top-1",
    "1st div.", "ms/token",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One policy: figures averaged over its seeds, and the figures of each seed beside them."""

    asked: str
    policy: str
    mode: str
    figures: Mapping[str, float | None]
    ledger: Mapping[str, int]
    seeds: Sequence[int]
    by_seed: Sequence[Mapping[str, float | None]]

    def __getitem__(self, name: str) -> Any:
        return self.figures[name]

    def to_dict(self) -> dict[str, Any]:
        """Names fixed by the project's design, with `seed` (a list where there are several) and ranges over seeds."""
        seed = self.seeds[0] if len(self.seeds) == 1 else list(self.seeds) or None
        row: dict[str, Any] = {
            "policy": self.policy,
            "asked": self.asked,
            "mode": self.mode,
            "seed": seed,
            **self.figures,
        }
        row["ledger"] = dict(self.ledger)
        if len(self.by_seed) > 1:
            row["by_seed"] = [dict(figures) for figures in self.by_seed]
            row["range"] = {name: _range(name, self.by_seed) for name in self.figures}
        return row

    def cells(self) -> list[str]:
        """The row as printed, in the order of COLUMNS."""
        figures = self.figures
        divergence = figures["first_divergence"]
        ratio = (figures["exact_bytes"] or 0) / (figures["cache_bytes"] or 1)
        return [
            self.policy,
            self.mode,
            f"{figures['bits_per_value']:.2f}",
            f"{figures['cache_bytes']:,.0f}",
            f"{figures['exact_bytes']:,.0f}",
            f"{ratio:.2f}",
            f"{figures['perplexity']:.3f}",
            _small(figures["kl_mean"]),
            _small(figures["kl_p99"]),
            f"{figures['top1_agreement']:.3f}",
            "-" if divergence is None else f"{divergence:.0f}",
            f"{figures['ms_per_token']:.2f}",
        ]


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
    def notes(self) -> tuple[str, ...]:
        """How to read the figures, with what they mean in the modes that were run."""
        modes = dict.fromkeys(row.mode for row in self.rows)
        return (NOTES[0], *(MEMORY_NOTES[mode] for mode in modes if mode in MEMORY_NOTES), *NOTES[1:])

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
            "| " + " | ".join(COLUMNS) + " |",
            "| --- | --- |" + " ---: |" * (len(COLUMNS) - 2),
            *("| " + " | ".join(row.cells()) + " |" for row in self.rows),
            "",
            *(f"- {note}" for note in self.notes),
        ]
        return "\n".join(lines) + "\n"

    def to_table(self) -> str:
        """A table for a terminal, as plain text."""
        # No box: its lines are no ASCII, and a narrower table fits more terminals.
        table = Table(title=self.heading() + "\n", title_justify="left", title_style="", box=None)
        for name in COLUMNS:
            table.add_column(name, justify="left" if name in ("policy", "mode") else "right", no_wrap=True)
        for row in self.rows:
            table.add_row(*row.cells())
        out = io.StringIO()
        # Wider than any row, so that no figure is cut; a terminal may scroll or wrap, a file must be whole.
        console = Console(file=out, width=200, no_color=True, highlight=False, markup=False)
        console.print(table)
        lines = [line.rstrip() for line in out.getvalue().splitlines()]
        return "\n".join([*lines, "", *self.notes]) + "\n"

    def heading(self) -> str:
        """One sentence: which model, which text, how much of it."""
        protocol, bundle = self.protocol, self.bundle
        seeds = protocol["seeds"]
        return (
            f"{bundle['name']} (real model): {protocol['windows']} windows of {protocol['tokens']} tokens, "
            f"{protocol['scored_tokens']} scored from position {protocol['scored_from']}, one token a step, "
            f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
        )

    def render(self, form: str) -> str:
        """The report in one of FORMATS."""
        return {"table": self.to_table, "json": self.to_json, "csv": self.to_csv, "markdown": self.to_markdown}[form]()


def figures_of(by_seed: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    """Means over seeds; a figure that one seed does not have has no mean. Counts stay whole numbers."""
    means: dict[str, float | None] = {}
    for name in by_seed[0]:
        values = [figures[name] for figures in by_seed]
        present = [value for value in values if value is not None]
        if len(present) < len(values):
            means[name] = None
        elif all(isinstance(value, int) and value == present[0] for value in present):
            means[name] = present[0]
        else:
            means[name] = sum(present) / len(present)
    return means


def versions() -> dict[str, str]:
    """Versions of everything that the numbers depend on."""
    return {"python": platform.python_version()} | {name: version(name) for name in MEASURED_WITH}


def _range(name: str, by_seed: Sequence[Mapping[str, float | None]]) -> list[float] | None:
    values = [figures[name] for figures in by_seed]
    present = [value for value in values if value is not None]
    return [min(present), max(present)] if len(present) == len(values) else None


def _small(value: float | None) -> str:
    """Three significant digits without an exponent; KL spans five orders of magnitude."""
    if value is None:
        return "-"
    if 0 < value < SMALLEST_SHOWN:
        return f"<{SMALLEST_SHOWN:g}"
    return f"{Decimal(f'{value:.2e}'):f}" if value else "0"
