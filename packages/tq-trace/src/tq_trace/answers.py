"""One task answered by every method, and measured against the exact answers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tq_trace.methods import Method
from tq_trace.metrics import Errors, exact, measure
from tq_trace.task import Task

F64 = NDArray[np.float64]

BLOCK: Final = 1 << 20
"""Logits of all heads held at once: a dozen arrays of so many numbers are the working memory of a replay."""


@dataclass
class Answers:
    """What each method did to a task: errors of queries block by block, of vectors head by head, and bytes."""

    task: Task
    positions: list[NDArray[np.int64]] = field(default_factory=list)
    errors: dict[str, list[Errors]] = field(default_factory=dict)
    vectors: dict[str, dict[str, tuple[F64, F64]]] = field(default_factory=dict)
    ledgers: dict[str, Mapping[str, int]] = field(default_factory=dict)


def answer(methods: Mapping[str, Method], task: Task, top_k: int) -> Answers:
    """Ask every method all queries of a task, in order of position."""
    found = Answers(task)
    runs = {name: method.start(task) for name, method in methods.items()}
    keys = task.keys.astype(np.float64)
    values = task.values.astype(np.float32)
    for start, stop in _blocks(task):
        positions = task.positions[start:stop]
        seen = int(positions[-1]) + 1
        asked = task.queries[:, start:stop].astype(np.float64)
        truth = exact(asked, keys[:, :seen], values[:, :seen], positions, task.scale, top_k)
        found.positions.append(positions)
        for name, run in runs.items():
            found.errors.setdefault(name, []).append(measure(truth, *run.ask(start, stop), task.scale))
    narrow = {"key": task.keys.astype(np.float32), "value": values}
    power = {side: _squares(rows) for side, rows in narrow.items()}
    for name in list(runs):
        run = runs.pop(name)
        decoded = dict(zip(narrow, run.finish(), strict=True))
        found.vectors[name] = {side: (_squares(decoded[side] - narrow[side]), power[side]) for side in narrow}
        found.ledgers[name] = run.ledger()
    return found


def _squares(rows: NDArray[np.float32]) -> F64:
    """Squared norm of everything a head holds, (heads,): float32 within a vector, float64 between them."""
    found: F64 = np.einsum("htd,htd->ht", rows, rows).sum(axis=1, dtype=np.float64)
    return found


def _blocks(task: Task) -> list[tuple[int, int]]:
    """Spans of queries whose logits fit in BLOCK, one query at least."""
    found, start = [], 0
    while start < len(task.positions):
        stop = start + 1
        while stop < len(task.positions) and _logits(task, start, stop + 1) <= BLOCK:
            stop += 1
        found.append((start, stop))
        start = stop
    return found


def _logits(task: Task, start: int, stop: int) -> int:
    return len(task.heads) * (stop - start) * (int(task.positions[stop - 1]) + 1)
