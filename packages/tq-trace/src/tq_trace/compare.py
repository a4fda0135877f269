"""Two reports side by side: what changed, with a row that must not have changed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tq_core import InvalidSpec
from tq_trace.document import Column, Document, Sheet, signed, small
from tq_trace.report import Report, Row

COMPARED: Final = ("cache_bytes", "kl_mean", "top_k", "top_1", "score_rmse", "score_bias", "output_error")
CONTROL: Final = "exact"


@dataclass(frozen=True)
class Change:
    """One policy in both reports: figures before and after, and after less before; None where one lacks it."""

    policy: str
    is_control: bool
    before: Mapping[str, float | None]
    after: Mapping[str, float | None]

    @property
    def difference(self) -> dict[str, float | None]:
        """After less before."""
        found: dict[str, float | None] = {}
        for name in COMPARED:
            old, new = self.before[name], self.after[name]
            found[name] = None if old is None or new is None else new - old
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "policy": self.policy,
            "is_control": self.is_control,
            "before": dict(self.before),
            "after": dict(self.after),
            "difference": self.difference,
        }


@dataclass(frozen=True)
class Comparison:
    """Changes of the policies that both reports have, the control first.

    The control is exact attention: no policy touches it, so whatever differs in it is noise of the measurement, and
    differences of other rows that are no larger mean nothing.
    """

    changes: Sequence[Change]
    is_same_trace: bool
    only_before: Sequence[str]
    only_after: Sequence[str]
    headings: tuple[str, str]

    @property
    def control(self) -> Change:
        """The row that must not have changed."""
        return next(change for change in self.changes if change.is_control)

    @property
    def is_clean(self) -> bool:
        """Whether the control differs in nothing."""
        return not any(self.control.difference.values())

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "kind": "tq-trace comparison",
            "before": self.headings[0],
            "after": self.headings[1],
            "is_same_trace": self.is_same_trace,
            "is_clean": self.is_clean,
            "changes": [change.to_dict() for change in self.changes],
            "only_before": list(self.only_before),
            "only_after": list(self.only_after),
        }

    def view(self) -> Document:
        """The comparison as a document."""
        columns = [Column("policy", "policy", str, True)]
        for name in COMPARED:
            columns += [Column(name, name.replace("_", " "), small), Column(f"{name}_change", "change", signed)]
        rows = []
        for change in self.changes:
            cells: dict[str, Any] = {"policy": f"{change.policy} (control)" if change.is_control else change.policy}
            for name, difference in change.difference.items():
                cells |= {name: change.after[name], f"{name}_change": difference}
            rows.append(cells)
        notes = ["Figures are those after; change is after less before. The control is exact attention: it must be 0."]
        if not self.is_clean:
            notes.append("The control is not 0: the two were measured differently; smaller changes mean nothing.")
        if not self.is_same_trace:
            notes.append("The reports are of different traces: a change may come from the trace.")
        for names, when in ((self.only_before, "before"), (self.only_after, "after")):
            notes += [f"Only {when}: {', '.join(names)}."] if names else []
        heading = f"before: {self.headings[0]}\nafter: {self.headings[1]}"
        return Document("tq-trace compare", heading, [Sheet("", columns, rows)], self.to_dict(), notes)


def compare(before: Report, after: Report) -> Comparison:
    """What changed from one report to another, policy by policy; InvalidSpec where one lacks the control."""
    rows = [{row.policy: row for row in report.rows} for report in (before, after)]
    for name, found in zip(("first", "second"), rows, strict=True):
        if CONTROL not in found:
            raise InvalidSpec(f"the {name} report has no row {CONTROL!r}, which is the control; replay it anew")
    common = [CONTROL, *(name for name in rows[0] if name in rows[1] and name != CONTROL)]
    return Comparison(
        [Change(name, name == CONTROL, _figures(rows[0][name]), _figures(rows[1][name])) for name in common],
        before.trace["fingerprint"] == after.trace["fingerprint"],
        [name for name in rows[0] if name not in rows[1]],
        [name for name in rows[1] if name not in rows[0]],
        (before.heading(), after.heading()),
    )


def _figures(row: Row) -> dict[str, float | None]:
    return {name: row.cache_bytes if name == "cache_bytes" else row.figures.get(name) for name in COMPARED}
