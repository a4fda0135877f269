"""Every level rotates as the numpy backend does, bit for bit, and touches nothing but the rows it is given.

This file is also the program that runs in a child process at one level.
"""

import numpy as np
import pytest
from children import LEVELS, main, passes_at
from placed import at_odd_address, at_page_end

from tq_core.numpy_backend import NumpyBackend
from tq_core.rotation import Rotation
from tq_core.testing import samples
from tq_kernels_simd import _simd
from tq_kernels_simd.plan import pack_rotation

LARGE = (320, 384, 480, 576, 640, 768, 960, 1000, 1024, 1280, 1536, 2048, 3072, 4096)
REFERENCE = NumpyBackend()


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
    assert passes_at(level, __file__, name)


if __name__ == "__main__":
    main(CHECKS)
