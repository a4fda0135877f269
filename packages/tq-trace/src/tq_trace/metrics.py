"""What compression does to attention, as pure functions of logits; all sums in float64.

The softmax does not see a shift of all logits of a query, so errors of scores are measured after removing it; the
definitions are argued in docs/decisions/0013.
"""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

FEW: Final = 16  # up to so many, one maximum after the other is faster than sorting

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

HIDDEN: Final = -1e30
"""The logit of a token that a query may not see: its weight is 0 and, unlike -inf, it subtracts from itself."""


class Exact(NamedTuple):
    """A block of queries answered in float64: (heads, n, tokens) logits and weights, (heads, n, value_dim) outputs."""

    logits: F64
    weights: F64
    log_total: F64  # (heads, n): logarithm of the sum of exp(logits)
    outputs: F64
    centred: F64  # logits less their mean over the visible tokens, 0 where hidden
    top: NDArray[np.int64]  # (heads, n, top_k): the tokens of largest weight, the largest first
    hidden: NDArray[np.bool_]  # (n, tokens)
    visible: F64  # (n,): how many tokens each query sees
    values: F32  # (heads, tokens, value_dim)


class Errors(NamedTuple):
    """Figures of each query, (heads, n); the sums are over the tokens that it sees."""

    kl: F64  # KL(exact weights || measured weights) in nats
    square: F64  # sum of squared errors of logits, the query's mean error removed
    cross: F64  # sum of error times exact logit, both centred
    signal: F64  # sum of squared exact logits, centred
    shift: F64  # the mean error that was removed
    tokens: F64  # seen
    top: F64  # share of the top_k tokens that are the same
    same_best: NDArray[np.bool_]  # whether the token of largest weight is the same
    output: F64  # squared error of the attention output
    output_keys: F64  # that of measured weights over exact values: what the keys are to blame for
    output_values: F64  # that of measured values under measured weights: what the values are to blame for
    power: F64  # squared norm of the exact output


def exact(queries: F64, keys: F64, values: F32, positions: NDArray[np.int64], scale: float, top_k: int) -> Exact:
    """The float64 answers of queries (heads, n, dim) over keys (heads, tokens, dim), each seeing tokens 0..position."""
    logits = np.matmul(queries, keys.swapaxes(1, 2))
    logits *= scale
    hidden = np.arange(keys.shape[1]) > positions[:, None]
    visible = (positions + 1).astype(np.float64)
    logits[:, hidden] = 0
    centred = logits - (logits.sum(axis=2) / visible)[:, :, None]
    centred[:, hidden] = 0
    logits[:, hidden] = HIDDEN
    weights, log_total = _softmax(logits)
    outputs = np.matmul(weights, values.astype(np.float64))
    top = _largest(logits, top_k)
    return Exact(logits, weights, log_total, outputs, centred, top, hidden, visible, values)


def measure(truth: Exact, scores: F32, outputs: F32, scale: float) -> Errors:
    """Errors of measured inner products (heads, n, tokens) and attention outputs (heads, n, value_dim)."""
    logits = scores.astype(np.float64)
    logits *= scale
    logits[:, truth.hidden] = HIDDEN
    top = _largest(logits, truth.top.shape[2])
    error = logits - truth.logits
    kl = -np.einsum("hnt,hnt->hn", truth.weights, error) - truth.log_total
    shift = error.sum(axis=2) / truth.visible
    error -= shift[:, :, None]
    error[:, truth.hidden] = 0
    square = np.einsum("hnt,hnt->hn", error, error)
    cross = np.einsum("hnt,hnt->hn", error, truth.centred)
    signal = np.einsum("hnt,hnt->hn", truth.centred, truth.centred)
    weights, log_total = _softmax(logits)
    kl += log_total
    through_keys = np.matmul(weights.astype(np.float32), truth.values).astype(np.float64)
    measured = outputs.astype(np.float64)
    return Errors(
        kl=np.maximum(kl, 0.0),  # rounding may miss 0 by 1e-16
        square=square,
        cross=cross,
        signal=signal,
        shift=shift,
        tokens=np.broadcast_to(truth.visible, kl.shape),
        top=(top[:, :, :, None] == truth.top[:, :, None, :]).any(axis=3).mean(axis=2),
        same_best=top[:, :, 0] == truth.top[:, :, 0],
        output=_squares(measured - truth.outputs),
        output_keys=_squares(through_keys - truth.outputs),
        output_values=_squares(measured - through_keys),
        power=_squares(truth.outputs),
    )


def _softmax(logits: F64) -> tuple[F64, F64]:
    """Weights and the logarithm of their sum before division."""
    peak = logits.max(axis=2, keepdims=True)
    weights = np.exp(logits - peak)
    total = weights.sum(axis=2, keepdims=True)
    weights /= total
    return weights, (np.log(total) + peak)[:, :, 0]


def _largest(logits: F64, count: int) -> NDArray[np.int64]:
    """Tokens of the largest logits, (heads, n, count), the largest first; the lower token where they tie."""
    count = min(count, logits.shape[2])
    if count > FEW:
        return np.argsort(-logits, axis=2, kind="stable")[:, :, :count]
    left = logits.copy()
    found = np.empty((*logits.shape[:2], count), np.int64)
    for rank in range(count):
        found[:, :, rank] = left.argmax(axis=2)
        np.put_along_axis(left, found[:, :, rank, None], -np.inf, axis=2)
    return found


def _squares(difference: F64) -> F64:
    found: F64 = np.einsum("hnd,hnd->hn", difference, difference)
    return found
