"""What a quantized cache does to the predictions, as pure functions of logits; all sums in float64."""

import math
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

F64 = NDArray[np.float64]

TOP: Final = 5
LARGEST_SURPRISE: Final = 300.0  # nats in the mean; the squares of exp of more, over seeds, leave float64


def log_softmax(logits: ArrayLike) -> F64:
    """Log-probabilities over the last axis, float64."""
    shifted = np.asarray(logits, np.float64)
    shifted = shifted - shifted.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def divergence(exact: F64, measured: F64) -> F64:
    """KL(exact || measured) in nats over the last axis, of log-probabilities."""
    # never below 0, which rounding may miss by 1e-17
    return np.asarray(np.maximum((np.exp(exact) * (exact - measured)).sum(axis=-1), 0.0))


def surprise(log_probabilities: F64, targets: NDArray[np.int64]) -> F64:
    """Negative log-likelihood in nats of the tokens that really came; shaped as targets."""
    return np.asarray(-np.take_along_axis(log_probabilities, targets[..., None], axis=-1)[..., 0])


def same_best(exact: ArrayLike, measured: ArrayLike) -> NDArray[np.bool_]:
    """Whether both rank the same token first; the lower id wins a tie."""
    return np.asarray(np.argmax(exact, axis=-1) == np.argmax(measured, axis=-1))


def top_overlap(exact: ArrayLike, measured: ArrayLike, count: int = TOP) -> F64:
    """Share of the `count` best tokens of one that are among the `count` best of the other."""
    exact, measured = np.asarray(exact), np.asarray(measured)
    count = min(count, exact.shape[-1])
    chosen = [np.argpartition(logits, -count, axis=-1)[..., -count:] for logits in (exact, measured)]
    shared = (chosen[0][..., :, None] == chosen[1][..., None, :]).any(axis=-1).sum(axis=-1)
    return np.asarray(shared / count)


def mean_square(exact: ArrayLike, measured: ArrayLike) -> F64:
    """Mean squared difference of logits over the last axis."""
    difference = np.asarray(exact, np.float64) - np.asarray(measured, np.float64)
    return np.asarray(np.square(difference).mean(axis=-1))


def perplexity(surprises: ArrayLike) -> float | None:
    """exp of the mean surprise; None where that is beyond measure, as with logits of thousands."""
    mean = float(np.mean(np.asarray(surprises, np.float64)))
    return math.exp(mean) if mean <= LARGEST_SURPRISE else None


def first_divergence(agrees: NDArray[np.bool_]) -> float | None:
    """Median over windows (rows) of how many scored positions agree before the first that does not.

    A window that never diverges counts as later than all others; None where the median is such a window.
    """
    first = np.where(agrees.all(axis=1), np.inf, np.argmin(agrees, axis=1))
    middle = np.sort(first)[[(len(first) - 1) // 2, len(first) // 2]]
    median = float(middle.mean())
    return median if np.isfinite(median) else None
