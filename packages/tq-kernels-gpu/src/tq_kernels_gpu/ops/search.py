"""The best rows of each query, straight from packed rows that lie on a device."""

import numpy as np

from tq_core.errors import ShapeMismatch
from tq_core.registry import Plan
from tq_kernels_gpu.device import Array, Device
from tq_kernels_gpu.ops.best import MOST_KEPT, THREADS, best_of, capacity_of, merge, nothing, stacked
from tq_kernels_gpu.ops.scan import Keeping, fits, scan_best, scan_scores
from tq_kernels_gpu.ops.scan8 import can_scan8, scan8
from tq_kernels_gpu.ops.scores import EIGHT_BITS, ONE_PASS, Asked, asked_scores

Found = tuple[Array, Array]


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
) -> Found:
    """The k best rows of each query: `(scores, indices)`, (queries, k) float32 and int64, as VectorCodec.search states.

    Arrays and errors as `scores`; mask (rows,) bool or None, or ShapeMismatch. The scores are those of `scores` at the
    same accuracy, bit for bit, but for -0, which is 0. A few queries keep up to MOST_KEPT rows within the pass.
    """
    asked = asked_scores(device, plan, packed, scales, gammas, queries, accuracy)
    count, rows = len(queries), len(packed)
    keep = min(k, rows)
    if mask is not None:
        if mask.shape != (rows,) or mask.dtype != np.bool_:
            raise ShapeMismatch(f"mask must be ({rows},) bool, got {mask.shape} {mask.dtype}")
        mask = device.xp.ascontiguousarray(mask)
    if not keep or not count:
        return nothing(device, count, k)
    margin = max(4 * keep, keep + 32)
    rough = asked._replace(path=EIGHT_BITS)
    if accuracy == "auto" and asked.path == ONE_PASS and margin < rows and _passes(device, rough, count, margin):
        return _scored_anew(device, asked, k, keep, Keeping(mask, margin, capacity_of(margin)))
    if _passes(device, asked, count, keep):
        return _in_one_pass(device, asked, k, Keeping(mask, keep, capacity_of(keep)))
    return best_of(device, lambda some, tile: asked.scores(device, some, tile), count, rows, k, mask)


def _passes(device: Device, asked: Asked, queries: int, keep: int) -> bool:
    """Whether so many rows can be kept within a pass of the path."""
    if keep > MOST_KEPT:
        return False
    if asked.path == EIGHT_BITS:
        return can_scan8(device, asked.stage, asked.sketch, queries, capacity_of(keep))
    return asked.path == ONE_PASS and fits(device, asked.stage, asked.sketch, queries, capacity_of(keep))


def _in_one_pass(device: Device, asked: Asked, k: int, keeping: Keeping) -> Found:
    given = (asked.stage, asked.sketch, asked.rotated, asked.projected, keeping)
    if asked.path == EIGHT_BITS:
        return merge(device, scan8(device, *given), keeping.keep, k)
    return stacked(device, [merge(device, keys, keeping.keep, k) for keys in scan_best(device, *given)])


def _scored_anew(device: Device, asked: Asked, k: int, keep: int, keeping: Keeping) -> Found:
    """The best of the rows that a pass in 8 bits keeps, by their exact scores."""
    xp, kept = device.xp, keeping.keep
    _, candidates = _in_one_pass(device, asked._replace(path=EIGHT_BITS), kept, keeping)
    found = []
    for query in range(len(candidates)):
        chosen, one = candidates[query], slice(query, query + 1)
        there = xp.maximum(chosen, 0)  # a row that is none gets the key of none
        stage = asked.stage.chosen(there)
        sketch = None if asked.sketch is None else asked.sketch.chosen(there)
        projected = None if asked.projected is None else asked.projected[one]
        scores = scan_scores(device, stage, sketch, asked.rotated[one], projected)
        keys = xp.empty((1, kept, 1), np.uint64)
        arguments = (scores, xp.ascontiguousarray(chosen), np.int64(kept), keys)
        device.module("select").launch("tq_keys", -(-kept // THREADS), THREADS, arguments)
        found.append(merge(device, keys, keep, k))
    return stacked(device, found)
