"""How rows are laid over blocks and memory: one row a block at a time, in shared memory where it fits."""

from typing import Final, NamedTuple

import numpy as np

from tq_core.errors import InvalidDtype
from tq_kernels_gpu.device import Array, Device

# numbers of dtypes in kernels/types.cuh (uint8 has none there: it is codes alone); bfloat16 travels as uint16
DTYPES: Final = {"float32": 0, "float16": 1, "uint16": 2, "float64": 3, "uint8": 4}
FEWEST_THREADS: Final = 32  # a warp
MOST_THREADS: Final = 256  # __launch_bounds__ of the kernels that hold a row
BLOCKS_A_PROCESSOR: Final = 32  # the most that a processor can hold
WARP_DIMS: Final = (64, 128, 256, 512)  # rotated in the registers of one warp: kernels/warp_rotation.cuh
MOST_ACROSS: Final = 65535  # blocks of a grid's second and third dimension
SCRATCH_BLOCKS: Final = 64  # rows too long for shared memory are few: bounds what they take in global memory


class RowLaunch(NamedTuple):
    """A launch of a kernel that holds one row in each block."""

    grid: int
    block: int
    shared: int
    scratch: Array  # or None, where rows lie in shared memory


def row_floats(dim: int) -> int:
    """Floats that a row takes in shared memory: tq_row_floats of kernels/hadamard.cuh."""
    return (dim + (dim - 1 >> 5) + 2) & ~1


def row_launch(device: Device, rows: int, dim: int, *, buffers: int = 1, beside: int = 0) -> RowLaunch:
    """The launch for `rows` rows of `dim` coordinates, `buffers` rows of floats for each block.

    `beside`: bytes of dynamic shared memory that the kernel needs before them, wherever they lie.
    """
    block = 32 if dim in WARP_DIMS else min(MOST_THREADS, max(FEWEST_THREADS, 1 << (-(-dim // 8) - 1).bit_length()))
    size = 4 * buffers * row_floats(dim)
    if beside + size <= device.shared_limit - 1024:  # less what kernels have in static shared memory
        return RowLaunch(max(1, min(rows, BLOCKS_A_PROCESSOR * device.processors)), block, beside + size, None)
    grid = max(1, min(rows, SCRATCH_BLOCKS))
    return RowLaunch(grid, block, beside, device.xp.empty((grid, size), np.uint8))


def dtype_number(array: Array, allowed: tuple[str, ...], what: str) -> np.int32:
    """The number that kernels know the array's dtype by; InvalidDtype for one that is not allowed."""
    name = str(array.dtype)
    if name not in allowed:
        raise InvalidDtype(f"{what} must be one of {', '.join(allowed)} (uint16: the bits of bfloat16), got {name}")
    return np.int32(DTYPES[name])


def address(array: Array) -> np.uint64:
    """Where an array's first element lies, as a pointer parameter: kernels are told its strides apart."""
    interface = getattr(array, "__cuda_array_interface__", None) or array.__array_interface__
    return np.uint64(interface["data"][0])
