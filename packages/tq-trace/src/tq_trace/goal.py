"""What an advisor is asked for: a bound, and which policies are worth a replay or the best within it."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Final

from tq_core import InvalidSpec
from tq_trace.report import Row

CLOSE: Final = 0.1  # errors of so few queries that differ by less may be noise: the cheaper policy is taken
PAIRS: Final = 4  # pairs of key and value store that are tried with every addition
HEADROOM: Final = (1.0, 0.8)  # shares of the budget for which such pairs are picked, to leave room for additions
DOUBT: Final = 0.5  # share of a bound on the KL for which pairs are tried alone, beside those that just keep it


@dataclass(frozen=True)
class Pair:
    """A key and a value store with what is expected of both together: bytes and squared errors add."""

    text: str
    token_bytes: float
    kl_mean: float
    output_error: float
    value_error: float


class Goal:
    """What is asked for: a bound, and what is least within it."""

    def __init__(self, budget_bytes: int | None, max_kl: float | None) -> None:
        if (budget_bytes is None) == (max_kl is None):
            raise InvalidSpec("give either budget_bytes or max_kl")
        for name, bound in (("budget_bytes", budget_bytes), ("max_kl", max_kl)):
            if bound is not None and (isinstance(bound, bool) or not bound > 0):
                raise InvalidSpec(f"{name} is a number above 0, got {bound!r:.40}")
        self.budget, self.max_kl = budget_bytes, max_kl or 0.0
        self.text = f"within {budget_bytes:,} bytes" if budget_bytes is not None else f"within KL {max_kl:g}"

    def nearest(self, pairs: Sequence[Pair], share: float) -> list[Pair]:
        """The few pairs that promise most; `share` tightens the bound, to leave room for what is added to them."""
        if self.budget is not None:
            fit = [pair for pair in pairs if pair.token_bytes <= self.budget * share]
            ranked = sorted(fit, key=lambda pair: (pair.output_error, pair.token_bytes))
            return (ranked or sorted(pairs, key=lambda pair: pair.token_bytes))[:PAIRS]
        # additions lower the error: start a little outside
        return self._cheapest(pairs, 2 - share) or sorted(pairs, key=lambda pair: pair.output_error)[:PAIRS]

    def spare(self, pairs: Sequence[Pair]) -> list[Pair]:
        """Pairs well within a bound on the KL, should all queries show more of it than those of the search."""
        return [] if self.budget is not None else self._cheapest(pairs, DOUBT)

    def _cheapest(self, pairs: Sequence[Pair], share: float) -> list[Pair]:
        bound = self.max_kl * share
        fit = [pair for pair in pairs if pair.kl_mean <= bound and pair.value_error <= sqrt(2 * bound)]
        return sorted(fit, key=lambda pair: (pair.token_bytes, pair.output_error))[:PAIRS]

    def contenders(self, rows: Sequence[Row]) -> list[Row]:
        """Those within the bound and, of a budget, of an output error close to the least; InvalidSpec for none."""
        fit = [row for row in rows if self.is_kept(row)]
        if not fit:
            raise InvalidSpec(self._refusal(rows))
        if self.budget is None:
            return fit
        most = min(row["output_error"] or 0.0 for row in fit) * (1 + CLOSE)
        return [row for row in fit if (row["output_error"] or 0.0) <= most]

    def is_kept(self, row: Row) -> bool:
        """Whether a policy stays within the bound."""
        return self._used(row) <= 1

    def best(self, rows: Sequence[Row]) -> Row:
        """The contender of fewest bytes; of as many, that of the least KL within a budget, else of the least error."""
        first, second = ("output_error", "kl_mean") if self.budget is None else ("kl_mean", "output_error")
        return min(
            self.contenders(rows), key=lambda row: (row.token_bytes, row[first] or 0.0, row[second] or 0.0, row.policy)
        )

    def _used(self, row: Row) -> float:
        """How much of the bound a policy takes up."""
        if self.budget is not None:
            return row.token_bytes / self.budget
        values = row["output_error_values"] or 0.0
        return float(max(row["kl_mean"], values * values / 2) / self.max_kl)

    def _refusal(self, rows: Sequence[Row]) -> str:
        """Why none of them will do, with what comes nearest."""
        least = min(rows, key=lambda row: (self._used(row), row.policy))
        if self.budget is not None:
            return f"no policy holds this trace in {self.budget:,} bytes; {least.policy} takes {least.token_bytes:,}"
        return (
            f"no policy keeps the KL within {self.max_kl:g}; {least.policy} has {least['kl_mean']:.3g}, "
            f"and values of an error that weighs as much as {(least['output_error_values'] or 0.0) ** 2 / 2:.3g}"
        )
