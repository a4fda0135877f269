"""The device of the tests with a page that nobody may touch right behind, or right before, every array of a launch.

A kernel that reads or writes there ends the process: run it in one of its own.
"""

import ctypes
import mmap

import numpy as np
from shim_device import ShimDevice

PAGE = mmap.PAGESIZE
_libc = ctypes.CDLL(None, use_errno=True)


def fenced(array, side):
    """A copy of an array that ends at a page without access (`side` is "behind"), or begins after one ("before")."""
    pages = -(-array.nbytes // PAGE)
    region = mmap.mmap(-1, (pages + 1) * PAGE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(region))
    fence = start + pages * PAGE if side == "behind" else start
    assert _libc.mprotect(ctypes.c_void_p(fence), ctypes.c_size_t(PAGE), 0) == 0
    offset = pages * PAGE - array.nbytes if side == "behind" else PAGE
    copy = np.frombuffer(region, np.uint8, array.nbytes, offset).view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


class FencedModule:
    """A module whose launches get fenced copies of their arrays, which are copied back."""

    def __init__(self, module, side):
        self._module, self._side = module, side

    def launch(self, kernel, grid, block, args, *, shared=0):
        """As device.Module."""
        given = [fenced(arg, self._side) if isinstance(arg, np.ndarray) and arg.size else arg for arg in args]
        self._module.launch(kernel, grid, block, given, shared=shared)
        for mine, theirs in zip(given, args, strict=True):
            if mine is not theirs and theirs.flags.writeable:
                theirs[...] = mine


class FencedDevice(ShimDevice):
    """A ShimDevice whose kernels get fenced arrays."""

    def __init__(self, side, **options):
        super().__init__(**options)
        self._side = side

    def module(self, name):
        """As device.Device."""
        return FencedModule(super().module(name), self._side)
