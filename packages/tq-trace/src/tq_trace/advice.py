"""What the advisor answers: a policy, its replay as a proof, and everything that was tried."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from tq_cache import CachePolicy
from tq_trace.document import Column, Document, Plot, Sheet, plain, small, whole
from tq_trace.report import Report, Row
from tq_trace.report_view import view

COUNTED: Final = (
    "A budget counts codes, norms, exact tokens and means. It does not count tables, the same for one head and for a "
    "whole model, nor the room to spare of a cache that grows. Bytes and ratios beside other methods have the tables "
    "in them."
)
"""What every advice says about its bytes."""


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
            "counted_bytes": self.row.token_bytes,
            "table_bytes": self.row.cache_bytes - self.row.token_bytes,
            "counted": COUNTED,
            "searched": points,
            "proof": self.proof.to_dict(),
        }

    def view(self) -> Document:
        """The advice as a document: the proof, then the frontier."""
        row, proof = self.row, view(self.proof)
        columns = (
            Column("policy", "policy", str, True),
            Column("token_bytes", "bytes, no tables", whole),
            Column("bits", "bits/value", plain(2)),
            Column("kl_mean", "KL mean", small),
            Column("output_error", "out. error", small),
        )
        numbers = row.float16_bytes / 2
        rows = [point.to_dict() | {"bits": 8 * point.token_bytes / numbers} for point in self.frontier]
        frontier = Sheet(f"Frontier of {len(self.points)} policies, on the queries of the search", columns, rows)

        def plots() -> Sequence[Plot]:
            from tq_trace.plots import frontier_plot  # late: it needs the plot library, which is an extra

            return [frontier_plot([point.to_dict() for point in self.points], self.policy), *proof.plots()]

        tables = row.cache_bytes - row.token_bytes
        heading = (
            f"{self.goal}: {self.policy}\nholds {row.token_bytes:,} bytes, and tables of {tables:,} bytes, which a "
            f"budget does not count\n{proof.heading}"
        )
        if CachePolicy.parse(self.policy).is_experimental:
            heading += "\nBelow 4-bit keys quality depends on the model: measure its text before using this."
        sheets = [proof.sheets[0], frontier, *proof.sheets[1:]]
        return Document("tq-trace advise", heading, sheets, self.to_dict(), [COUNTED, *proof.notes], plots)
