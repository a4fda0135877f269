"""Online softmax: what attention over the tokens seen so far has found, and how more tokens come in."""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tq_core.device import Device

F32 = NDArray[np.float32]
Floats = NDArray[np.floating]

LOWEST: Final = np.finfo(np.float32).min  # in place of a maximum of nothing, from which nothing can be subtracted
TINY: Final = np.finfo(np.float64).tiny


class View(NamedTuple):
    """What each query may see: query i of n sees tokens `first[i] <= t < last[i]`, where `mask` allows it.

    Both `first` and `last` ascend.
    """

    first: NDArray[np.int64]  # (n,)
    last: NDArray[np.int64]  # (n,)
    mask: NDArray[np.bool_] | None  # (lanes, heads a lane, n, tokens), each of the first three possibly 1

    def of(self, lanes: list[int]) -> "View":
        """The view of some lanes."""
        if self.mask is None or self.mask.shape[0] == 1:
            return self
        return self._replace(mask=self.mask[lanes])


class State(NamedTuple):
    """Online softmax over the tokens seen so far, for (lanes, heads a lane, n) queries."""

    largest: F32  # the greatest logit, -inf before any
    total: Floats  # sum of exp(logit - largest)
    summed: Floats  # the same weights times the values, (..., value dim)

    def finish(self, out: F32) -> None:
        """Write the attention output; zeros where no token was seen."""
        # where any was seen, that of the greatest logit alone adds 1
        np.divide(self.summed, np.maximum(self.total, TINY)[..., None], out=out)


class Question(NamedTuple):
    """What is asked of each tile."""

    queries: F32  # (lanes, heads a lane, n, key dim)
    scale: float
    softcap: float
    view: View


def nothing(asked: Question, lanes: int, value_dim: int) -> State:
    """The state of some lanes before any token."""
    shape = lanes, *asked.queries.shape[1:3]
    like = asked.queries
    return State(
        np.full_like(like, -np.inf, np.float32, shape=shape),
        np.zeros_like(like, np.float64, shape=shape),
        np.zeros_like(like, np.float64, shape=(*shape, value_dim)),
    )


def stacked(states: Sequence[State]) -> State:
    """The states of several lanes as one."""
    return State(*(np.concatenate(arrays) for arrays in zip(*states, strict=True)))


def logits_of(products: F32, asked: Question) -> F32:
    """What softmax is taken of: products of queries and keys, scaled and capped in the same memory."""
    products *= np.float32(asked.scale)
    if asked.softcap > 0:
        with np.errstate(over="ignore"):  # infinitely far beyond the cap is at the cap
            np.tanh(products / np.float32(asked.softcap), out=products)
        products *= np.float32(asked.softcap)
    return products


def sees_all(view: View, low: int, high: int) -> bool:
    """Whether every query sees all of the tokens low..high-1, masks apart."""
    return bool(view.first[-1] <= low and view.last[0] >= high)


def hide(logits: F32, positions: NDArray[np.int64], view: View, place: Device) -> None:
    """Set the logits (lanes, heads a lane, n, tokens) of tokens that a query may not see to -inf."""
    first, last, mask = view
    hidden = place.asarray((positions < first[:, None]) | (positions >= last[:, None]))
    if mask is not None:
        hidden = hidden | ~mask[..., place.asarray(positions)]
    np.copyto(logits, np.float32(-np.inf), where=hidden)


def joined(state: State, logits: F32) -> tuple[State, F32]:
    """The state with the tokens of the logits in it, but for their values; and exp(logit - maximum), by which those
    count, in the memory of the logits.
    """
    largest = np.maximum(state.largest, logits.max(axis=3))
    anchor = np.maximum(largest, LOWEST)
    weights = np.exp(np.subtract(logits, anchor[..., None], out=logits), out=logits)
    faded = np.exp(state.largest - anchor)
    total = np.multiply(state.total, faded, dtype=np.float64)
    total += weights.sum(axis=3, dtype=np.float64)
    return State(largest, total, np.multiply(state.summed, faded[..., None], dtype=np.float64)), weights
