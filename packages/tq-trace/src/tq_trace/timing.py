"""Times of the stages of methods, apart from their answers: the same calls for each, in turns, CPU time."""

import statistics
import time
from collections.abc import Sequence
from typing import Any, Final

from tq_trace.methods import Method, Stages
from tq_trace.task import Task

TOKENS: Final = 1024
QUERIES: Final = 16
TURNS: Final = 3


def times(methods: Sequence[Method], task: Task) -> dict[str, Any]:
    """Medians over turns of CPU nanoseconds a number, for the first tokens of one layer; null where not served.

    encode: all tokens in one call, by number of keys and values. score and attend: all queries over all tokens in one
    call, by query, token and number of a key.
    """
    part = task.shortened(TOKENS, QUERIES)
    heads, tokens, dim = part.keys.shape
    cells = {
        "encode": heads * tokens * (dim + part.values.shape[2]),
        "score": heads * tokens * dim * len(part.positions),
        "attend": heads * tokens * dim * len(part.positions),
    }
    stages = {method.name: method.stages(part) for method in methods}
    taken: dict[str, dict[str, list[float]]] = {method.name: {stage: [] for stage in cells} for method in methods}
    for _ in range(TURNS + 1):
        for name, calls in stages.items():
            for stage in cells:
                if calls is not None:
                    taken[name][stage].append(_timed(calls, stage))
    rows = {}
    for method in methods:
        found: dict[str, Any] = {"backend": method.backend}
        for stage, numbers in cells.items():
            runs = taken[method.name][stage][1:]  # the first one warms up
            found[f"{stage}_ns"] = statistics.median(runs) * 1e9 / numbers if runs else None
        rows[method.name] = found
    return {
        "unit": "CPU nanoseconds a number, see `protocol`",
        "protocol": {"heads": heads, "tokens": tokens, "queries": len(part.positions), "turns": TURNS, "dim": dim},
        "rows": rows,
    }


def _timed(calls: Stages, stage: str) -> float:
    started = time.process_time()
    getattr(calls, stage)()
    return time.process_time() - started
