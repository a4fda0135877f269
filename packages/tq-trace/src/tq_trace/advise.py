"""The advisor: which policy suits a trace, within a budget of bytes or a bound on the error, proved by replay.

How the search goes, and why its errors are what they are, is in docs/decisions/0013.
"""

from collections.abc import Callable, Iterable, Sequence
from math import hypot
from typing import Any, Final

from tq_cache import CachePolicy, InvalidPolicy, QuantizedKVCache
from tq_core import TurboQuantError
from tq_core.registry import resolve
from tq_trace.advice import Advice, Point
from tq_trace.goal import HEADROOM, Goal, Pair
from tq_trace.replay import Progress, replay
from tq_trace.report import Report, Row
from tq_trace.trace import KvTrace
from tq_trace.trace_set import TraceSet

KINDS: Final = ("mse", "trellis")
"""Families of stores that are searched, where tq_cache has them; the others are for comparison and never better."""

BITS: Final = (1, 2, 2.25, 2.5, 3, 3.25, 3.5, 4, 5, 6, 7, 8)
"""Widths that are searched, where a family has them."""

FAST: Final = ("simd", "gpu")
"""Backends that encode a trellis in reasonable time; with others the first family alone is searched."""

MEAN_TOKENS: Final = 64
SINKS: Final = 4
WINDOW: Final = 128
QUERIES: Final = 24  # of each sample and head while searching; the proof takes all
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
    are the same for one head and for a whole model, nor the room to spare of a cache that grows token by token.
    `max_kl` bounds the mean KL of attention weights, and the part of the output error that values cause by
    sqrt(2 max_kl), which is what such a KL bounds it to (Pinsker). What is returned keeps its bound on all queries.
    Raises InvalidSpec where no policy of the search gets there, and says what comes nearest; else as `replay`.
    """
    traces = trace if isinstance(trace, TraceSet) else TraceSet([trace])
    goal = Goal(budget_bytes, max_kl)
    stage = _Stages(progress, 4)
    late = max(one.tokens for one in traces) // 2  # where windows are full and whatever is learned is known
    few = {"from_position": late, "queries": QUERIES}

    def run(policies: Iterable[str], label: str, **options: Any) -> Report:
        named = list(dict.fromkeys(policies))
        return replay(traces, named, seed=seed, backend=backend, progress=stage.next(label), **options)

    def rows(policies: Iterable[str], label: str, **options: Any) -> list[Row]:
        report = run(policies, label, baselines=(), times=False, **options)
        return [row for row in report.rows if row.kind == "policy"]

    kinds = KINDS if resolve(backend).name in FAST else KINDS[:1]
    keys, values = sides({(one.head_dim, one.value_dim) for one in traces}, kinds)
    each = [*(f"{key},v=float16" for key in keys), *(f"k=float16,{value}" for value in values)]
    pairs = _pairs(rows(each, "each side", **few), len(keys))
    chosen = [pair for share in HEADROOM for pair in goal.nearest(pairs, share)]
    named = dict.fromkeys(name for pair in chosen for name in (pair.text, _bare(pair.text)))
    texts = [text for name in named for text in additions(name, traces.model_layers)]
    alone = [pair.text for pair in (*goal.spare(pairs), *_edge(pairs))]
    tried = rows([*texts, *alone], "pairs and additions", **few)
    points = _marked(tried)
    # Few queries say what is worth asking all of them; what removes a mean is judged beside what does not, lest it be
    # chosen for their noise.
    asked = [row.policy for row in goal.contenders(tried)]
    within = {row.policy for row in tried if goal.is_kept(row)}
    asked += [_bare(policy) for policy in asked if _bare(policy) in within]
    best = goal.best(rows(asked, "all queries")).policy
    around = _neighbours(points, best)
    return Advice(best, goal.text, run([best, *around], "proof", baselines=YARDSTICKS, times=times), points)


def _bare(policy: str) -> str:
    """The policy without the removal of means."""
    return policy.replace(f",kmean={MEAN_TOKENS}", "")


def sides(dims: Iterable[tuple[int, int]], kinds: Sequence[str] = KINDS) -> tuple[list[str], list[str]]:
    """Parts of policies for keys, with and without removal of their mean, and for values: all of kinds and BITS.

    Those that vectors of such key and value dims can be stored by.
    """
    names = (f"{kind}{bits:g}" for kind in kinds for bits in BITS)
    stores = [name for name in names if _exists(f"k={name},v={name}") and _fits(name, dims)]
    means = [mean for mean in ("", f",kmean={MEAN_TOKENS}") if _exists(f"k=mse4,v=mse4{mean}")]
    return [f"k={store}{mean}" for store in stores for mean in means], [f"v={store}" for store in stores]


def _exists(policy: str) -> bool:
    """Whether the installed tq_cache reads it."""
    try:
        CachePolicy.parse(policy)
    except InvalidPolicy:
        return False
    return True


def _fits(store: str, dims: Iterable[tuple[int, int]]) -> bool:
    """Whether vectors of these dims can be stored so: a trellis needs more coordinates than some heads have."""
    try:
        for key_dim, value_dim in dims:
            QuantizedKVCache(key_dim, f"k={store},v={store}", value_dim=value_dim)
    except TurboQuantError:
        return False
    return True


def additions(policy: str, layers: int) -> list[str]:
    """The policy alone, and with exact sinks, an exact window, and more bits at the ends of the model."""
    windows = ("", f",sinks={SINKS}", f",sinks={SINKS},window={WINDOW}")
    edges = ("", f",boundary={max(1, layers // 8)}@8") if layers >= 4 else ("",)
    texts = (f"{policy}{window}{edge}" for window in windows for edge in edges)
    return [text for text in texts if _exists(text)]  # not every family has 8 bits for the ends


def _pairs(found: Sequence[Row], keys: int) -> list[Pair]:
    pairs = []
    exact = found[0].float16_bytes  # half of it in each row, as the side that is not coded
    for key in found[:keys]:
        for value in found[keys:]:
            kept = key.policy.replace(",v=float16", f",{value.policy.split(',')[1]}")
            size = key.token_bytes + value.token_bytes - exact
            error = hypot(key["output_error"] or 0.0, value["output_error"] or 0.0)
            pairs.append(Pair(kept, size, key["kl_mean"], error, value["output_error"] or 0.0))
    return pairs


def _edge(pairs: Sequence[Pair]) -> list[Pair]:
    """Pairs that promise to be beaten by none, thinned: they show what other budgets would bring."""
    found: list[Pair] = []
    for pair in sorted(pairs, key=lambda one: (one.token_bytes, one.output_error)):
        if not found or pair.output_error < found[-1].output_error:
            found.append(pair)
    step = max(1, -(-len(found) // EDGE))
    return found[::step]


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
