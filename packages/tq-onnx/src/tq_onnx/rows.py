"""One row of an evaluation: a policy's figures as data and as printed cells."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final

from tq_onnx.intervals import half_width

SMALLEST_SHOWN: Final = 1e-7  # below it two float32 runs differ by rounding alone

COLUMNS: Final = (
    "policy", "mode", "bits/value", "cache bytes", "float16 bytes", "ratio", "perplexity", "KL mean", "+-95 %",
    "KL p99", "top-1", "1st div.", "ms/token",
)  # fmt: skip
# Columns of what was measured only where it was asked for, with the figure that each shows.
ASKED: Final[Mapping[str, str]] = {
    "recall": "accuracy", "token match": "token_match", "free div.": "free_divergence", "peak MiB": "peak_bytes",
    "growth MiB": "growth_bytes",
}  # fmt: skip


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
    by_text: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)

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
            row["range"] = {name: _range(name, self.by_seed) for name in self.by_seed[0]}
            row["interval"] = {name: _interval(name, self.by_seed) for name in self.by_seed[0]}
        if self.by_text:
            row["by_text"] = {name: dict(figures) for name, figures in self.by_text.items()}
        return row

    def cells(self, asked: Sequence[str] = ()) -> list[str]:
        """The row as printed, in the order of COLUMNS and then of those in ASKED that were asked for."""
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
            "-" if figures["perplexity"] is None else f"{figures['perplexity']:.3f}",
            _small(figures["kl_mean"]),
            _small(figures.get("kl_ci95")),
            _small(figures["kl_p99"]),
            f"{figures['top1_agreement']:.3f}",
            "-" if divergence is None else f"{divergence:.0f}",
            f"{figures['ms_per_token']:.2f}",
            *(_asked(name, figures.get(ASKED[name])) for name in asked),
        ]


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


def _range(name: str, by_seed: Sequence[Mapping[str, float | None]]) -> list[float] | None:
    values = [figures[name] for figures in by_seed]
    present = [value for value in values if value is not None]
    return [min(present), max(present)] if len(present) == len(values) else None


def _interval(name: str, by_seed: Sequence[Mapping[str, float | None]]) -> list[float] | None:
    values = [figures[name] for figures in by_seed]
    half = half_width(values)
    mean = sum(value for value in values if value is not None) / len(values)
    return None if half is None else [mean - half, mean + half]


def _asked(column: str, value: float | None) -> str:
    if value is None:
        return "-"
    if column.endswith("MiB"):
        return f"{value / (1 << 20):.1f}"
    return f"{value:.0f}" if column == "free div." else f"{value:.3f}"


def _small(value: float | None) -> str:
    """Three significant digits without an exponent; KL spans five orders of magnitude."""
    if value is None:
        return "-"
    if 0 < value < SMALLEST_SHOWN:
        return f"<{SMALLEST_SHOWN:g}"
    return f"{Decimal(f'{value:.2e}'):f}" if value else "0"
