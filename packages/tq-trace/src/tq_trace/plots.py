"""The pictures of a report, as SVG: no script, no font and no address of elsewhere in them."""

import io
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from tq_trace.document import Plot
from tq_trace.errors import MissingExtra
from tq_trace.report import Report, Row

try:
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
except ImportError as error:
    raise MissingExtra(f"plots need matplotlib ({error}): pip install 'tq-trace[report]'") from error

Point = tuple[int, str, float, float | None]  # number, kind, bits a value, error

COLOURS: Final = {"policy": "#1b6ca8", "baseline": "#c8553d", "peer": "#6a4c93", "exact": "#555555"}
MARKERS: Final = {"policy": "o", "baseline": "s", "peer": "^", "exact": "D"}
LEAST: Final = 1e-9  # what a logarithmic axis shows in place of 0
SEEN: Final = 1e-8  # below it a KL is rounding
LINES: Final = 9  # more lines in one picture are no longer told apart
PALETTE: Final = (*("#1b6ca8", "#e08e2b", "#3a8f5c", "#c8553d", "#6a4c93", "#8a6d3b", "#d16ba5", "#4f5d75", "#97a83b"),)


def plots_of(report: Report) -> list[Plot]:
    """All pictures of a replay."""
    measured = [(number, row) for number, row in enumerate(report.rows, 1) if row.kind != "exact"]
    found = [_against_bytes(measured), _parts(measured), _along(measured)]
    heads = [(number, row) for number, row in measured if len(row.heads) > 1]
    return [*found, _heat(heads)] if heads else found


def frontier_plot(points: Sequence[Mapping[str, Any]], chosen: str) -> Plot:
    """Error against bytes of all that was searched, the frontier joined, the choice marked."""
    figure, (axis,) = _figure(1, height=4.2)
    axis.set(xscale="log", yscale="log", xlabel="bytes of the cache", ylabel="output error")
    _grid(axis)
    others = [point for point in points if not point["on_frontier"]]
    edge = sorted((point for point in points if point["on_frontier"]), key=lambda point: point["token_bytes"])
    axis.scatter(*_pairs(others), s=18, color="#9aa5b1", label="searched")
    axis.plot(*_pairs(edge), color=COLOURS["policy"], marker="o", markersize=5, label="frontier")
    best = [point for point in points if point["policy"] == chosen]
    axis.scatter(*_pairs(best), s=130, facecolors="none", edgecolors="#c8553d", linewidths=2, label="chosen")
    axis.legend(frameon=False)
    return Plot(
        "Output error against bytes of every policy that was replayed. Lower left is better.", _svg(figure, "f")
    )


def _pairs(points: Sequence[Mapping[str, Any]]) -> tuple[list[float], list[float]]:
    return (
        [point["token_bytes"] for point in points],
        [max(point["output_error"] or 0.0, LEAST) for point in points],
    )


def bits_plot(panels: Sequence[Sequence[Point]], titles: Sequence[str], caption: str) -> Plot:
    """Numbered points against bits a value, a panel for each figure; errors on a logarithmic axis."""
    figure, axes = _figure(len(panels), height=4.4)
    for axis, points, title in zip(axes, panels, titles, strict=True):
        axis.set(yscale="log", xlabel="bits a value, all but tables", ylabel=title)
        _grid(axis)
        for kind, colour in COLOURS.items():
            chosen = [(bits, max(error or 0.0, LEAST)) for _, own, bits, error in points if own == kind]
            if chosen:
                axis.scatter(*zip(*chosen, strict=True), s=52, color=colour, marker=MARKERS[kind], label=kind, zorder=3)
        for number, _, bits, error in points:
            point = (bits, max(error or 0.0, LEAST))
            axis.annotate(str(number), point, xytext=(6, 4), textcoords="offset points", fontsize=9)
        axis.margins(x=0.08, y=0.1)
    axes[-1].legend(frameon=False)
    return Plot(caption, _svg(figure, "b"))


def _against_bytes(rows: Sequence[tuple[int, Row]]) -> Plot:
    panels = [
        [(number, row.kind, row.bits_per_value, row[name]) for number, row in rows]
        for name in ("kl_mean", "output_error")
    ]
    titles = ("KL of attention weights, mean (nats)", "attention output error")
    return bits_plot(panels, titles, "Error against bytes; numbers are those of the table. Lower left is better.")


