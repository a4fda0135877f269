"""Every level decodes as the numpy backend does, bit for bit, and reads nothing but the rows it is given.

This file is also the program that runs in a child process at one level.
"""

from functools import lru_cache

import numpy as np
import pytest
from children import LEVELS, main, passes_at
from placed import at_odd_address, at_page_end

from tq_core.codebook import Codebook, codebook, mixed_codebook
from tq_core.numpy_backend import NumpyBackend
from tq_core.plan import ScalarPlan
from tq_core.radix import RADICES
from tq_core.rotation import Rotation
from tq_kernels_simd import _simd
from tq_kernels_simd.plan import pack_plan

LARGE = (320, 384, 480, 576, 640, 768, 960, 1000, 1024, 1536, 3072)
STRADDLING = (2, 3, 7, 8, 9, 15, 16, 17, 24, 31, 32, 33, 40, 47, 63, 64, 65, 96, 100, 127, 128, 129, 160, 255, 256, 300)
REFERENCE = NumpyBackend()


@lru_cache
def half(bits):
    return codebook(64, bits).half


def plan(dim, bits):
    return ScalarPlan(Rotation(dim, "hadamard", dim), Codebook(dim, bits, half(bits)), "unbiased", (1.0,), None, False)


def check(of, rows, place=np.array):
    """Any bytes are codes: the unused bits of a row, which a writer leaves 0, are set here and must not matter."""
    random = np.random.default_rng(round(4 * (of.dim * 8 + of.codebook.bits)))
    packed = random.integers(0, 256, (rows, of.row_bytes), np.uint8)
    scales = random.lognormal(0, 9, rows).astype(np.float32)
    scales[: rows // 3] = (0.0, 1.0, -2.5, np.inf, 1e-42, 3e38)[: rows // 3]
    given, factors, got = place(packed), place(scales), place(np.full((rows, of.dim), np.nan, np.float32))
    _simd.decode(pack_plan(of), given, factors, got, 1)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):  # an infinite scale times 0
        expected = REFERENCE.decode(of, packed, scales, None)
    where = f"dim {of.dim}, {of.codebook.bits} bits"
    assert got.tobytes() == expected.tobytes(), where
    assert given.tobytes() == packed.tobytes(), f"{where}: the input changed"


def check_dims():
    for dim in (*range(2, 301), *LARGE):
        for bits in (3, 4) if dim % 2 else (1, 2, 7):
            check(plan(dim, bits), 20)


def check_widths():
    for dim in STRADDLING:
        for bits in range(1, 9):
            check(plan(dim, bits), 18)


def check_fractional_widths():
    """Words that no encoder writes give some centroids, the same ones, and nothing outside the tables is read."""
    for dim in (*STRADDLING, 5, 6, 66, 67, 1536):
        for bits in RADICES:
            mixed = ScalarPlan(
                Rotation(dim, "hadamard", dim), mixed_codebook(dim, bits), "unbiased", (1.0,), None, False
            )
            for place in (np.array, at_page_end, at_odd_address):
                check(mixed, 20, place)


def check_places():
    for dim in (2, 7, 12, 24, 31, 33, 40, 63, 64, 65, 96, 100, 127, 128, 129, 300, 1536):
        for bits in range(1, 9):
            for place in (at_page_end, at_odd_address):
                check(plan(dim, bits), 5, place)


def check_threads_and_batches():
    for dim in (33, 128, 1536):
        of = plan(dim, 4)
        random = np.random.default_rng(dim)
        packed = random.integers(0, 256, (150_000 // dim, of.row_bytes), np.uint8)
        scales = random.random(len(packed), np.float32)
        expected = REFERENCE.decode(of, packed, scales, None)
        for rows in (1, 2, 7, 8, 9, len(packed)):
            for threads in (1, 3):
                out = np.empty((rows, dim), np.float32)
                _simd.decode(pack_plan(of), packed[:rows], scales[:rows], out, threads)
                assert out.tobytes() == expected[:rows].tobytes(), f"dim {dim}, {rows} rows"


CHECKS = {
    claim.__name__: claim
    for claim in (check_dims, check_widths, check_fractional_widths, check_places, check_threads_and_batches)
}


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", CHECKS)
def test_every_level_decodes_as_numpy_does(level, name):
    assert passes_at(level, __file__, name)


if __name__ == "__main__":
    main(CHECKS)
