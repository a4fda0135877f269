"""Online softmax: what attention over the tokens seen so far has found, and how more tokens come in."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


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
    total: F64  # sum of exp(logit - largest)
    summed: F64  # the same weights times the values, (..., value dim)

    def of(self, lane: int) -> "State":
        """The state of one lane, in the same memory."""
        chosen = slice(lane, lane + 1)
        return State(self.largest[chosen], self.total[chosen], self.summed[chosen])

    def finished(self) -> F32:
        """The attention output; zeros where no token was seen."""
        return (self.summed / np.where(self.total > 0, self.total, 1.0)[..., None]).astype(np.float32)


class Question(NamedTuple):
    """What is asked of each tile."""

    queries: F32  # (lanes, heads a lane, n, key dim)
    scale: float
    softcap: float
    view: View


def nothing(asked: Question, value_dim: int) -> State:
    """The state before any token."""
    shape = asked.queries.shape[:3]
    return State(np.full(shape, -np.inf, np.float32), np.zeros(shape), np.zeros((*shape, value_dim)))


def weights_of(logits: F32, positions: NDArray[np.int64], asked: Question, view: View, state: State) -> F32:
    """exp(logit - maximum) of (lanes, heads a lane, n, tokens) products, in the same memory.

    The state has the new maxima then, what it held before is faded to them, and the weights are in its totals.
    """
    logits *= np.float32(asked.scale)
    if asked.softcap > 0:
        with np.errstate(over="ignore"):  # infinitely far beyond the cap is at the cap
            np.tanh(logits / np.float32(asked.softcap), out=logits)
        logits *= np.float32(asked.softcap)
    _hide(logits, positions, view)
    peak = np.maximum(state.largest, logits.max(axis=3))
    anchor = np.where(np.isfinite(peak), peak, np.float32(0))
    np.exp(np.subtract(logits, anchor[..., None], out=logits), out=logits)
    faded = np.exp(state.largest - anchor).astype(np.float64)
    state.total[...] *= faded
    state.total[...] += logits.sum(axis=3, dtype=np.float64)
    state.summed[...] *= faded[..., None]
    state.largest[...] = peak
    return logits


def _hide(logits: F32, positions: NDArray[np.int64], view: View) -> None:
    """Set the logits of tokens that a query may not see to -inf; `positions` ascend."""
    first, last, mask = view
    if first[-1] > positions[0] or last[0] <= positions[-1]:
        logits[:, :, ~((positions >= first[:, None]) & (positions < last[:, None]))] = -np.inf
    if mask is not None:
        logits[~np.broadcast_to(mask[..., positions], logits.shape)] = -np.inf
