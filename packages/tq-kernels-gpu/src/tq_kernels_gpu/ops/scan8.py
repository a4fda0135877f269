"""One pass over packed rows for one query in 8 bits (kernels/scan8.cu): a third of the instructions of the exact pass.

What it adds to the error of scores has at most 0.13 of the standard deviation of the quantization error itself, for
queries that no rotated coordinate dominates: the query is rounded to 255 steps, and so is the codebook.
"""

from typing import Final, NamedTuple

import numpy as np

from tq_kernels_gpu.device import Argument, Array, Device
from tq_kernels_gpu.ops.parts import Part
from tq_kernels_gpu.ops.scan import BLOCKS_A_PROCESSOR, SPAN, STATIC, THREADS, Keeping, lanes_of

MOST: Final = 2  # queries, each a pass of its own; four share an exact one
FORMATS: Final = (1, 2, 3, 4)  # widths in bits
ROWS: Final = 4  # for each group of lanes: ROWS of tq_scan8
QUERY_PITCH: Final = 12  # words that a span of a query takes in shared memory: TQ_QUERY_PITCH
STEPS: Final = 127


class Query8(NamedTuple):
    """Queries of one part in int8, as tq_query8 makes them."""

    words: Array  # (queries, dim / 4) uint32
    steps: Array  # (queries,) float32
    sums: Array  # (queries,) int32

    def arguments(self, query: int) -> tuple[Argument, ...]:
        """The kernel parameters `words, steps, sums` of one of them."""
        one = slice(query, query + 1)
        return (self.words[one], self.steps[one], self.sums[one])


def can_scan8(device: Device, stage: Part, sketch: Part | None, queries: int, capacity: int = 0) -> bool:
    """Whether rows of these parts have a pass in 8 bits, and these queries are few enough for it to pay."""
    parts = [stage] if sketch is None else [stage, sketch]
    if queries > MOST or any(part.format not in FORMATS or part.dim % SPAN for part in parts):
        return False
    return _shared(stage, sketch, capacity) <= device.shared_limit - STATIC


def queries8(device: Device, part: Part, queries: Array) -> Query8:
    """Queries (queries, dim) float32 in int8 for a part of that dim."""
    xp, count = device.xp, len(queries)
    words = xp.empty((count, part.dim // 4), np.uint32)
    made = Query8(words, xp.empty(count, np.float32), xp.empty(count, np.int32))
    if count:  # cupy makes one block of none
        arguments = (xp.ascontiguousarray(queries), np.int32(part.dim), np.int32(part.format), *made)
        device.module("scan8").launch("tq_query8", count, THREADS, arguments)
    return made


def scan8(
    device: Device, stage: Part, sketch: Part | None, rotated: Array, projected: Array, keeping: Keeping | None
) -> Array:
    """Scores (queries, rows) float32, or with `keeping` keys (queries, blocks, keep) uint64."""
    xp, rows, queries = device.xp, len(stage.packed), len(rotated)
    first = queries8(device, stage, rotated)
    second = None if sketch is None else queries8(device, sketch, projected)
    keep, capacity = (0, 0) if keeping is None else (keeping.keep, keeping.capacity)
    lanes = lanes_of(stage.dim)
    blocks = max(1, min(-(-rows // (THREADS // lanes * ROWS)), BLOCKS_A_PROCESSOR * device.processors))
    made = xp.empty((queries, rows), np.float32) if keeping is None else xp.empty((queries, blocks, keep), np.uint64)
    for query in range(queries if rows else 0):
        one = made[query : query + 1]
        arguments = (
            *(stage.packed, np.int64(rows), np.int32(stage.packed.shape[1]), np.int32(stage.dim)),
            *(np.int32(stage.format), *_book(stage), *first.arguments(query)),
            *(np.float32(stage.factor * _step(stage)), *stage.factors()),
            *_sketch_arguments(sketch, second, query),
            *(np.int32(lanes), *((one, None, None) if keeping is None else (None, keeping.mask, one))),
            *(np.int32(keep), np.int32(capacity)),
        )
        shared = _shared(stage, sketch, capacity)
        device.module("scan8").launch("tq_scan8", blocks, THREADS, arguments, shared=shared)
    return made


def _shared(stage: Part, sketch: Part | None, capacity: int) -> int:
    words = sum(part.dim // SPAN * QUERY_PITCH for part in (stage, sketch) if part is not None)
    return 8 * capacity + 4 * (words + 2 * ROWS * (THREADS // lanes_of(stage.dim)))


def _sketch_arguments(sketch: Part | None, queries: Query8 | None, query: int) -> tuple[Argument, ...]:
    if sketch is None or queries is None:
        return (np.int32(0), np.int32(0), None, None, None, np.float32(0), None, np.int32(0))
    numbers = np.int32(sketch.offset), np.int32(sketch.dim)
    return (*numbers, *queries.arguments(query), np.float32(sketch.factor), *sketch.factors())


def _step(part: Part) -> float:
    """What one step of the codebook in bytes stands for; one bit is -1 and 1 there."""
    return part.magnitude if part.format == 1 else part.magnitude / STEPS


def _book(part: Part) -> tuple[np.uint32, np.uint32]:
    """The kernel parameters `low, high` (TqBook8) of a part, from its ascending centroids."""
    if part.format == 1:
        return np.uint32(0), np.uint32(0)
    steps = np.rint(np.array(part.levels) / part.magnitude * STEPS).astype(np.int8)
    held = steps[8:] if part.format == 4 else steps
    words = np.zeros(8, np.int8)
    words[: len(held)] = held
    low, high = words.view("<u4")
    return np.uint32(low), np.uint32(high)
