"""Tables of trellis codes on a device, and how their kernels are laid over blocks."""

from typing import Final, NamedTuple

import numpy as np

from tq_core.trellis_table import Trellis
from tq_kernels_gpu.device import Argument, Array, Device
from tq_kernels_gpu.layout import SCRATCH_BLOCKS
from tq_kernels_gpu.tables import kept

TRELLIS: Final = 13  # the format of one bit; kernels/trellis.cuh
THREADS: Final = {8: 32, 256: 32, 1024: 64, 4096: 256}  # of the walk, by states; kernels/trellis_encode.cu
WALKS_A_PROCESSOR: Final = 32  # blocks that a processor can hold at most


class TrellisTables(NamedTuple):
    """The levels of all windows of a code on a device."""

    levels: Array  # (2**window,) int16
    centroids: Array  # (2**window,) float32
    bits: int
    states: int
    nodes: int

    def for_encoding(self) -> tuple[Argument, ...]:
        """The kernel parameters `levels, bits, states, nodes, survivor_bytes`."""
        numbers = (self.bits, self.states, self.nodes, self.survivor_bytes)
        return (self.levels, *(np.int32(number) for number in numbers))

    def for_decoding(self) -> tuple[Argument, ...]:
        """The kernel parameters `centroids, table, format`."""
        return (self.centroids, np.int32(len(self.centroids)), np.int32(self.format))

    @property
    def format(self) -> int:
        """The number that kernels know the packing of its rows by."""
        return TRELLIS + self.bits - 1

    @property
    def survivor_bytes(self) -> int:
        """Bytes that a walk remembers of each coordinate."""
        return min(self.nodes, THREADS[self.states])


class WalkLaunch(NamedTuple):
    """A launch of the walk, one row a block at a time."""

    grid: int
    block: int
    shared: int
    scratch: Array  # the survivors of every block, or None where they lie in shared memory


def trellis_tables(device: Device, code: Trellis) -> TrellisTables:
    """The tables of a code, uploaded at first use."""
    tables: TrellisTables = kept(device).get(code, "trellis", lambda: _upload(device, code))
    return tables


def _upload(device: Device, code: Trellis) -> TrellisTables:
    levels, centroids = device.asarray(code.levels), device.asarray(code.centroids)
    return TrellisTables(levels, centroids, code.bits, code.states, code.nodes)


def walk_launch(device: Device, tables: TrellisTables, rows: int, dim: int) -> WalkLaunch:
    """The launch for `rows` rows of `dim` coordinates."""
    block = THREADS[tables.states]
    shared, survivors = 4 * tables.nodes + 3 * dim, dim * tables.survivor_bytes
    if shared + survivors <= device.shared_limit - 1024:  # less what the kernel has in static shared memory
        return WalkLaunch(min(rows, WALKS_A_PROCESSOR * device.processors), block, shared + survivors, None)
    grid = min(rows, max(SCRATCH_BLOCKS, 4 * device.processors))
    return WalkLaunch(grid, block, shared, device.xp.empty((grid, survivors), np.uint8))
