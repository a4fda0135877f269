"""Attention straight from packed codes: tiles of tokens, online softmax, scratch memory within a bound.

Per tile: scores of all queries from the packed keys, exponentials against the running maximum, and the weighted sum of
the packed values, added in their rotated domain. No float copy of keys or values exists at any time.
"""

from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tq_cache.side import Side

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

WORKSPACE_BYTES: Final = 16 << 20
LEAST_TILE: Final = 16  # tokens; below that a tile is all overhead
LEAST_QUERIES: Final = 8


class View(NamedTuple):
    """What each query may see: query i of n sees tokens `first[i] <= t < last[i]`, where `mask` allows it."""

    first: NDArray[np.int64]  # (n,)
    last: NDArray[np.int64]  # (n,)
    mask: NDArray[np.bool_] | None  # (lanes, heads a lane, n, tokens), each of the first three possibly 1


def attend(
    keys: Side, values: Side, queries: F32, scale: float, view: View, softcap: float, workspace_bytes: int
) -> F32:
    """softmax(q K^T scale) V for queries (lanes, heads a lane, n, key dim), shaped (lanes, heads a lane, n, value dim).

    A query that sees no token gets zeros. `softcap` c > 0 replaces each logit by `c tanh(logit / c)`. Scratch memory
    stays within `workspace_bytes`, except that a tile has 16 tokens and 8 queries at least.
    """
    lanes, heads, count, _ = queries.shape
    out = np.zeros((lanes, heads, count, values.dim), np.float32)
    tile, rows = _tile(keys.dim, values.dim, heads, count, workspace_bytes)
    for lane in range(lanes):
        for start in range(0, count, rows):
            part = slice(start, min(start + rows, count))
            out[lane, :, part] = _attend_lane(
                keys, values, lane, queries[lane, :, part], scale, view, part, softcap, tile
            )
    return out


def _tile(key_dim: int, value_dim: int, heads: int, count: int, workspace_bytes: int) -> tuple[int, int]:
    """Tokens a tile and queries a pass, so that unpacked codes, centroids and three score-sized arrays fit."""
    per_token = 5 * max(key_dim, value_dim)  # one side at a time: a byte of code and a float32 centroid a number
    rows = min(max(count, 1), max(LEAST_QUERIES, workspace_bytes // (32 * heads * (per_token + key_dim + value_dim))))
    per_query = 8 * heads * rows * (key_dim + value_dim)  # rotated queries and accumulators
    tile = max(0, workspace_bytes - per_query) // (per_token + 20 * heads * rows)
    return max(LEAST_TILE, tile), rows


def _attend_lane(
    keys: Side,
    values: Side,
    lane: int,
    queries: F32,
    scale: float,
    view: View,
    part: slice,
    softcap: float,
    tile: int,
) -> F32:
    heads, count, dim = queries.shape
    asked = np.ascontiguousarray(queries.reshape(heads * count, dim))
    largest = np.full((heads, count), -np.inf, np.float32)
    total = np.zeros((heads, count), np.float64)
    summed = np.zeros((heads, count, values.dim), np.float64)
    first, last = view.first[part], view.last[part]
    for low, high in _spans(keys, int(first.min(initial=0)), int(last.max(initial=0)), tile):
        logits = keys.scores_of(lane, low, high, asked).reshape(heads, count, high - low)
        logits *= np.float32(scale)
        if softcap > 0:
            np.tanh(logits / np.float32(softcap), out=logits)
            logits *= np.float32(softcap)
        _hide(logits, first, last, low, high)
        if view.mask is not None:
            logits[~_mask_part(view.mask, lane, part, low, high, logits.shape)] = -np.inf
        peak = np.maximum(largest, logits.max(axis=2))
        anchor = np.where(np.isfinite(peak), peak, np.float32(0))
        np.exp(np.subtract(logits, anchor[:, :, None], out=logits), out=logits)
        faded = np.exp(largest - anchor).astype(np.float64)
        total = total * faded + logits.sum(axis=2, dtype=np.float64)
        tile_sum = values.combined(lane, low, high, logits.reshape(heads * count, high - low))
        summed = summed * faded[:, :, None] + tile_sum.reshape(heads, count, values.dim)
        largest = peak
    safe = np.where(total > 0, total, 1.0)
    return (summed / safe[:, :, None]).astype(np.float32)


def _spans(side: Side, start: int, stop: int, tile: int) -> list[tuple[int, int]]:
    """Token ranges of at most `tile` tokens within start..stop-1, none across the border of two parts."""
    borders = sorted({start, stop, *(border for border in side.borders() if start < border < stop)})
    found = []
    for low, high in pairwise(borders):
        found += [(at, min(at + tile, high)) for at in range(low, high, tile)]
    return found


def _hide(logits: F32, first: NDArray[np.int64], last: NDArray[np.int64], low: int, high: int) -> None:
    """Set logits outside each query's range to -inf; nothing to do where all queries see the whole tile."""
    if first.max(initial=0) <= low and last.min(initial=high) >= high:
        return
    positions = np.arange(low, high)
    seen = (positions >= first[:, None]) & (positions < last[:, None])
    logits[:, ~seen] = -np.inf


def _mask_part(
    mask: NDArray[np.bool_], lane: int, part: slice, low: int, high: int, shape: tuple[int, ...]
) -> NDArray[np.bool_]:
    of_lane = mask[lane if mask.shape[0] > 1 else 0]
    of_queries = of_lane[:, part] if of_lane.shape[1] > 1 else of_lane
    return np.broadcast_to(of_queries[:, :, low:high], shape)
