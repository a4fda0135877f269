"""What the advisor answers: a policy, its replay as a proof, and everything that was tried."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tq_cache import CachePolicy
from tq_trace.document import Column, Document, Plot, Sheet, plain, small, whole
from tq_trace.report import Report, Row
from tq_trace.report_view import view


@dataclass(frozen=True)
class Point:
    """A policy that was replayed while searching."""

    policy: str
    token_bytes: int
    kl_mean: float
    output_error: float
    on_frontier: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return dict(vars(self))


@dataclass(frozen=True)
class Advice:
    """The best policy found, its replay on all queries beside its neighbours, and everything that was tried."""

    policy: str
    goal: str
    proof: Report
    points: Sequence[Point]

    @property
    def row(self) -> Row:
        """The proof of the policy: its row of the replay."""
        return self.proof.row(self.policy)

    @property
    def frontier(self) -> list[Point]:
        """Policies that no other one beats in bytes and error, by rising bytes."""
        return sorted((point for point in self.points if point.on_frontier), key=lambda point: point.token_bytes)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; `proof` is the report of a replay."""
        points = sorted((point.to_dict() for point in self.points), key=lambda one: (one["token_bytes"], one["policy"]))
        return {
            "kind": "tq-trace advice",
            "policy": self.policy,
            "goal": self.goal,
            "searched": points,
            "proof": self.proof.to_dict(),
        }

    def view(self) -> Document:
        """The advice as a document: the proof, then the frontier."""
        proof = view(self.proof)
        columns = (
            Column("policy", "policy", str, True),
            Column("token_bytes", "bytes", whole),
            Column("bits", "bits/value", plain(2)),
            Column("kl_mean", "KL mean", small),
            Column("output_error", "out. error", small),
        )
        numbers = self.row.float16_bytes / 2
        rows = [point.to_dict() | {"bits": 8 * point.token_bytes / numbers} for point in self.frontier]
        frontier = Sheet(f"Frontier of {len(self.points)} policies, on the queries of the search", columns, rows)

        def plots() -> Sequence[Plot]:
            from tq_trace.plots import frontier_plot  # late: it needs the plot library, which is an extra

            return [frontier_plot([point.to_dict() for point in self.points], self.policy), *proof.plots()]

        heading = f"{self.goal}: {self.policy}\n{proof.heading}"
        if CachePolicy.parse(self.policy).is_experimental:
            heading += "\nBelow 4-bit keys quality depends on the model: measure its text before using this."
        sheets = [proof.sheets[0], frontier, *proof.sheets[1:]]
        return Document("tq-trace advise", heading, sheets, self.to_dict(), proof.notes, plots)
