"""What a method is asked: the heads of one layer that share their query positions, one sample of each."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import sqrt
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tq_trace.trace import KvTrace
from tq_trace.trace_set import TraceSet

Floats = NDArray[np.floating]

LARGEST: Final = 1 << 22
"""Numbers of the keys of a task: 8 heads of 4,096 tokens and 128 dims. Every method holds them, some as float32."""


@dataclass(frozen=True)
class Task:
    """Arrays of a layer: `keys` (heads, tokens, dim), `values` (heads, tokens, value_dim), `queries` (heads, n, dim).

    `positions` (n,) rise; the query at position p sees tokens 0..p. `heads` are the numbers of the heads, None where
    the trace has none. `layers` counts those of the model.
    """

    layer: int
    heads: tuple[int | None, ...]
    sample: int
    layers: int
    keys: Floats
    values: Floats
    queries: Floats
    positions: NDArray[np.int64]

    @property
    def tokens(self) -> int:
        """Tokens of each head."""
        return int(self.keys.shape[1])

    @property
    def scale(self) -> float:
        """The factor of inner products that makes logits."""
        return 1 / sqrt(self.keys.shape[2])

    def shortened(self, tokens: int, queries: int) -> "Task":
        """The first tokens, asked by at most that many queries evenly over those inside; the last token asks if none.

        For timing: the answers are no part of a replay.
        """
        tokens = min(tokens, self.tokens)
        inside = np.flatnonzero(self.positions < tokens)
        if not len(inside):
            inside = np.zeros(1, np.int64)
        chosen = inside[np.unique(np.linspace(0, len(inside) - 1, queries).round().astype(np.int64))]
        return Task(
            self.layer,
            self.heads,
            self.sample,
            self.layers,
            self.keys[:, :tokens],
            self.values[:, :tokens],
            self.queries[:, chosen],
            np.minimum(self.positions[chosen], tokens - 1),
        )


def tasks(traces: TraceSet, queries: int = 0, from_position: int = 0, *, is_divided: bool = True) -> Iterator[Task]:
    """All tasks in order of layer; `queries` > 0 takes that many of each sample's queries, evenly over positions.

    Queries below `from_position` are left out, save in samples that have no others. Unless `is_divided` is false, a
    task has no more heads than fit in LARGEST, so that memory does not grow with the heads of a layer.
    """
    for layer in traces.layers:
        members = [trace for trace in traces if trace.layer == layer]
        for sample in range(max(map(len, members))):
            groups: dict[tuple[object, ...], list[KvTrace]] = {}
            for trace in members:
                if sample < len(trace):
                    groups.setdefault(_form(trace, sample), []).append(trace)
            for group in groups.values():
                size = group[0].tokens * max(group[0].head_dim, group[0].value_dim)
                heads = max(1, LARGEST // size) if is_divided else len(group)
                for start in range(0, len(group), heads):
                    yield _task(group[start : start + heads], sample, traces.model_layers, queries, from_position)


def count(traces: TraceSet) -> int:
    """How many tasks there are at least: one for each layer and sample."""
    return sum(max(len(trace) for trace in traces if trace.layer == layer) for layer in traces.layers)


def _form(trace: KvTrace, sample: int) -> tuple[object, ...]:
    positions = trace.query_positions[sample].tobytes()
    dtypes = tuple(trace.dtypes.values())
    return (trace.tokens, trace.head_dim, trace.value_dim, trace.query_count, dtypes, positions)


def _task(group: list[KvTrace], sample: int, layers: int, queries: int, from_position: int) -> Task:
    positions = group[0].query_positions[sample]
    order = np.argsort(positions, kind="stable")
    if positions[order[-1]] >= from_position:
        order = order[positions[order] >= from_position]
    if queries and queries < len(order):
        order = order[np.linspace(0, len(order) - 1, queries).round().astype(np.int64)]
    picked = [trace.sample(sample) for trace in group]
    return Task(
        group[0].layer,
        tuple(trace.head for trace in group),
        sample,
        layers,
        np.stack([one.keys for one in picked]),
        np.stack([one.values for one in picked]),
        np.stack([one.queries[order] for one in picked]),
        positions[order],
    )
