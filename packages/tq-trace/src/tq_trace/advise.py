"""The advisor: which policy suits a trace, within a budget of bytes or a bound on the error, proved by replay.

How the search goes, and why its errors are what they are, is in docs/decisions/0013.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import hypot, sqrt
from typing import Final

from tq_cache import CachePolicy, InvalidPolicy
from tq_core import InvalidSpec
from tq_trace.advice import Advice, Point
from tq_trace.replay import Progress, replay
from tq_trace.report import Row
from tq_trace.trace import KvTrace
from tq_trace.trace_set import TraceSet

KINDS: Final = ("mse", "trellis")
"""Families of stores that are searched, where tq_cache has them; the others are for comparison and never better."""

BITS: Final = (1, 2, 2.25, 2.5, 3, 3.25, 3.5, 4, 5, 6, 7, 8)
"""Widths that are searched, where a family has them."""

MEAN_TOKENS: Final = 64
SINKS: Final = 4
WINDOW: Final = 128
QUERIES: Final = 24  # of each sample and head while searching; the proof takes all
CLOSE: Final = 0.1  # errors of so few queries that differ by less may be noise: the cheaper policy is taken
PAIRS: Final = 4  # pairs of key and value store that are tried with every addition
HEADROOM: Final = (1.0, 0.8)  # shares of the budget for which such pairs are picked, to leave room for additions
EDGE: Final = 10  # pairs that are replayed for the frontier's sake
YARDSTICKS: Final = ("k=int8,v=int8", "k=int4,v=int4")


def advise(
    trace: KvTrace | TraceSet,
    *,
    budget_bytes: int | None = None,
    max_kl: float | None = None,
    seed: int = 0,
    backend: str = "auto",
    times: bool = True,
    progress: Progress | None = None,
) -> Advice:
    """The policy of least attention-output error within `budget_bytes`, or of fewest bytes within `max_kl`.

    `budget_bytes` counts the cache of all tokens of the trace: codes, norms, exact tokens, means; not the tables, which
    are the same for one head and for a whole model. `max_kl` bounds the mean KL of
    attention weights, and the part of the output error that values cause by sqrt(2 max_kl), which is what such a KL
    bounds it to (Pinsker). Raises InvalidSpec where no policy of the search gets there, and says what would.
    """
    traces = trace if isinstance(trace, TraceSet) else TraceSet([trace])
    goal = _Goal(budget_bytes, max_kl)
    stage = _Stages(progress, 3)
    late = max(one.tokens for one in traces) // 2  # where windows are full and whatever is learned is known
    options = {
        "from_position": late,
        "queries": QUERIES,
        "seed": seed,
        "backend": backend,
        "baselines": (),
        "times": False,
    }

    def rows(policies: Iterable[str], label: str) -> list[Row]:
        report = replay(traces, list(dict.fromkeys(policies)), progress=stage.next(label), **options)  # type: ignore[arg-type]
        return [row for row in report.rows if row.kind == "policy"]

    keys, values = sides()
    found = rows([*(f"{key},v=float16" for key in keys), *(f"k=float16,{value}" for value in values)], "each side")
    pairs = _pairs(found, len(keys))
    chosen = [pair for share in HEADROOM for pair in goal.nearest(pairs, share)]
    texts = [text for pair in chosen for text in additions(pair.text, traces.model_layers)]
    tried = rows([*texts, *(pair.text for pair in _edge(pairs))], "pairs and additions")
    best = goal.best(tried)
    points = _marked(tried)
    around = _neighbours(points, best.policy)
    proof = replay(
        traces,
        [best.policy, *around],
        baselines=YARDSTICKS,
        seed=seed,
        backend=backend,
        times=times,
        progress=stage.next("proof"),
    )
    return Advice(best.policy, goal.text, proof, points)


def sides() -> tuple[list[str], list[str]]:
    """Parts of policies for keys, with and without removal of their mean, and for values: all of KINDS and BITS."""
    names = (f"{kind}{bits:g}" for kind in KINDS for bits in BITS)
    stores = [name for name in names if _exists(f"k={name},v={name}")]
    means = [mean for mean in ("", f",kmean={MEAN_TOKENS}") if _exists(f"k=mse4,v=mse4{mean}")]
    return [f"k={store}{mean}" for store in stores for mean in means], [f"v={store}" for store in stores]


def _exists(policy: str) -> bool:
    """Whether the installed tq_cache reads it."""
    try:
        CachePolicy.parse(policy)
    except InvalidPolicy:
        return False
    return True


def additions(policy: str, layers: int) -> list[str]:
    """The policy alone, and with exact sinks, an exact window, and more bits at the ends of the model."""
    windows = ("", f",sinks={SINKS}", f",sinks={SINKS},window={WINDOW}")
    edges = ("", f",boundary={max(1, layers // 8)}@8") if layers >= 4 else ("",)
    return [f"{policy}{window}{edge}" for window in windows for edge in edges]


@dataclass(frozen=True)
class _Pair:
    """A key and a value store with what is expected of both together: bytes and squared errors add."""

    text: str
    token_bytes: float
    kl_mean: float
    output_error: float
    value_error: float


def _pairs(found: Sequence[Row], keys: int) -> list[_Pair]:
    pairs = []
    exact = found[0].float16_bytes  # half of it in each row, as the side that is not coded
    for key in found[:keys]:
        for value in found[keys:]:
            kept = key.policy.replace(",v=float16", f",{value.policy.split(',')[1]}")
            size = key.token_bytes + value.token_bytes - exact
            error = hypot(key["output_error"] or 0.0, value["output_error"] or 0.0)
            pairs.append(_Pair(kept, size, key["kl_mean"], error, value["output_error"] or 0.0))
    return pairs


def _edge(pairs: Sequence[_Pair]) -> list[_Pair]:
    """Pairs that promise to be beaten by none, thinned: they show what other budgets would bring."""
    found: list[_Pair] = []
    for pair in sorted(pairs, key=lambda one: (one.token_bytes, one.output_error)):
        if not found or pair.output_error < found[-1].output_error:
            found.append(pair)
    step = max(1, -(-len(found) // EDGE))
    return found[::step]


class _Goal:
    """What is asked for: a bound, and what is least within it."""

    def __init__(self, budget_bytes: int | None, max_kl: float | None) -> None:
        if (budget_bytes is None) == (max_kl is None):
            raise InvalidSpec("give either budget_bytes or max_kl")
        for name, bound in (("budget_bytes", budget_bytes), ("max_kl", max_kl)):
            if bound is not None and (isinstance(bound, bool) or not bound > 0):
                raise InvalidSpec(f"{name} is a number above 0, got {bound!r:.40}")
        self.budget, self.max_kl = budget_bytes, max_kl
        self.text = f"within {budget_bytes:,} bytes" if budget_bytes is not None else f"within KL {max_kl:g}"

    def nearest(self, pairs: Sequence[_Pair], share: float) -> list[_Pair]:
        """The few pairs that promise most; `share` tightens the bound, to leave room for what is added to them."""
        if self.budget is not None:
            fit = [pair for pair in pairs if pair.token_bytes <= self.budget * share]
            ranked = sorted(fit, key=lambda pair: (pair.output_error, pair.token_bytes))
            return (ranked or sorted(pairs, key=lambda pair: pair.token_bytes))[:PAIRS]
        bound = (self.max_kl or 0.0) * (2 - share)  # additions lower the error: start a little outside
        fit = [pair for pair in pairs if pair.kl_mean <= bound and pair.value_error <= sqrt(2 * bound)]
        ranked = sorted(fit, key=lambda pair: (pair.token_bytes, pair.output_error))
        return (ranked or sorted(pairs, key=lambda pair: pair.output_error))[:PAIRS]

    def best(self, rows: Sequence[Row]) -> Row:
        """The best of what was replayed; among errors that are close, the fewest bytes, then the shortest policy."""
        if self.budget is not None:
            fit = [row for row in rows if row.token_bytes <= self.budget]
            if not fit:
                least = min(rows, key=lambda row: row.token_bytes)
                raise InvalidSpec(
                    f"no policy holds this trace in {self.budget:,} bytes; {least.policy} takes {least.token_bytes:,}"
                )
            error = min(row["output_error"] or 0.0 for row in fit)
            fit = [row for row in fit if (row["output_error"] or 0.0) <= error * (1 + CLOSE)]
        else:
            bound = self.max_kl or 0.0
            fit = [
                row
                for row in rows
                if row["kl_mean"] <= bound and (row["output_error_values"] or 0.0) <= sqrt(2 * bound)
            ]
            if not fit:
                least = min(rows, key=lambda row: row["kl_mean"])
                raise InvalidSpec(f"no policy keeps the KL within {bound:g}; {least.policy} has {least['kl_mean']:.3g}")
        return min(fit, key=lambda row: (row.token_bytes, len(row.policy), row.policy))


class _Stages:
    """Progress of several replays as one."""

    def __init__(self, progress: Progress | None, stages: int) -> None:
        self.progress, self.stages, self.stage = progress, stages, -1

    def next(self, label: str) -> Progress | None:
        """The callback of the next replay."""
        self.stage += 1
        if self.progress is None:
            return None
        tell: Callable[[int, int, str], None] = self.progress
        stage, stages = self.stage, self.stages
        return lambda done, total, own: tell(stage * total + done, stages * total, f"{label}, {own}")


def _marked(rows: Sequence[Row]) -> list[Point]:
    """Points, with those marked that no other one beats in both bytes and error."""
    ordered = sorted(rows, key=lambda row: (row.token_bytes, row["output_error"] or 0.0, row.policy))
    points, least = [], float("inf")
    for row in ordered:
        error = row["output_error"] or 0.0
        points.append(Point(row.policy, row.token_bytes, row["kl_mean"], error, error < least))
        least = min(least, error)
    return points


def _neighbours(points: Sequence[Point], best: str) -> list[str]:
    """The next smaller and the next larger policy on the frontier."""
    edge = [point.policy for point in points if point.on_frontier or point.policy == best]
    at = edge.index(best)
    return edge[max(0, at - 1) : at] + edge[at + 1 : at + 2]
