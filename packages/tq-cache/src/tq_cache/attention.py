"""Attention straight from packed codes: tiles of tokens, online softmax, scratch memory within a bound.

Per tile: scores of all queries from the packed keys, exponentials against the running maximum, and the weighted sum of
the packed values, added in their rotated domain. No float copy of packed keys or values exists at any time. Tokens in
full precision (sinks, window, fresh ones) come last, those of all lanes in one tile where they fit.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from tq_cache.codecs import Fused, FusedAttention, fused_attention
from tq_cache.exact_tokens import LEAST_TILE, Fresh, add_exact, bundles, exact_pieces, exact_tile
from tq_cache.side import Side
from tq_cache.softmax import Question, State, View, nothing, weights_of

F32 = NDArray[np.float32]

WORKSPACE_BYTES: Final = 16 << 20
LEAST_QUERIES: Final = 8
ACCURACIES: Final = ("exact", "integer")


def attend(
    keys: Side,
    values: Side,
    queries: F32,
    scale: float,
    view: View,
    softcap: float,
    workspace_bytes: int,
    accuracy: str,
    fresh: Fresh | None = None,
) -> F32:
    """softmax(q K^T scale) V for queries (lanes, heads a lane, n, key dim), shaped (lanes, heads a lane, n, value dim).

    A query that sees no token gets zeros. `softcap` c > 0 replaces each logit by `c tanh(logit / c)`. Scratch memory
    stays within `workspace_bytes`, except that a tile has 16 tokens and 8 queries at least. A backend that has a
    fused kernel computes what lies in codes, at its `accuracy`; exact tokens are added here, and `fresh` ones last.
    """
    lanes, heads, count, _ = queries.shape
    out = np.empty((lanes, heads, count, values.dim), np.float32)
    tile, rows = _tile(keys, values, heads, count, workspace_bytes)
    can_fuse = _is_shared(view.mask) and not (softcap > 0 and keys.has_mean)  # a cap is for the true logits
    fused = fused_attention(keys.codec, values.codec, accuracy) if can_fuse else None
    exact_room = exact_tile(keys, values, heads, rows, workspace_bytes)
    for start in range(0, count, rows):
        part = slice(start, min(start + rows, count))
        mask = view.mask if view.mask is None or view.mask.shape[2] == 1 else view.mask[:, :, part]
        asked = Question(queries[:, :, part], scale, softcap, View(view.first[part], view.last[part], mask))
        found = None if fused is None else _fused(fused, keys, values, asked)
        exact = exact_pieces(keys, asked.view, fresh)
        if found is not None and not exact:
            np.divide(found.values, np.where(found.sums > 0, found.sums, 1)[..., None], out=out[:, :, part])
            continue
        state = nothing(asked, values.dim) if found is None else _state(found, keys, asked)
        for low, high in [] if fused is not None else _coded_spans(keys, asked.view, tile):
            for lane in range(lanes):
                _add_codes(keys, values, lane, low, high, asked, state)
        for pieces in bundles(exact, exact_room):
            add_exact(keys, values, fresh, pieces, asked, state)
        out[:, :, part] = state.finished()
    return out


def _is_shared(mask: NDArray[np.bool_] | None) -> bool:
    """Whether all lanes and heads have one mask, which is what fused kernels take."""
    return mask is None or mask.shape[:2] == (1, 1)


def _state(found: Fused, keys: Side, asked: Question) -> State:
    """What was found, with its true maxima, for tokens that follow."""
    maxima = found.maxima
    if keys.has_mean:
        maxima = maxima + np.float32(asked.scale) * keys.shifts(asked.queries)
    return State(maxima, found.sums.astype(np.float64), found.values.astype(np.float64))


def _fused(fused: FusedAttention, keys: Side, values: Side, asked: Question) -> Fused:
    """What the backend's kernel finds in all packed tokens."""
    first, last = keys.borders()
    limits = np.empty((len(asked.view.first), 2), np.int64)
    limits[:, 0], limits[:, 1] = asked.view.first, asked.view.last
    limits -= first  # they may lie beyond the packed tokens
    mask = asked.view.mask
    if mask is not None:
        mask = np.ascontiguousarray(np.broadcast_to(mask[0, 0], (len(limits), mask.shape[3]))[:, first:last])
    packed, scales = ([side.coded[name].view for side in (keys, values)] for name in ("packed", "scales"))
    return fused.attend(
        packed[0],
        scales[0],
        packed[1],
        scales[1],
        asked.queries,
        scale=asked.scale,
        softcap=asked.softcap,
        limits=limits,
        mask=mask,
    )


def _tile(keys: Side, values: Side, heads: int, count: int, workspace_bytes: int) -> tuple[int, int]:
    """Tokens a tile and queries a pass, so that unpacked codes, centroids and three score-sized arrays fit."""
    per_token = max(keys.scratch, values.scratch)  # one side at a time
    dims = keys.dim + values.dim
    rows = min(max(count, 1), max(LEAST_QUERIES, workspace_bytes // (32 * heads * (per_token + dims))))
    per_query = 8 * heads * rows * dims  # rotated queries and accumulators
    tile = max(0, workspace_bytes - per_query) // (per_token + 20 * heads * rows)
    return max(LEAST_TILE, tile), rows


def _add_codes(keys: Side, values: Side, lane: int, low: int, high: int, asked: Question, state: State) -> None:
    """Bring the codes of tokens low..high-1 of one lane into the state."""
    heads, count, dim = asked.queries.shape[1:]
    queries = np.ascontiguousarray(asked.queries[lane].reshape(heads * count, dim))
    logits = keys.scores_of(lane, low, high, queries).reshape(1, heads, count, high - low)
    own = state.of(lane)
    weights = weights_of(logits, np.arange(low, high), asked, asked.view.of([lane]), own)
    summed = values.combined(lane, low, high, weights.reshape(heads * count, high - low))
    own.summed[...] += summed.reshape(own.summed.shape)


def _coded_spans(side: Side, view: View, tile: int) -> list[tuple[int, int]]:
    """Ranges of at most `tile` tokens that are codes and that any query may see."""
    if not len(view.first):
        return []
    codes, window = side.borders()
    start, stop = max(int(view.first[0]), codes), min(int(view.last[-1]), window)
    return [(at, min(at + tile, stop)) for at in range(start, stop, tile)]
