"""Top-k of scores that come in tiles, with a fixed order: higher score first, lower index on ties."""

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]

TILE_ROWS: Final = 1 << 16
TILE_QUERIES: Final = 256  # with TILE_ROWS, at most 64 MiB of scores at once


def best_rows(
    score: Callable[[slice, F32], F32], queries: F32, rows: int, k: int, eligible: NDArray[np.bool_] | None
) -> tuple[F32, I64]:
    """`(scores, indices)`, (queries, k), padded with -inf and -1.

    `score(tile, some)` gives the (some queries, tile rows) scores of a slice of rows; ties go to the lower index.
    """
    best = np.full((len(queries), k), -np.inf, np.float32)
    index = np.full((len(queries), k), -1, np.int64)
    for start in range(0, len(queries), TILE_QUERIES):
        part = slice(start, start + TILE_QUERIES)
        _fill(score, queries[part], rows, eligible, best[part], index[part])
    return best, index


def _fill(
    score: Callable[[slice, F32], F32],
    queries: F32,
    rows: int,
    eligible: NDArray[np.bool_] | None,
    best: F32,
    index: I64,
) -> None:
    k = best.shape[1]
    for start in range(0, rows, TILE_ROWS):
        tile = slice(start, min(start + TILE_ROWS, rows))
        scores = score(tile, queries)
        allowed = np.arange(tile.start, tile.stop) if eligible is None else tile.start + np.flatnonzero(eligible[tile])
        scores = scores if eligible is None else scores[:, allowed - tile.start]
        for query in range(len(queries)):
            have = index[query] >= 0
            values = np.concatenate([best[query][have], scores[query]])
            ids = np.concatenate([index[query][have], allowed])
            chosen = _best(values, ids, k)
            best[query, : len(chosen)] = values[chosen]
            index[query, : len(chosen)] = ids[chosen]


def _best(values: F32, ids: I64, k: int) -> I64:
    """Positions of the k best values, best first, ties by id."""
    candidates = np.arange(len(values))
    if len(values) > k:
        candidates = np.flatnonzero(values >= np.partition(values, -k)[-k])
    order = np.lexsort((ids[candidates], -values[candidates]))
    return candidates[order][:k].astype(np.int64)
