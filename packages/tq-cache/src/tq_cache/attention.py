"""Attention straight from packed codes: tiles of tokens, online softmax, scratch memory within a bound.

Per tile: scores of all queries from the packed keys, exponentials against the running maximum, and the weighted sum of
the packed values, added in their rotated domain. No float copy of packed keys or values exists at any time. Tokens in
full precision (sinks, window, fresh ones) come last, those of all lanes in one tile where they fit.
"""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tq_cache.codecs import Fused, FusedAttention, fused_attention
from tq_cache.side import Side

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Floats = NDArray[np.floating]

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
    out = np.empty((lanes, heads, count, values.dim), np.float32)
    tile, rows = _tile(keys, values, heads, count, workspace_bytes)
    can_fuse = _is_shared(view.mask) and not (softcap > 0 and keys.has_mean)  # a cap is for the true logits
    fused = fused_attention(keys.codec, values.codec, accuracy) if can_fuse else None
    exact_tile = _exact_tile(keys, values, heads, rows, workspace_bytes)
    for start in range(0, count, rows):
        part = slice(start, min(start + rows, count))
        mask = view.mask if view.mask is None or view.mask.shape[2] == 1 else view.mask[:, :, part]
        asked = Question(queries[:, :, part], scale, softcap, View(view.first[part], view.last[part], mask))
        found = None if fused is None else _fused(fused, keys, values, asked)
        exact = _exact_pieces(keys, asked.view, fresh)
        if found is not None and not exact:
            np.divide(found.values, np.where(found.sums > 0, found.sums, 1)[..., None], out=out[:, :, part])
            continue
        state = _nothing(asked, values.dim) if found is None else _state(found, keys, asked)
        for low, high in [] if fused is not None else _coded_spans(keys, asked.view, tile):
            for lane in range(lanes):
                _add_codes(keys, values, lane, low, high, asked, state)
        for pieces in _bundles(exact, exact_tile):
            _add_exact(keys, values, fresh, pieces, asked, state)
        out[:, :, part] = state.finished()
    return out


def _is_shared(mask: NDArray[np.bool_] | None) -> bool:
    """Whether all lanes and heads have one mask, which is what fused kernels take."""
    return mask is None or mask.shape[:2] == (1, 1)


