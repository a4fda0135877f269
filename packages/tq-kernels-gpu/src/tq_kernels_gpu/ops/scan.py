"""One pass over packed rows for a few queries: their scores, or the best rows by them (kernels/scan.cu)."""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from tq_kernels_gpu.device import Argument, Array, Device
from tq_kernels_gpu.ops.parts import Part
from tq_kernels_gpu.trellis_tables import TRELLIS

FEW: Final = 8  # queries beyond which rows are better decoded once for a tile of queries
AT_ONCE: Final = 4  # queries of one pass: tq_scan_four
SPAN: Final = 32  # coordinates of a lane's load: TQ_SPAN of kernels/scan.cuh
QUERY_SPAN: Final = 36  # floats that a span of a query takes in shared memory: TQ_QUERY_SPAN
THREADS: Final = 256
LANES: Final = 32
WASTE: Final = 1.25  # lanes that share a row may take up to this much of what its spans need
BLOCKS_A_PROCESSOR: Final = 3  # resident at 80 registers a thread
STATIC: Final = 1024  # bytes left for what the kernels have in static shared memory


class Keeping(NamedTuple):
    """What a pass keeps instead of scores: the best `keep` keys of each block, in a list of `capacity`."""

    mask: Array  # (rows,) bool, or None
    keep: int
    capacity: int


class Pass(NamedTuple):
    """A launch of tq_scan_one or tq_scan_four."""

    kernel: str
    queries: int  # that it has room for
    rows: int  # for each group of lanes
    lanes: int
    blocks: int
    shared: int


def lanes_of(dim: int) -> int:
    """The number of lanes that share a row: as many as its spans keep busy, a power of two up to 32."""
    spans = -(-dim // SPAN)
    return max(n for n in (1, 2, 4, 8, 16, 32) if n == 1 or -(-spans // n) * n <= WASTE * spans)


def copies_of(device: Device, part: Part) -> int:
    """Copies of the centroids in shared memory: one a lane, or as many as a third of it holds of a trellis' windows."""
    if part.format < TRELLIS:
        return LANES
    return min(LANES, 1 << max(1, device.shared_limit // (3 * 4 * len(part.centroids))).bit_length() - 1)


def plan_pass(device: Device, stage: Part, sketch: Part | None, queries: int, capacity: int = 0) -> Pass:
    """The launch for up to AT_ONCE queries."""
    kernel, room, rows = ("tq_scan_one", 1, 4) if queries == 1 else ("tq_scan_four", AT_ONCE, 2)
    lanes = lanes_of(stage.dim)
    count = THREADS // lanes * rows
    floats = sum(-(-part.dim // SPAN) * QUERY_SPAN for part in (stage, sketch) if part is not None) * room
    floats += copies_of(device, stage) * _table(stage) + 2 * room * count
    blocks = max(1, min(-(-len(stage.packed) // count), BLOCKS_A_PROCESSOR * device.processors))
    return Pass(kernel, room, rows, lanes, blocks, 4 * floats + 8 * room * capacity)


def fits(device: Device, stage: Part, sketch: Part | None, queries: int, capacity: int = 0) -> bool:
    """Whether a pass for these queries is worth it and has room for them in shared memory."""
    if queries > FEW:
        return False
    return plan_pass(device, stage, sketch, min(queries, AT_ONCE), capacity).shared <= device.shared_limit - STATIC


def scan_scores(device: Device, stage: Part, sketch: Part | None, rotated: Array, projected: Array) -> Array:
    """Scores (queries, rows) float32. `rotated` (queries, dim), `projected` (queries, projections) or None."""
    out = device.xp.empty((len(rotated), len(stage.packed)), np.float32)
    if out.size:
        for start in range(0, len(rotated), AT_ONCE):
            some = slice(start, start + AT_ONCE)
            _scan(device, stage, sketch, rotated[some], None if projected is None else projected[some], out[some], None)
    return out


def scan_best(
    device: Device, stage: Part, sketch: Part | None, rotated: Array, projected: Array, keeping: Keeping
) -> Sequence[Array]:
    """The keys that each block kept, (queries, blocks, keep) uint64, for up to AT_ONCE queries at a time."""
    return [
        _scan(device, stage, sketch, rotated[some], None if projected is None else projected[some], None, keeping)
        for some in (slice(start, start + AT_ONCE) for start in range(0, len(rotated), AT_ONCE))
    ]


def _scan(
    device: Device,
    stage: Part,
    sketch: Part | None,
    rotated: Array,
    projected: Array,
    out: Array,
    keeping: Keeping | None,
) -> Array:
    xp, queries = device.xp, len(rotated)
    capacity = 0 if keeping is None else keeping.capacity
    launch = plan_pass(device, stage, sketch, queries, capacity)
    keys = None if keeping is None else xp.empty((queries, launch.blocks, keeping.keep), np.uint64)
    arguments = (
        *(stage.packed, np.int64(len(stage.packed)), np.int32(stage.packed.shape[1])),
        *(np.int32(stage.bytes), np.int32(stage.dim), np.int32(stage.format)),
        *(stage.centroids, np.int32(_table(stage)), np.int32(copies_of(device, stage))),
        *(xp.ascontiguousarray(rotated), _factor(stage), *stage.factors()),
        *_sketch_arguments(device, sketch, projected),
        *(np.int32(queries), np.int32(launch.lanes), out),
        *(None if keeping is None else keeping.mask, keys),
        *(np.int32(0 if keeping is None else keeping.keep), np.int32(capacity)),
    )
    device.module("scan").launch(launch.kernel, launch.blocks, THREADS, arguments, shared=launch.shared)
    return keys


def _sketch_arguments(device: Device, sketch: Part | None, projected: Array) -> tuple[Argument, ...]:
    if sketch is None:
        return (np.int32(0), np.int32(0), None, np.float32(0), None, np.int32(0))
    numbers = np.int32(sketch.offset), np.int32(sketch.dim)
    return (*numbers, device.xp.ascontiguousarray(projected), _factor(sketch), *sketch.factors())


def _table(part: Part) -> int:
    """Entries of the table in shared memory; one bit needs none."""
    return 0 if part.format == 1 else len(part.centroids)


def _factor(part: Part) -> np.float32:
    """With the magnitude of one bit's centroids, which the kernel takes as -1 and 1."""
    return np.float32(part.factor * (part.magnitude if part.format == 1 else 1.0))
