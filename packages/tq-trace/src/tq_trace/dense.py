"""Methods that have no attention of their own: they decode, and float attention runs over what came out."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tq_trace.metrics import HIDDEN
from tq_trace.task import Task

F32 = NDArray[np.float32]


class Packed(NamedTuple):
    """All tokens of a task as such a method holds them: what they decode to, and the bytes of what is held.

    The query at position p finds tokens before `exact_from(p)` as they decode and the others as they came.
    `scores`, where given, are the method's own inner products of queries (heads, n, dim) in place of those with `keys`.
    """

    keys: F32
    values: F32
    bytes: Mapping[str, int]
    exact_from: Callable[[NDArray[np.int64]], NDArray[np.int64]] | None = None
    scores: Callable[[F32], F32] | None = None


class DenseRun:
    """A run over packed tokens, float32."""

    def __init__(self, task: Task, packed: Packed) -> None:
        self.task, self.packed = task, packed

    def ask(self, start: int, stop: int) -> tuple[F32, F32]:
        """As Run."""
        task, packed = self.task, self.packed
        positions = task.positions[start:stop]
        seen = int(positions[-1]) + 1
        queries = task.queries[:, start:stop].astype(np.float32)
        own = packed.scores(queries)[:, :, :seen] if packed.scores else _products(queries, packed.keys[:, :seen])
        values = packed.values[:, :seen]
        is_exact = None
        if packed.exact_from is not None:
            is_exact = np.arange(seen) >= packed.exact_from(positions)[:, None]
            own = np.where(is_exact, _products(queries, task.keys[:, :seen].astype(np.float32)), own)
        logits = own * np.float32(task.scale)
        logits[:, np.arange(seen) > positions[:, None]] = HIDDEN
        logits -= logits.max(axis=2, keepdims=True)
        weights = np.exp(logits, out=logits)
        weights /= weights.sum(axis=2, keepdims=True)
        if is_exact is None:
            return own, np.matmul(weights, values)
        exact_values = task.values[:, :seen].astype(np.float32)
        return own, np.matmul(weights * ~is_exact, values) + np.matmul(weights * is_exact, exact_values)

    def finish(self) -> tuple[F32, F32]:
        """As Run."""
        return self.packed.keys, self.packed.values

    def ledger(self) -> Mapping[str, int]:
        """As Run."""
        return self.packed.bytes


def _products(queries: F32, keys: F32) -> F32:
    found: F32 = np.matmul(queries, keys.swapaxes(1, 2))
    return found