def _nothing(asked: Question, value_dim: int) -> State:
    shape = asked.queries.shape[:3]
    return State(np.full(shape, -np.inf, np.float32), np.zeros(shape), np.zeros((*shape, value_dim)))


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
    per_token = max(side.dim * side.codec.scratch for side in (keys, values))  # one side at a time
    dims = keys.dim + values.dim
    rows = min(max(count, 1), max(LEAST_QUERIES, workspace_bytes // (32 * heads * (per_token + dims))))
    per_query = 8 * heads * rows * dims  # rotated queries and accumulators
    tile = max(0, workspace_bytes - per_query) // (per_token + 20 * heads * rows)
    return max(LEAST_TILE, tile), rows


def _exact_tile(keys: Side, values: Side, heads: int, rows: int, workspace_bytes: int) -> int:
    """Exact tokens a tile, of all lanes at once: their float32 copies and three score-sized arrays."""
    dims = keys.dim + values.dim
    room = max(0, workspace_bytes - 8 * heads * rows * dims)
    return max(LEAST_TILE, room // (keys.lanes * (4 * dims + 20 * heads * rows)))


class Piece(NamedTuple):
    """Exact tokens of one kind, start..stop-1 of their array; they stand at `position` and behind."""

    kind: str  # "sinks", "recent", "fresh"
    start: int
    stop: int
    position: int


def _exact_pieces(keys: Side, view: View, fresh: Fresh | None) -> list[Piece]:
    """The exact tokens that any query may see, in order."""
    if not len(view.first):
        return []
    first, last = int(view.first.min()), int(view.last.max())
    held, window = len(keys), keys.borders()[1]
    kinds = (
        ("sinks", 0, len(keys.sinks)),
        ("recent", window, held - window),
        ("fresh", held, 0 if fresh is None else fresh.keys.shape[1]),
    )
    found = []
    for kind, position, length in kinds:
        start, stop = max(first - position, 0), min(last - position, length)
        if start < stop:
            found.append(Piece(kind, start, stop, position + start))
    return found


def _bundles(pieces: list[Piece], tile: int) -> list[list[Piece]]:
    """Pieces in bundles of at most `tile` tokens, cut where they must be."""
    found: list[list[Piece]] = []
    room = 0
    for kind, first, last, position in pieces:
        start = first
        while start < last:
            if not room:
                found.append([])
                room = tile
            stop = min(last, start + room)
            found[-1].append(Piece(kind, start, stop, position + start - first))
            room -= stop - start
            start = stop
    return found


def _floats(side: Side, fresh: Floats | None, pieces: list[Piece]) -> F32:
    """(lanes, tokens, dim) float32 of some exact tokens."""
    total = sum(piece.stop - piece.start for piece in pieces)
    out = np.empty((side.lanes, total, side.dim), np.float32)
    at = 0
    for kind, start, stop, _ in pieces:
        tokens = fresh if kind == "fresh" and fresh is not None else getattr(side, kind).view
        out[:, at : at + stop - start] = tokens[:, start:stop]
        at += stop - start
    return out


def _add_exact(
    keys: Side, values: Side, fresh: Fresh | None, pieces: list[Piece], asked: Question, state: State
) -> None:
    """Bring exact tokens of all lanes into the state."""
    lanes, heads, count, dim = asked.queries.shape
    held_keys = _floats(keys, None if fresh is None else fresh.keys, pieces)
    held_values = _floats(values, None if fresh is None else fresh.values, pieces)
    logits = asked.queries.reshape(lanes, heads * count, dim) @ held_keys.swapaxes(1, 2)
    parts = [np.arange(piece.position, piece.position + piece.stop - piece.start) for piece in pieces]
    positions = parts[0] if len(parts) == 1 else np.concatenate(parts)
    weights = _weights(logits.reshape(lanes, heads, count, -1), positions, asked, asked.view, state)
    state.summed[...] += (weights.reshape(lanes, heads * count, -1) @ held_values).reshape(state.summed.shape)


def _add_codes(keys: Side, values: Side, lane: int, low: int, high: int, asked: Question, state: State) -> None:
    """Bring the codes of tokens low..high-1 of one lane into the state."""
    heads, count, dim = asked.queries.shape[1:]
    queries = np.ascontiguousarray(asked.queries[lane].reshape(heads * count, dim))
    logits = keys.scores_of(lane, low, high, queries).reshape(1, heads, count, high - low)
    own = State(*(array[lane : lane + 1] for array in state))
    weights = _weights(logits, np.arange(low, high), asked, asked.view.of([lane]), own)
    summed = values.combined(lane, low, high, weights.reshape(heads * count, high - low))
    own.summed[...] += summed.reshape(own.summed.shape)


def _weights(logits: F32, positions: NDArray[np.int64], asked: Question, view: View, state: State) -> F32:
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


def _coded_spans(side: Side, view: View, tile: int) -> list[tuple[int, int]]:
    """Ranges of at most `tile` tokens that are codes and that any query may see."""
    if not len(view.first):
        return []
    codes, window = side.borders()
    start, stop = max(int(view.first.min()), codes), min(int(view.last.max()), window)
    return [(at, min(at + tile, stop)) for at in range(start, stop, tile)]


def _hide(logits: F32, positions: NDArray[np.int64], view: View) -> None:
    """Set the logits of tokens that a query may not see to -inf; `positions` ascend."""
    first, last, mask = view
    if first.max(initial=0) > positions[0] or last.min(initial=int(positions[-1]) + 1) <= positions[-1]:
        logits[:, :, ~((positions >= first[:, None]) & (positions < last[:, None]))] = -np.inf
    if mask is not None:
        logits[~np.broadcast_to(mask[..., positions], logits.shape)] = -np.inf
