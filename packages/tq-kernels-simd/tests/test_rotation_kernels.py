"""Every level rotates as the numpy backend does, bit for bit, and touches nothing but the rows it is given.

This file is also the program that runs in a child process at one level.
"""

import ctypes
import mmap
import os
import subprocess
import sys

import numpy as np
import pytest

from tq_core.numpy_backend import NumpyBackend
from tq_core.rotation import Rotation
from tq_core.testing import samples
from tq_kernels_simd import _simd
from tq_kernels_simd.plan import pack_rotation

LEVELS = [name for name, state in _simd.levels().items() if state == "ok"]
LARGE = (320, 384, 480, 576, 640, 768, 960, 1000, 1024, 1280, 1536, 2048, 3072, 4096)
REFERENCE = NumpyBackend()


def at_page_end(array):
    """A copy of the array that ends where readable memory ends."""
    page = mmap.PAGESIZE
    size = (array.nbytes + page - 1) // page * page
    memory = mmap.mmap(-1, size + page)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    protect = ctypes.CDLL(None, use_errno=True).mprotect
    assert protect(ctypes.c_void_p(start + size), ctypes.c_size_t(page), 0) == 0, os.strerror(ctypes.get_errno())
    flat = np.frombuffer(memory, np.uint8, array.nbytes, size - array.nbytes)
    copy = flat.view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def at_odd_address(array):
    """A copy of the array at an address that only its dtype aligns."""
    room = np.zeros(array.size + 32, array.dtype)
    skipped = next(i for i in range(1, 32) if (room.ctypes.data + i * array.itemsize) % 16 == 4)
    copy = room[skipped : skipped + array.size].reshape(array.shape)
    copy[...] = array
    return copy


def rows_of(dim):
    x = samples(dim, dim)
    x[22] = 0
    x[22, dim // 2] = 1e-42
    return x


def check(rotation, x, place):
    packed = pack_rotation(rotation)
    for inverse, expected in ((0, REFERENCE.rotate(rotation, x)), (1, REFERENCE.unrotate(rotation, x))):
        given, got = place(x), place(np.full_like(x, np.nan))
        _simd.rotate(packed, given, got, inverse, 1)
        where = f"dim {rotation.dim}, {rotation.rounds} rounds, inverse {inverse}"
        assert got.tobytes() == expected.tobytes(), where
        assert given.tobytes() == x.tobytes(), f"{where}: the input changed"


def check_dims():
    for dim in (*range(2, 301), *LARGE):
        check(Rotation(dim, "hadamard", dim), rows_of(dim), np.array)


def check_places():
    for dim in (2, 3, 7, 12, 20, 24, 31, 40, 48, 63, 64, 65, 80, 96, 100, 127, 128, 129, 160, 192, 256, 300, 1536):
        for place in (at_page_end, at_odd_address):
            check(Rotation(dim, "hadamard", 3), rows_of(dim)[:7], place)


def check_rounds():
    for dim in (12, 33, 40, 64, 96, 100, 128, 256, 384, 640):
        for rounds in (1, 2, 3):
            rotation = Rotation(dim, "hadamard", 5)
            rotation.rounds = rounds
            check(rotation, rows_of(dim), np.array)


def check_large_batch():
    """Beyond the size from which results are written past the cache, on one and on several threads."""
    for dim in (100, 128, 1536):
        x = np.random.default_rng(dim).standard_normal((26_000_000 // (4 * dim), dim), dtype=np.float32)
        rotation = Rotation(dim, "hadamard", 2)
        for inverse in (0, 1):
            few = np.empty_like(x[:64])
            packed = pack_rotation(rotation)
            for threads in (1, 2):
                out = at_odd_address(x) if threads == 2 else np.empty_like(x)
                _simd.rotate(packed, x, out, inverse, threads)
                for start in (0, len(x) // 2, len(x) - 64):
                    _simd.rotate(packed, x[start : start + 64], few, inverse, 1)
                    assert out[start : start + 64].tobytes() == few.tobytes(), f"dim {dim}, rows from {start}"


CHECKS = {claim.__name__: claim for claim in (check_dims, check_places, check_rounds, check_large_batch)}


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", CHECKS)
def test_every_level_rotates_as_numpy_does(level, name):
    environment = {**os.environ, "TQ_ISA": level}
    child = subprocess.run([sys.executable, __file__, name], env=environment, capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    assert child.stdout.split() == [level], "the child ran another level"


if __name__ == "__main__":
    CHECKS[sys.argv[1]]()
    print(_simd.level())  # noqa: T201