def _parts(rows: Sequence[tuple[int, Row]]) -> Plot:
    figure, (axis,) = _figure(1, height=0.9 + 0.34 * len(rows))
    at = np.arange(len(rows))
    for offset, name, label, colour in (
        (-0.2, "output_error_keys", "keys alone", PALETTE[0]),
        (0.2, "output_error_values", "values alone", PALETTE[1]),
    ):
        axis.barh(at + offset, [max(row[name] or 0.0, LEAST) for _, row in rows], 0.36, color=colour, label=label)
    axis.set(xscale="log", xlabel="attention output error", yticks=at)
    axis.set_yticklabels([_short(number, row) for number, row in rows], fontsize=9)
    axis.invert_yaxis()
    axis.grid(True, axis="x", color="#d8dee4", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return Plot("Who is to blame: the error that keys alone and values alone would cause.", _svg(figure, "p"))


def _along(rows: Sequence[tuple[int, Row]]) -> Plot:
    figure, (axis,) = _figure(1, height=4.2)
    axis.set(yscale="log", xlabel="position of the query (tokens)", ylabel="KL, mean (nats)")
    _grid(axis)
    shown = _spread(rows, LINES)
    for (number, row), colour in zip(shown, PALETTE, strict=False):
        axis.plot(
            [stretch["from"] for stretch in row.along],
            [max(stretch["kl_mean"], LEAST) for stretch in row.along],
            color=colour,
            marker="." if len(row.along) < 40 else None,
            label=_short(number, row),
        )
    axis.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    seen = [stretch["kl_mean"] for _, row in shown for stretch in row.along if stretch["kl_mean"] > SEEN]
    axis.set_ylim(bottom=min(seen, default=SEEN) / 3)  # what is exact, as within a window, falls off the picture
    left = len(rows) - len(shown)
    note = f" ({left} more in the table)" if left else ""
    return Plot(f"Error along tokens{note}.", _svg(figure, "a"))


def _heat(rows: Sequence[tuple[int, Row]]) -> Plot:
    across = 3
    down = -(-len(rows) // across)
    layers = sorted({head["layer"] for head in rows[0][1].heads})
    heads = sorted({head["head"] or 0 for head in rows[0][1].heads})
    figure = Figure(figsize=(10.5, 0.5 + down * (0.75 + min(3.0, 0.24 * len(layers) + 0.5))), layout="constrained")
    axes = figure.subplots(down, across, squeeze=False).ravel()
    tables = [_table(row, layers, heads) for _, row in rows]
    low, high = (float(f(np.stack(tables))) for f in (np.nanmin, np.nanmax))
    for axis, (number, row), table in zip(axes, rows, tables, strict=False):
        image = axis.imshow(table, aspect="auto", cmap="viridis", vmin=low, vmax=max(high, low + 0.1), origin="lower")
        axis.set_title(_short(number, row), fontsize=9)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.yaxis.set_major_locator(MaxNLocator(integer=True))
        axis.set_yticks(*_ticks(layers))
        axis.set_xticks(*_ticks(heads))
        axis.tick_params(labelsize=8)
        axis.set(xlabel="head", ylabel="layer")
    for axis in axes[len(rows) :]:
        axis.set_visible(False)
    figure.colorbar(image, ax=list(axes[: len(rows)]), label="log10 of KL, mean", shrink=0.8)
    return Plot("Layers by heads: where the error is. Brighter is worse.", _svg(figure, "h"))


def _table(row: Row, layers: list[int], heads: list[int]) -> "np.ndarray[Any, np.dtype[np.float64]]":
    found = np.full((len(layers), len(heads)), np.nan)
    for head in row.heads:
        found[layers.index(head["layer"]), heads.index(head["head"] or 0)] = np.log10(max(head["kl_mean"], LEAST))
    return found


def _ticks(numbers: list[int]) -> tuple[list[int], list[str]]:
    step = max(1, -(-len(numbers) // 9))
    chosen = list(range(0, len(numbers), step))
    return chosen, [str(numbers[index]) for index in chosen]


def _spread(rows: Sequence[tuple[int, Row]], most: int) -> list[tuple[int, Row]]:
    """At most so many rows: policies first, in their order."""
    order = sorted(rows, key=lambda item: (item[1].kind != "policy", item[0]))
    return sorted(order[:most], key=lambda item: item[0])


def _short(number: int, row: Row) -> str:
    name = row.asked if len(row.asked) < len(row.policy) else row.policy
    return f"{number}  {name if len(name) <= 34 else name[:33] + '…'}"


def _figure(columns: int, height: float) -> tuple[Figure, list[Any]]:
    figure = Figure(figsize=(10.5, height), layout="constrained")
    return figure, list(figure.subplots(1, columns, squeeze=False)[0])


def _grid(axis: Any) -> None:
    axis.grid(True, which="major", color="#d8dee4", linewidth=0.6)
    axis.set_axisbelow(True)
    if axis.get_yscale() == "log":  # plain decimals, also where less than a decade is shown
        axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.yaxis.set_minor_formatter(NullFormatter())


def _svg(figure: Figure, salt: str) -> str:
    """The figure as an <svg> element; the same figure gives the same text, and two in one page share no name."""
    out = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": f"tq-trace {salt}", "svg.fonttype": "none"}):
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    return text[text.index("<svg") :]
