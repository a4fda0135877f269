"""Attention over packed rows that lie on a device, in the rotated domain: launches of the kernels, and their splits."""

from typing import Any, Final, NamedTuple

import numpy as np

from tq_kernels_gpu.device import Argument, Array, Device
from tq_kernels_gpu.layout import DTYPES, address
from tq_kernels_gpu.readers import Reader, float_table, half_table
from tq_kernels_gpu.trellis_tables import TRELLIS

HALF_TILE: Final = 32  # tokens of a warp's tile: TQ_TILE of kernels/attend_halves.cu
SLAB: Final = 128  # value dims of a block there, TQ_SLAB
WRITTEN_BYTES: Final = HALF_TILE * (2 * SLAB + 16)  # a tile of halves, TQ_SLAB_BYTES a row
MOST_WARPS: Final = 16  # of 8 query rows, and half as many of 16: all registers of a processor
ENTRY_BYTES: Final = 256  # of a table of codes in shared memory
ROW_BYTES: Final = 24  # TqRow
STATIC_BYTES: Final = 1024  # what a block takes of shared memory beside what it asks for
EXACT_TILE: Final = 64  # TQ_TOKENS of kernels/attend.cu
EXACT_ROWS: Final = 8
EXACT_THREADS: Final = 128


class Stored(NamedTuple):
    """Packed rows of one side: (lanes, tokens, row bytes) uint8 and (lanes, tokens) float16 or float32 scales.

    Rows of a lane lie one behind the other; lanes are any stride apart.
    """

    packed: Array
    scales: Array


class Sight(NamedTuple):
    """What queries see: (count, 2) int64 limits or None, (count, tokens) bool mask or None; logits' scale and cap."""

    limits: Array
    mask: Array
    scale: float
    softcap: float


class Launch(NamedTuple):
    """A launch of an attention kernel, its splits apart."""

    module: str
    kernel: str
    row_blocks: int
    chunks: int
    threads: int
    shared: int
    tile: int  # tokens of one split at the least
    blocks_a_processor: int
    tables: tuple[Array, Array]
    own: tuple[Argument, ...]  # the last kernel parameters


def attend(
    device: Device,
    readers: tuple[Reader, Reader],
    stored: tuple[Stored, Stored],
    queries: Array,
    count: int,
    sight: Sight,
    *,
    exact: bool,
    length: Array = None,
    keep: list[Any] | None = None,
) -> tuple[Array, Array, Array]:
    """Summed values (lanes, rows, value dim), maxima and sums (lanes, rows) of rotated queries (lanes, rows, key dim).

    All float32 and as `Partial` states, but for the values, which are in the rotated domain. Row r of a lane is query
    r % count. `length`: tokens in use, (1,) int64 on the device, or None for all that are stored. `keep` takes
    scratch arrays. Waits for nothing.
    """
    xp = device.xp
    lanes, rows, _ = queries.shape
    tokens, dim = stored[0].packed.shape[1], readers[1].dim
    values = xp.empty((lanes, rows, dim), np.float32)
    maxima, sums = xp.empty((lanes, rows), np.float32), xp.empty((lanes, rows), np.float32)
    if not lanes * rows:
        return values, maxima, sums
    launch = None if exact else halves_launch(device, readers, rows)
    if launch is None:
        launch = exact_launch(device, readers, rows)
    splits = split_count(device, launch, lanes, tokens)
    parts = values, maxima, sums
    if splits > 1:
        parts = tuple(xp.empty((lanes, rows, splits, *tail), np.float32) for tail in ((dim,), (), ()))
    arguments = (
        *_side(stored[0], launch.tables[0], readers[0]),
        *_side(stored[1], launch.tables[1], readers[1]),
        *(queries, sight.limits, sight.mask, np.int64(tokens)),
        *parts,
        *map(np.int32, (rows, count, launch.row_blocks, tokens)),
        *(length, np.float32(sight.scale), np.float32(sight.softcap)),
        *launch.own,
    )
    grid = (launch.row_blocks * launch.chunks, splits, lanes)
    device.module(launch.module).launch(launch.kernel, grid, launch.threads, arguments, shared=launch.shared)
    if keep is not None:
        keep.append(parts)
    if splits > 1:
        joined = (*parts, np.int32(splits), np.int32(dim), values, maxima, sums)
        device.module("attend").launch("tq_merge_splits", lanes * rows, 128, joined)
    return values, maxima, sums


