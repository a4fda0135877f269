"""Attention straight from packed codes: tiles of tokens, online softmax, scratch memory within a bound.

Per tile: scores of all queries from the packed keys, exponentials against the running maximum, and the weighted sum of
the packed values, added in their rotated domain. No float copy of packed keys or values exists at any time. Tokens in
full precision (sinks, window, fresh ones) come last, those of all lanes in one tile where they fit.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from tq_cache.codecs import Fused, FusedAttention, fused_attention
from tq_cache.exact_tokens import LEAST_TILE, Fresh, bundles, exact_pieces, exact_tile, with_exact
from tq_cache.place import contiguous
from tq_cache.side import Side
from tq_cache.softmax import Question, State, View, hide, joined, logits_of, nothing, sees_all, stacked

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
    out: F32 = keys.place.xp.empty((lanes, heads, count, values.dim), np.float32)
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
        if found is None:
            spans = _coded_spans(keys, asked.view, tile)
            state = stacked([_coded(keys, values, lane, spans, asked) for lane in range(lanes)])
        else:
            state = _state(found, keys, asked)
        for pieces in bundles(exact, exact_room):
            state = with_exact(keys, values, fresh, pieces, asked, state)
        state.finish(out[:, :, part])
    return out


def _is_shared(mask: NDArray[np.bool_] | None) -> bool:
    """Whether all lanes and heads have one mask, which is what fused kernels take."""
    return mask is None or mask.shape[:2] == (1, 1)


def _state(found: Fused, keys: Side, asked: Question) -> State:
    """What was found, with its true maxima, for tokens that follow."""
    maxima = found.maxima
    if keys.has_mean:
        maxima = maxima + np.float32(asked.scale) * keys.shifts(asked.queries)
    return State(maxima, found.sums, found.values)


def _fused(fused: FusedAttention, keys: Side, values: Side, asked: Question) -> Fused:
    """What the backend's kernel finds in all packed tokens."""
    first, last = keys.borders()
    view, limits, mask = asked.view, None, asked.view.mask
    if len(view.first) and not sees_all(view, first, last):
        limits = np.stack([view.first, view.last], axis=1)
        limits = keys.place.asarray(limits - first)  # they may lie beyond the packed tokens
    if mask is not None:
        mask = contiguous(np.broadcast_to(mask[0, 0], (len(view.first), mask.shape[3]))[:, first:last])
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
    per_query = 8 * heads * rows * (dims + values.dim)  # rotated queries, accumulators old and new
    tile = max(0, workspace_bytes - per_query) // (per_token + 20 * heads * rows)
    return max(LEAST_TILE, tile), rows


def _coded(keys: Side, values: Side, lane: int, spans: list[tuple[int, int]], asked: Question) -> State:
    """The state of one lane after the codes of tokens in those spans."""
    heads, count, dim = asked.queries.shape[1:]
    queries = contiguous(asked.queries[lane].reshape(heads * count, dim))
    view, state = asked.view.of([lane]), nothing(asked, 1, values.dim)
    for low, high in spans:
        logits = logits_of(keys.scores_of(lane, low, high, queries), asked).reshape(1, heads, count, high - low)
        if view.mask is not None or not sees_all(view, low, high):
            hide(logits, np.arange(low, high), view, keys.place)
        state, weights = joined(state, logits)
        summed = state.summed
        summed += values.combined(lane, low, high, weights.reshape(heads * count, high - low)).reshape(summed.shape)
    return state


def _coded_spans(side: Side, view: View, tile: int) -> list[tuple[int, int]]:
    """Ranges of at most `tile` tokens that are codes and that any query may see."""
    if not len(view.first):
        return []
    codes, window = side.borders()
    start, stop = max(int(view.first[0]), codes), min(int(view.last[-1]), window)
    return [(at, min(at + tile, stop)) for at in range(start, stop, tile)]
