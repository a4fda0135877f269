"""Attention straight from packed codes: tiles of tokens, online softmax, scratch memory within a bound.

Per tile: scores of all queries from the packed keys, exponentials against the running maximum, and the weighted sum of
the packed values, added in their rotated domain. No float copy of keys or values exists at any time.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tq_cache.codecs import Fused, FusedAttention, fused_attention
from tq_cache.place import contiguous
from tq_cache.side import Side
from tq_core.device import Device

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

WORKSPACE_BYTES: Final = 16 << 20
LEAST_TILE: Final = 16  # tokens; below that a tile is all overhead
LEAST_QUERIES: Final = 8
ACCURACIES: Final = ("exact", "integer")


class View(NamedTuple):
    """What each query may see: query i of n sees tokens `first[i] <= t < last[i]`, where `mask` allows it."""

    first: NDArray[np.int64]  # (n,)
    last: NDArray[np.int64]  # (n,)
    mask: NDArray[np.bool_] | None  # (lanes, heads a lane, n, tokens), each of the first three possibly 1

    def of(self, lanes: list[int]) -> "View":
        """The view of some lanes."""
        if self.mask is None or self.mask.shape[0] == 1:
            return self
        return self._replace(mask=self.mask[lanes])


class Fresh(NamedTuple):
    """Tokens in full precision behind those held, which the queries see and no cache keeps."""

    keys: NDArray[np.floating]  # (lanes, n, key dim)
    values: NDArray[np.floating]  # (lanes, n, value dim)


class State(NamedTuple):
    """Online softmax over the tokens seen so far, for (lanes, heads a lane, n) queries."""

    largest: F32  # the greatest logit, -inf before any
    total: F64  # sum of exp(logit - largest)
    summed: F64  # the same weights times the values, (..., value dim)

    def finished(self) -> F32:
        """The attention output; zeros where no token was seen."""
        return (self.summed / np.where(self.total > 0, self.total, 1.0)[..., None]).astype(np.float32)


class Question(NamedTuple):
    """What is asked of each tile."""

    queries: F32  # (lanes, heads a lane, n, key dim)
    scale: float
    softcap: float
    view: View


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
    only_codes = fresh is None and not len(keys.sinks) and not len(keys.recent)
    for start in range(0, count, rows):
        part = slice(start, min(start + rows, count))
        mask = view.mask if view.mask is None or view.mask.shape[2] == 1 else view.mask[:, :, part]
        asked = Question(queries[:, :, part], scale, softcap, View(view.first[part], view.last[part], mask))
        found = None if fused is None else _fused(fused, keys, values, asked)
        if found is not None and only_codes:
            np.divide(found.values, np.where(found.sums > 0, found.sums, 1)[..., None], out=out[:, :, part])
            continue
        state = _nothing(asked, values) if found is None else _state(found, keys, asked)
        for low, high in _spans(keys, asked.view, tile, codes=fused is None):
            for lane in range(lanes):
                _add_tile(_held_tile(keys, values, lane, low, high), lane, low, high, asked, state, keys.place)
        if fresh is not None:
            held, count_fresh = len(keys), fresh.keys.shape[1]
            for low in range(0, count_fresh, tile):
                high = min(low + tile, count_fresh)
                for lane in range(lanes):
                    tokens = _fresh_tile(fresh, lane, low, high)
                    _add_tile(tokens, lane, held + low, held + high, asked, state, keys.place)
        out[:, :, part] = state.finished()
    return out


def _is_shared(mask: NDArray[np.bool_] | None) -> bool:
    """Whether all lanes and heads have one mask, which is what fused kernels take."""
    return mask is None or mask.shape[:2] == (1, 1)


def _nothing(asked: Question, values: Side) -> State:
    shape, xp = asked.queries.shape[:3], values.place.xp
    return State(xp.full(shape, -np.inf, np.float32), xp.zeros(shape), xp.zeros((*shape, values.dim)))


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
        mask = contiguous(np.broadcast_to(mask[0, 0], (len(limits), mask.shape[3]))[:, first:last])
    packed, scales = ([side.coded[name].view for side in (keys, values)] for name in ("packed", "scales"))
    return fused.attend(
        packed[0],
        scales[0],
        packed[1],
        scales[1],
        asked.queries,
        scale=asked.scale,
        softcap=asked.softcap,
        limits=keys.place.asarray(limits),
        mask=mask,
    )


def _tile(keys: Side, values: Side, heads: int, count: int, workspace_bytes: int) -> tuple[int, int]:
    """Tokens a tile and queries a pass, so that unpacked codes, centroids and three score-sized arrays fit."""
    per_token = max(side.dim * side.codec.scratch for side in (keys, values))  # one side at a time
    dims = keys.dim + values.dim
    rows = min(max(count, 1), max(LEAST_QUERIES, workspace_bytes // (32 * heads * (per_token + dims))))
    per_query = 8 * heads * rows * dims  # rotated queries and accumulators
    tile = max(0, workspace_bytes - per_query) // (per_token + 20 * heads * rows)
    return max(LEAST_TILE, tile), rows


class Tile(NamedTuple):
    """Some tokens of one lane: what they score and what they sum to."""

    scores: Callable[[F32], F32]  # queries (n, key dim) -> (n, tokens)
    combined: Callable[[F32], F32]  # weights (n, tokens) -> (n, value dim)


def _held_tile(keys: Side, values: Side, lane: int, low: int, high: int) -> Tile:
    return Tile(
        lambda queries: keys.scores_of(lane, low, high, queries),
        lambda weights: values.combined(lane, low, high, weights),
    )


def _fresh_tile(fresh: Fresh, lane: int, low: int, high: int) -> Tile:
    keys, values = (side[lane, low:high].astype(np.float32, copy=False) for side in fresh)
    return Tile(lambda queries: queries @ keys.T, lambda weights: weights @ values)


def _add_tile(tile: Tile, lane: int, low: int, high: int, asked: Question, state: State, place: Device) -> None:
    """Bring tokens low..high-1 of one lane into the state."""
    heads, count, dim = asked.queries.shape[1:]
    queries = contiguous(asked.queries[lane].reshape(heads * count, dim))
    logits = tile.scores(queries).reshape(heads, count, high - low)
    logits *= np.float32(asked.scale)
    if asked.softcap > 0:
        with np.errstate(over="ignore"):  # infinitely far beyond the cap is at the cap
            np.tanh(logits / np.float32(asked.softcap), out=logits)
        logits *= np.float32(asked.softcap)
    _hide(logits, asked.view, lane, low, high, place)
    largest, total, summed = state.largest[lane], state.total[lane], state.summed[lane]
    peak = np.maximum(largest, logits.max(axis=2))
    anchor = np.where(np.isfinite(peak), peak, np.float32(0))
    np.exp(np.subtract(logits, anchor[:, :, None], out=logits), out=logits)
    faded = np.exp(largest - anchor).astype(np.float64)
    total *= faded
    total += logits.sum(axis=2, dtype=np.float64)
    tile_sum = tile.combined(logits.reshape(heads * count, high - low))
    summed *= faded[:, :, None]
    summed += tile_sum.reshape(summed.shape)
    largest[:] = peak


def _spans(side: Side, view: View, tile: int, *, codes: bool) -> list[tuple[int, int]]:
    """Token ranges of at most `tile` tokens that any query may see, none across the border of two parts."""
    if not len(view.first):
        return []
    start, stop = int(view.first.min()), min(int(view.last.max()), len(side))
    if start >= stop:
        return []
    first, last = side.borders()
    borders = sorted({start, stop, *(border for border in (first, last) if start < border < stop)})
    found = []
    for low, high in pairwise(borders):
        if codes or not first <= low < last:
            found += [(at, min(at + tile, high)) for at in range(low, high, tile)]
    return found


def _hide(logits: F32, view: View, lane: int, low: int, high: int, place: Device) -> None:
    """Set the logits of tokens that a query may not see to -inf."""
    first, last, mask = view
    if first.max(initial=0) > low or last.min(initial=high) < high:
        positions = np.arange(low, high)
        hidden = (positions < first[:, None]) | (positions >= last[:, None])
        np.copyto(logits, np.float32(-np.inf), where=place.asarray(hidden))
    if mask is not None:
        own = mask[lane if mask.shape[0] > 1 else 0][:, :, low:high]
        np.copyto(logits, np.float32(-np.inf), where=~own)
