"""The table of a result of decode.py as markdown, as the README shows it."""

from pathlib import Path
from typing import Any, Final

import numpy as np

MARK: Final = "<!-- table of bench/results/decode.json -->"


def table(document: dict[str, Any]) -> list[str]:
    """Lines: a row for each decoder, times at each length, ratios and bytes at the length that has bars."""
    rows, quality = document["steps"], document["quality"]["decoders"]
    lengths = sorted({found["tokens"] for found in rows})
    at = max(length for length in lengths if length <= max(document["bars"]["tokens"], lengths[0]))
    heads = [f"{length:,}" for length in lengths]
    heads += [f"{at:,}: cold", "of exact", "of float32", "of int8", "bytes of float16", "MiB held", "KL mean", "KL p99"]
    lines = [f"| decoder | {' | '.join(heads)} |", f"| --- |{' ---: |' * len(heads)}"]
    for decoder in dict.fromkeys(found["decoder"] for found in rows):
        own = {found["tokens"]: found for found in rows if found["decoder"] == decoder}
        cells = [f"{own[length]['warm_ms']:.2f}" for length in lengths] + [f"{own[at]['cold_ms']:.2f}"]
        cells += [f"{own[at][name]:.2f}" for name in ("over_exact", "over_grouped_float32", "over_grouped_int8")]
        cells += [f"{own[at]['over_float16_bytes']:.3f}", f"{own[at]['held_bytes'] / (1 << 20):.1f}"]
        # what reconstruct predicts is what fused predicts
        figures = quality.get(decoder.replace("reconstruct", "fused"))
        cells += ["-", "-"] if figures is None else [_small(figures["kl_mean"]), _small(figures["kl_p99"])]
        lines.append(f"| {decoder} | {' | '.join(cells)} |")
    return lines


def _small(value: float) -> str:
    """Two digits that mean something, without a power of ten; 0 for what is rounding alone."""
    return "0" if value < 1e-8 else np.format_float_positional(value, precision=2, fractional=False, trim="-")


def put(document: dict[str, Any], page: Path) -> None:
    """Replace the table behind MARK on a page."""
    before, mark, after = page.read_text("utf-8").partition(MARK)
    if not mark:
        raise SystemExit(f"{page.name} has no line {MARK}")
    rest = after.lstrip("\n").splitlines()
    end = next((number for number, line in enumerate(rest) if not line.startswith("|")), len(rest))
    behind = "\n".join(rest[end:]).lstrip("\n")
    page.write_text("\n".join([before + MARK, *table(document), "", behind, ""]), "utf-8")
