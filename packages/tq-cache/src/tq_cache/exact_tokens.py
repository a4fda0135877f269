"""Attention to tokens in full precision: sinks, the window, and fresh ones, those of all lanes in one tile."""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tq_cache.side import Side
from tq_cache.softmax import Question, State, View, hide, joined, logits_of, sees_all

F32 = NDArray[np.float32]
Floats = NDArray[np.floating]

LEAST_TILE: Final = 16  # tokens; below that a tile is all overhead


class Fresh(NamedTuple):
    """Tokens in full precision behind those held, which the queries see and no cache keeps."""

    keys: NDArray[np.floating]  # (lanes, n, key dim)
    values: NDArray[np.floating]  # (lanes, n, value dim)


class Piece(NamedTuple):
    """Exact tokens of one kind, start..stop-1 of their array; they stand at `position` and behind."""

    kind: str  # "sinks", "recent", "fresh"
    start: int
    stop: int
    position: int


def exact_pieces(keys: Side, view: View, fresh: Fresh | None) -> list[Piece]:
    """The exact tokens that any query may see, in order."""
    if not len(view.first):
        return []
    first, last = int(view.first[0]), int(view.last[-1])
    codes, window = keys.borders()
    held = window + len(keys.recent)
    kinds = (
        ("sinks", 0, codes),
        ("recent", window, held - window),
        ("fresh", held, 0 if fresh is None else fresh.keys.shape[1]),
    )
    found = []
    for kind, position, length in kinds:
        start, stop = max(first - position, 0), min(last - position, length)
        if start < stop:
            found.append(Piece(kind, start, stop, position + start))
    return found


def bundles(pieces: list[Piece], tile: int) -> list[list[Piece]]:
    """Pieces in bundles of at most `tile` tokens, cut where they must be."""
    if sum([piece.stop - piece.start for piece in pieces]) <= tile:
        return [pieces] if pieces else []
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
    """(lanes, tokens, dim) float32 of some exact tokens; to be read only."""
    parts = [
        (fresh if kind == "fresh" and fresh is not None else getattr(side, kind).view)[:, start:stop]
        for kind, start, stop, _ in pieces
    ]
    if len(parts) == 1:
        return parts[0].astype(np.float32, copy=False)
    return np.concatenate(parts, axis=1, dtype=np.float32)


def with_exact(
    keys: Side, values: Side, fresh: Fresh | None, pieces: list[Piece], asked: Question, state: State
) -> State:
    """The state with exact tokens of all lanes in it."""
    lanes, heads, count, dim = asked.queries.shape
    held_keys = _floats(keys, None if fresh is None else fresh.keys, pieces)
    held_values = _floats(values, None if fresh is None else fresh.values, pieces)
    products = asked.queries.reshape(lanes, heads * count, dim) @ held_keys.swapaxes(1, 2)
    logits = logits_of(products.reshape(lanes, heads, count, -1), asked)
    last = pieces[-1]
    if asked.view.mask is not None or not sees_all(
        asked.view, pieces[0].position, last.position + last.stop - last.start
    ):
        parts = [np.arange(piece.position, piece.position + piece.stop - piece.start) for piece in pieces]
        hide(logits, np.concatenate(parts), asked.view, keys.place)
    found, weights = joined(state, logits)
    summed = found.summed
    summed += (weights.reshape(lanes, heads * count, -1) @ held_values).reshape(summed.shape)
    return found


def exact_tile(keys: Side, values: Side, heads: int, rows: int, workspace_bytes: int) -> int:
    """Exact tokens a tile, of all lanes at once: their float32 copies and three score-sized arrays."""
    dims = keys.dim + values.dim
    room = max(0, workspace_bytes - 8 * heads * rows * (dims + values.dim))
    return max(LEAST_TILE, room // (keys.lanes * (4 * dims + 20 * heads * rows)))
