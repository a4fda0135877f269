"""The best rows by scores that come in tiles, or of keys that blocks of a device kept (kernels/topk.cuh)."""

import math
from collections.abc import Callable
from typing import Final

import numpy as np

from tq_kernels_gpu.device import Array, Device

MOST_KEPT: Final = 768  # rows that a block keeps in shared memory, for four queries 32 KiB; more are sorted instead
THREADS: Final = 256
TILE_SCORES: Final = 1 << 26  # scores at once in global memory, 256 MiB
TILE_QUERIES: Final = 256
BLOCKS_A_PROCESSOR: Final = 4

Score = Callable[[slice, slice], Array]  # some queries and a tile of rows to their scores, (queries, rows) float32


def best_of(device: Device, score: Score, queries: int, rows: int, k: int, mask: Array) -> tuple[Array, Array]:
    """Scores and rows (queries, k) float32 and int64, descending, ties to the lower row; -inf and -1 behind the last.

    mask (rows,) bool or None. Up to MOST_KEPT rows are selected from each tile of scores, more are sorted.
    """
    keep = min(k, rows)
    if not keep or not queries:
        return nothing(device, queries, k)
    if keep > MOST_KEPT:
        return _sorted(device, score, queries, rows, k, mask)
    merged, step = [], max(1, TILE_SCORES // min(queries, TILE_QUERIES))
    tiles = [slice(first, min(first + step, rows)) for first in range(0, rows, step)]
    for some in _slices(queries, TILE_QUERIES):
        keys = _selected(device, score, some, tiles, keep, mask)
        merged.append(merge(device, keys, keep, k))
    return stacked(device, merged)


def capacity_of(keep: int) -> int:
    """Keys that a list has room for: those it keeps, and one of every thread."""
    return 1 << (keep + THREADS - 1).bit_length()


def merge(device: Device, keys: Array, keep: int, k: int) -> tuple[Array, Array]:
    """Scores and rows (queries, k) of the best `keep` of keys (queries, lists, keys of a list), lists descending."""
    xp, (queries, lists, each) = device.xp, keys.shape
    scores, rows = xp.empty((queries, k), np.float32), xp.empty((queries, k), np.int64)
    capacity = capacity_of(keep)
    numbers = np.int32(lists), np.int32(each), np.int32(keep), np.int32(capacity)
    arguments = (keys, *numbers, scores, rows, np.int64(k))
    device.module("select").launch("tq_merge", queries, THREADS, arguments, shared=8 * capacity)
    return scores, rows


def nothing(device: Device, queries: int, k: int) -> tuple[Array, Array]:
    """Results without a row."""
    return device.xp.full((queries, k), -np.inf, np.float32), device.xp.full((queries, k), -1, np.int64)


def stacked(device: Device, found: list[tuple[Array, Array]]) -> tuple[Array, Array]:
    """The results of several groups of queries as one."""
    if len(found) == 1:
        return found[0]
    return device.xp.concatenate([one[0] for one in found]), device.xp.concatenate([one[1] for one in found])


def _selected(device: Device, score: Score, some: slice, tiles: list[slice], keep: int, mask: Array) -> Array:
    """The keys that blocks keep of each tile, (queries, lists, keep) uint64."""
    queries, widest = some.stop - some.start, tiles[0].stop
    blocks = min(math.ceil(widest / THREADS), max(1, BLOCKS_A_PROCESSOR * device.processors // queries))
    capacity, lists = capacity_of(keep), len(tiles) * blocks
    keys = device.xp.empty((queries, lists, keep), np.uint64)
    for number, tile in enumerate(tiles):
        scores = score(some, tile)
        arguments = (
            *(scores, np.int64(tile.stop - tile.start), np.int64(tile.start), mask, keys),
            *(np.int32(lists), np.int32(number * blocks), np.int32(keep), np.int32(capacity)),
        )
        grid = (blocks, queries)
        device.module("select").launch("tq_select", grid, THREADS, arguments, shared=8 * capacity)
    return keys


def _sorted(device: Device, score: Score, queries: int, rows: int, k: int, mask: Array) -> tuple[Array, Array]:
    """By sorting all scores of some queries at once: a stable sort leaves ties in the order of the rows."""
    xp, keep = device.xp, min(k, rows)
    best, order = nothing(device, queries, k)
    for some in _slices(queries, max(1, TILE_SCORES // rows)):
        scores = score(some, slice(0, rows)) + np.float32(0)  # -0 becomes 0
        if mask is not None:
            scores = xp.where(mask, scores, np.float32(-np.inf))
        ranked = xp.argsort(-scores, axis=1, kind="stable")[:, :keep]
        best[some, :keep] = xp.take_along_axis(scores, ranked, axis=1)
        order[some, :keep] = ranked if mask is None else xp.where(mask[ranked], ranked, -1)
    return best, order


def _slices(count: int, step: int) -> list[slice]:
    return [slice(start, min(start + step, count)) for start in range(0, count, step)]
