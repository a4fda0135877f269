"""The basis in which each head's vectors are encoded: less a fixed mean, channels of most energy first.

It is given, or learned from the first tokens that are to be quantized, and fixed from then on.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tq_core import ScaleRange
from tq_core.flags import is_set

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Floats = NDArray[np.floating]


class Needs(NamedTuple):
    """What a side must know to encode: each a number of tokens to learn it from, 0 for not at all, or "given"."""

    mean: int | str = 0
    split: int | str = 0
    channels: int = 0  # how many the split is about

    @property
    def tokens(self) -> int:
        """Tokens that have to come first."""
        return max(count if isinstance(count, int) else 0 for count in (self.mean, self.split))


class Basis(NamedTuple):
    """`mean` (lanes, dim) is taken from every vector; `order` (lanes, dim) names the channels as they are encoded."""

    mean: F32 | None = None
    order: NDArray[np.intp] | None = None

    def moved(self, tokens: Floats) -> Floats:
        """(lanes, n, dim) vectors as they are encoded; ScaleRange where float32 cannot hold the difference."""
        found = tokens
        if self.mean is not None:
            with np.errstate(over="ignore", invalid="ignore"):
                found = tokens.astype(np.float32) - self.mean[:, None, :]
            if is_set(~np.isfinite(found).all()):
                raise ScaleRange("a key less the mean of its head is beyond float32; scale the data down")
        if self.order is not None:
            found = np.take_along_axis(found, self.order[:, None, :], axis=2)
        return found

    def restored(self, rows: F32) -> F32:
        """What `moved` made, moved back: (lanes, n, dim) float32, in the same memory where it can be."""
        if self.order is not None:
            rows = np.take_along_axis(rows, np.argsort(self.order, axis=1)[:, None, :], axis=2)
        if self.mean is not None:
            rows += self.mean[:, None, :]
        return rows

    def asked(self, lane: int, queries: F32) -> F32:
        """(queries, dim) with the channels as that lane's vectors are encoded."""
        return queries if self.order is None else np.take(queries, self.order[lane], axis=1)

    def answered(self, lane: int, sums: F32) -> F32:
        """Weighted sums of vectors as they are encoded, (sums, dim), with the channels put back."""
        if self.order is None:
            return sums
        return np.take(sums, np.argsort(self.order[lane]), axis=1)

    def shift(self, lane: int, queries: F32) -> F32 | None:
        """(queries,) inner products with the lane's mean, which scores of encoded vectors lack; None for no mean."""
        if self.mean is None:
            return None
        found: F32 = (queries.astype(np.float64) @ self.mean[lane].astype(np.float64)).astype(np.float32)
        return found


def learned(tokens: Floats, needs: Needs, known: Basis) -> Basis:
    """The basis that (lanes, n, dim) tokens, the first ones to be quantized, make known beside what is given.

    Sums are float64 and added token by token, so that they do not depend on how tokens came.
    """
    mean, order = known
    if isinstance(needs.mean, int) and needs.mean:
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused when it is moved
            mean = (_total(tokens[:, : needs.mean].astype(np.float64)) / needs.mean).astype(np.float32)
    if isinstance(needs.split, int) and needs.split:
        moved = Basis(mean).moved(tokens[:, : needs.split]).astype(np.float64)
        with np.errstate(over="ignore"):
            order = by_energy(_total(moved * moved), needs.channels)
    return Basis(mean, order)


def by_energy(energies: F64, channels: int) -> NDArray[np.intp]:
    """(lanes, dim): the channels of most energy, then the others, each in ascending order; ties to lower channels."""
    ranks = np.argsort(np.argsort(-energies, axis=1, kind="stable"), axis=1)
    return first_channels(ranks < channels)


def first_channels(chosen: NDArray[np.bool_]) -> NDArray[np.intp]:
    """(lanes, dim): the channels chosen, then the others, each in ascending order."""
    return np.argsort((~chosen).astype(np.int8), axis=1, kind="stable")


def _total(tokens: F64) -> F64:
    total = np.zeros_like(tokens[:, 0])
    for token in range(tokens.shape[1]):
        total += tokens[:, token]
    return total
