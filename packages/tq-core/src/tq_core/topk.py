"""Top-k of scores that come in tiles, with a fixed order: higher score first, lower index on ties."""

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]

TILE_ROWS: Final = 1 << 16


def best_rows(
    score: Callable[[slice], F32], queries: int, rows: int, k: int, eligible: NDArray[np.bool_] | None
) -> tuple[F32, I64]:
    """`(scores, indices)`, (queries, k), padded with -inf and -1. `score(tile)` gives (queries, tile rows)."""
    best = np.full((queries, k), -np.inf, np.float32)
    index = np.full((queries, k), -1, np.int64)
    for start in range(0, rows, TILE_ROWS):
        tile = slice(start, min(start + TILE_ROWS, rows))
        scores = score(tile)
        allowed = np.arange(tile.start, tile.stop) if eligible is None else tile.start + np.flatnonzero(eligible[tile])
        scores = scores if eligible is None else scores[:, allowed - tile.start]
        for query in range(queries):
            have = index[query] >= 0
            values = np.concatenate([best[query][have], scores[query]])
            ids = np.concatenate([index[query][have], allowed])
            chosen = _best(values, ids, k)
            best[query, : len(chosen)] = values[chosen]
            index[query, : len(chosen)] = ids[chosen]
    return best, index


def _best(values: F32, ids: I64, k: int) -> I64:
    """Positions of the k best values, best first, ties by id."""
    candidates = np.arange(len(values))
    if len(values) > k:
        candidates = np.flatnonzero(values >= np.partition(values, -k)[-k])
    order = np.lexsort((ids[candidates], -values[candidates]))
    return candidates[order][:k].astype(np.int64)
