"""Copies of arrays at places where a kernel's step outside them is a fatal signal, or where alignment is not given."""

import ctypes
import mmap
import os

import numpy as np

PAGE = mmap.PAGESIZE
MPROTECT = ctypes.CDLL(None, use_errno=True).mprotect
MPROTECT.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def at_page_end(array):
    """A copy that ends where a page begins that nobody may touch."""
    return _between_pages(array, -array.nbytes % PAGE)


def at_page_start(array):
    """A copy that begins where a page ends that nobody may touch."""
    return _between_pages(array, 0)


def at_odd_address(array):
    """A copy one item beyond a multiple of 64 bytes: only its dtype aligns it."""
    room = np.zeros(array.size + 65, array.dtype)
    skipped = next(i for i in range(1, 65) if (room.ctypes.data + (i - 1) * array.itemsize) % 64 == 0)
    copy = room[skipped : skipped + array.size].reshape(array.shape)
    copy[...] = array
    return copy


def _between_pages(array, skipped):
    """A copy so many bytes into whole pages with a forbidden page before them and one behind; it keeps them alive."""
    size = -(-array.nbytes // PAGE) * PAGE
    memory = mmap.mmap(-1, size + 2 * PAGE)
    copy = np.frombuffer(memory, array.dtype, array.size, PAGE + skipped).reshape(array.shape)
    copy[...] = array
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for page in (start, start + PAGE + size):
        assert MPROTECT(page, PAGE, 0) == 0, os.strerror(ctypes.get_errno())
    return copy
