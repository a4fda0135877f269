"""What can be replayed: a cache policy, the exact yardstick, or another method beside which they are shown."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tq_trace.task import Task

F32 = NDArray[np.float32]


class Run(Protocol):
    """A task being answered by a method; all its tokens come in, in order, no later than its queries need them."""

    def ask(self, start: int, stop: int) -> tuple[F32, F32]:
        """Inner products (heads, n, tokens) and attention outputs (heads, n, value_dim) of queries start..stop-1.

        Over tokens 0..positions[stop - 1]; products with tokens that a query may not see are undefined. Asked in order.
        """

    def finish(self) -> tuple[F32, F32]:
        """After the last question, with all tokens in: what keys and values decode to, (heads, tokens, dim) each."""

    def ledger(self) -> Mapping[str, int]:
        """After `finish`: bytes of codes, norms, exact tokens and padding of all heads together, and of `tables`."""


class Stages(Protocol):
    """The calls that are timed, all tokens at once."""

    def encode(self) -> None:
        """Take in all tokens of the task."""

    def score(self) -> object:
        """Inner products of all queries with all tokens."""

    def attend(self) -> object:
        """Attention outputs of all queries."""


class Method(Protocol):
    """One row of a report."""

    @property
    def name(self) -> str:
        """The canonical name: a policy's string, or the name of a baseline."""

    @property
    def kind(self) -> str:
        """`exact`, `policy`, `baseline` or `peer`."""

    @property
    def backend(self) -> str:
        """What computes: the backend of tq_core, or the name of a library."""

    def start(self, task: Task) -> Run:
        """Begin a task."""

    def stages(self, task: Task) -> Stages | None:
        """The stages of a task, for timing, `encode` first; None where its speed here is not that of the method."""


@dataclass(frozen=True)
class Setting:
    """What holds for all methods of a replay; `layers` counts those of the model, `dtype` is that of the trace."""

    seed: int
    backend: str
    layers: int
    dtype: str
