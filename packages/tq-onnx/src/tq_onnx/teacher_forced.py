"""Feeds windows token by token and compares every step's logits with those of the exact cache."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tq_core import NotFinite
from tq_onnx.free_running import continued
from tq_onnx.plan import Plan
from tq_onnx.runner import DecoderRunner
from tq_onnx.scores import Scores

F32 = NDArray[np.float32]
Ids = NDArray[np.int64]


@dataclass
class Run:
    """One policy under one seed: scores and greedy text of each group of windows, bytes and times of the first."""

    scores: list[Scores] = field(default_factory=list)
    held: dict[str, Any] = field(default_factory=dict)
    continued: list[Ids] = field(default_factory=list)
    memory: dict[str, int] = field(default_factory=dict)


def run_group(
    runner: DecoderRunner,
    group: Ids,
    plan: Plan,
    run: Run,
    reference: F32,
    tick: Callable[[int], None],
    *,
    is_reference: bool = False,
) -> None:
    """Feed a group of windows token by token; fills `reference` with exact logits, or compares with it.

    Then lets the runner go on by itself from the start of each window, where that was asked for.
    """
    scores, elapsed = Scores(), []
    for position in range(plan.steps):
        started = time.perf_counter()
        logits = runner.step(group[:, position : position + 1])[:, 0]
        elapsed.append(time.perf_counter() - started)
        scored = position + 1 - plan.score_from  # these logits predict the next position
        if scored >= 0:
            if not np.isfinite(logits).all():
                raise NotFinite(
                    f"logits at position {position} have NaN or infinity ({runner.mode}); nothing to compare"
                )
            if is_reference:
                reference[scored] = logits
            scores.compare(reference[scored], logits, group[:, position + 1])
        tick(position + 1)
    run.scores.append(scores.joined())
    if not run.held:
        run.held = held_by(runner) | {"ms_per_token": 1e3 * statistics.median(elapsed) / runner.batch}
    if plan.free_tokens:
        runner.reset()
        run.continued.append(continued(runner, group[:, : plan.score_from], plan.free_tokens))


def held_by(runner: DecoderRunner) -> dict[str, Any]:
    """Bytes of a runner's cache at the length reached."""
    items: dict[str, int] = {} if runner.cache is None else dict(runner.cache.ledger().items)
    total, values = runner.cache_bytes, runner.cached_values
    coded = runner.quantized_tokens * values // (len(runner.bundle.signature.layers) * runner.tokens)
    codes = items.get("codes", 0) + items.get("norms", 0)
    return {
        "cache_bytes": total,
        "exact_bytes": runner.exact_bytes("float16"),
        "state_bytes": runner.state_bytes,
        "bits_per_value": 8 * (total - items.get("tables", 0) - runner.state_bytes) / values,
        "nominal_bits_per_value": 8 * codes / coded if coded else None,
        "float_buffer_bytes": runner.float_bytes,
        "ledger": items,
    }