def halves_launch(device: Device, readers: tuple[Reader, Reader], rows: int) -> Launch | None:
    """The launch on tensor cores, as many warps a block as fit; None where not even one does."""
    keys, values = readers
    tables = half_table(device, keys), half_table(device, values)
    columns = 1 if rows <= 8 else 2
    held = min(SLAB, _padded(values.dim))
    writes = not (keys.pair_format and values.pair_format)
    sides = tuple(zip(readers, tables, strict=True))
    fixed = ENTRY_BYTES * max((len(table) for side, table in sides if side.format != TRELLIS), default=0)
    fixed += sum(4 * len(table) for side, table in sides if side.format == TRELLIS)
    fixed += columns * (16 * _padded(keys.dim) + 8 * ROW_BYTES)
    stage = HALF_TILE * (keys.row_bytes + values.row_bytes) + 8 * HALF_TILE
    a_warp = max(2 * stage + (WRITTEN_BYTES if writes else 0), 4 * 8 * columns * (3 + held))
    warps = min(MOST_WARPS // columns, (device.shared_limit - STATIC_BYTES - fixed) // a_warp)
    if warps < 1:
        return None
    return Launch(
        module="attend_halves",
        kernel="tq_attend_halves_8" if columns == 1 else "tq_attend_halves_16",
        row_blocks=-(-rows // (8 * columns)),
        chunks=-(-values.dim // SLAB),
        threads=32 * warps,
        shared=fixed + warps * a_warp,
        tile=HALF_TILE * warps,
        blocks_a_processor=1,
        tables=tables,
        own=tuple(map(np.int32, (len(tables[0]), len(tables[1]), keys.pair_format, values.pair_format))),
    )


def exact_launch(device: Device, readers: tuple[Reader, Reader], rows: int) -> Launch:
    """The launch in float32."""
    keys, values = readers
    room = (device.shared_limit - STATIC_BYTES) // 4 - EXACT_ROWS * EXACT_TILE
    block_rows = max(1, min(EXACT_ROWS, room // keys.dim, rows))
    shared = 4 * max(block_rows * keys.dim + EXACT_ROWS * EXACT_TILE, 8 * EXACT_THREADS)
    return Launch(
        module="attend",
        kernel="tq_attend_exact",
        row_blocks=-(-rows // block_rows),
        chunks=-(-values.dim // (8 * EXACT_THREADS)),
        threads=EXACT_THREADS,
        shared=shared,
        tile=EXACT_TILE,
        blocks_a_processor=4,
        tables=(float_table(device, keys), float_table(device, values)),
        own=(np.int32(block_rows),),
    )


def split_count(device: Device, launch: Launch, lanes: int, tokens: int) -> int:
    """Splits of the tokens: as many as leave every block resident at once, none without a tile for each warp."""
    blocks = lanes * launch.row_blocks * launch.chunks
    resident = device.processors * launch.blocks_a_processor
    return max(1, min(resident // blocks, -(-tokens // launch.tile)))


def _padded(dim: int) -> int:
    return -(-dim // 32) * 32


def _side(stored: Stored, table: Array, rows: Reader) -> tuple[Argument, ...]:
    packed, scales = stored
    return (
        *(address(packed), np.int64(packed.strides[0])),
        *(address(scales), np.int64(scales.strides[0] // scales.itemsize), np.int32(DTYPES[str(scales.dtype)])),
        *(table, *rows.code_arguments),
    )
