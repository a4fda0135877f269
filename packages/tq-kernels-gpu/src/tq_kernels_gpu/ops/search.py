"""The best rows of each query, straight from packed rows that lie on a device."""

import math
from typing import Any, Final

import numpy as np

from tq_core.registry import Plan
from tq_kernels_gpu.codes import scalar_plan
from tq_kernels_gpu.device import Array, Device
from tq_kernels_gpu.ops.parts import parts_of_scores
from tq_kernels_gpu.ops.scan import Keeping, fits, scan_best
from tq_kernels_gpu.ops.scores import scores, turned_queries

MOST_KEPT: Final = 768  # rows that a block keeps in shared memory, for four queries 32 KiB; more are sorted instead
THREADS: Final = 256
TILE_SCORES: Final = 1 << 26  # scores at once in global memory, 256 MiB
TILE_QUERIES: Final = 256
BLOCKS_A_PROCESSOR: Final = 4


def search(
    device: Device,
    plan: Plan,
    packed: Array,
    scales: Array,
    gammas: Array,
    queries: Array,
    k: int,
    mask: Array,
    accuracy: str,
) -> tuple[Array, Array]:
    """The k best rows of each query: `(scores, indices)`, (queries, k) float32 and int64, as VectorCodec.search states.

    Arrays and errors as `scores`; mask (rows,) bool or None. The scores are those of `scores` at the same accuracy, bit
    for bit, but for -0, which is 0. Up to MOST_KEPT rows are kept within the pass over the rows, more are sorted.
    """
    rows, count = len(packed), len(queries)
    keep = min(k, rows)
    if not keep or not count:
        return _nothing(device, count, k)
    if keep > MOST_KEPT:
        return _sorted(device, plan, packed, scales, gammas, queries, k, mask, accuracy)
    known = scalar_plan(plan)
    stage, sketch = parts_of_scores(device, known, packed, scales, gammas)
    capacity = capacity_of(keep)
    if fits(device, stage, sketch, count, capacity):
        rotated, projected = turned_queries(device, known, queries)
        found = scan_best(device, stage, sketch, rotated, projected, Keeping(mask, keep, capacity))
        merged = [merge(device, keys, keep, k) for keys in found]
        return _stacked(device, merged)
    return _tiled(device, plan, packed, scales, gammas, queries, k, mask, accuracy)


def capacity_of(keep: int) -> int:
    """Keys that a list has room for: those it keeps, and one of every thread."""
    return 1 << (keep + THREADS - 1).bit_length()


def merge(device: Device, keys: Array, keep: int, k: int) -> tuple[Array, Array]:
    """Scores and rows (queries, k) of the best `keep` of keys (queries, any number)."""
    xp, queries = device.xp, len(keys)
    scores_, rows = xp.empty((queries, k), np.float32), xp.empty((queries, k), np.int64)
    capacity = capacity_of(keep)
    arguments = (keys, np.int64(keys.shape[1]), np.int32(keep), np.int32(capacity), scores_, rows, np.int64(k))
    device.module("select").launch("tq_merge", queries, THREADS, arguments, shared=8 * capacity)
    return scores_, rows


def _tiled(
    device: Device,
    plan: Plan,
    packed: Array,
    scales: Array,
    gammas: Array,
    queries: Array,
    k: int,
    mask: Array,
    accuracy: str,
) -> tuple[Array, Array]:
    """By tiles of scores in global memory, each read once by blocks that keep the best of their rows."""
    xp, rows, keep = device.xp, len(packed), min(k, len(packed))
    capacity, merged = capacity_of(keep), []
    for start in range(0, len(queries), TILE_QUERIES):
        some = queries[start : start + TILE_QUERIES]
        step = TILE_SCORES // len(some)
        tiles = [slice(first, min(first + step, rows)) for first in range(0, rows, step)]
        blocks = min(math.ceil(min(step, rows) / THREADS), max(1, BLOCKS_A_PROCESSOR * device.processors // len(some)))
        keys = xp.empty((len(some), len(tiles) * blocks * keep), np.uint64)
        for number, tile in enumerate(tiles):
            part = None if gammas is None else gammas[tile]
            found = scores(device, plan, packed[tile], scales[tile], part, some, accuracy=accuracy)
            arguments = (
                *(found, np.int64(found.shape[1]), np.int64(tile.start), mask, keys),
                *(np.int32(len(tiles) * blocks), np.int32(number * blocks), np.int32(keep), np.int32(capacity)),
            )
            grid = (blocks, len(some))
            device.module("select").launch("tq_select", grid, THREADS, arguments, shared=8 * capacity)
        merged.append(merge(device, keys, keep, k))
    return _stacked(device, merged)


def _sorted(
    device: Device,
    plan: Plan,
    packed: Array,
    scales: Array,
    gammas: Array,
    queries: Array,
    k: int,
    mask: Array,
    accuracy: str,
) -> tuple[Array, Array]:
    """By sorting all scores of some queries at once: a stable sort leaves ties in the order of the rows."""
    xp, rows = device.xp, len(packed)
    best, order = _nothing(device, len(queries), k)
    keep, step = min(k, rows), max(1, TILE_SCORES // rows)
    for start in range(0, len(queries), step):
        some = slice(start, start + step)
        found = scores(device, plan, packed, scales, gammas, queries[some], accuracy=accuracy) + np.float32(0)
        if mask is not None:
            found = xp.where(mask, found, np.float32(-np.inf))
        ranked = xp.argsort(-found, axis=1, kind="stable")[:, :keep]
        best[some, :keep] = xp.take_along_axis(found, ranked, axis=1)
        order[some, :keep] = ranked if mask is None else xp.where(mask[ranked], ranked, -1)
    return best, order


def _nothing(device: Device, queries: int, k: int) -> tuple[Array, Array]:
    return device.xp.full((queries, k), -np.inf, np.float32), device.xp.full((queries, k), -1, np.int64)


def _stacked(device: Device, found: list[tuple[Any, Any]]) -> tuple[Array, Array]:
    if len(found) == 1:
        return found[0]
    return device.xp.concatenate([one[0] for one in found]), device.xp.concatenate([one[1] for one in found])
