"""Every level encodes as the numpy backend does, bit for bit, and touches nothing but the rows it is given.

This file is also the program that runs in a child process at one level.
"""

from functools import lru_cache

import numpy as np
import pytest
from children import LEVELS, main, passes_at
from placed import at_odd_address, at_page_end

from tq_core.codebook import Codebook, codebook
from tq_core.numpy_backend import NumpyBackend
from tq_core.plan import RULES, ScalarPlan, scale_candidates
from tq_core.rotation import Rotation
from tq_core.sketch import Sketch
from tq_core.testing import samples
from tq_kernels_simd import _simd
from tq_kernels_simd.plan import pack_plan

LARGE = (320, 384, 480, 576, 640, 768, 960, 1000, 1024, 1536, 3072)
STRADDLING = (2, 3, 7, 8, 9, 15, 16, 17, 24, 31, 32, 33, 40, 47, 63, 64, 65, 96, 100, 127, 128, 129, 160, 255, 256, 300)
REFERENCE = NumpyBackend()


@lru_cache
def half(bits):
    return codebook(64, bits).half


@lru_cache(maxsize=16)
def rotation(dim):
    return Rotation(dim, "hadamard", dim)


def plan(dim, bits, *, rule="unbiased", search=0, sketch=None, strict=False, book=None):
    # the codebook of another dimension is as good a test, and need not be solved three hundred times
    book = book or Codebook(dim, bits, half(bits))
    return ScalarPlan(rotation(dim), book, rule, scale_candidates(dim, search), sketch, strict)


def rows_of(dim):
    """Gaussian, one-hot, sparse, constant, zero, huge and tiny rows, the last ones subnormal."""
    x = samples(dim, dim)
    x[21] *= np.float32(1e-12)
    x[22] = 0
    x[22, dim // 2] = 1e-45
    return x


def check(of, x, place=np.array):
    packed, scales = np.empty((len(x), of.row_bytes), np.uint8), np.empty(len(x), np.float32)
    gammas = np.empty(len(x), np.float32) if of.sketch is not None else None
    got = [None if array is None else place(array) for array in (packed, scales, gammas)]
    given = place(x)
    _simd.encode(pack_plan(of), given, *got, 1)
    where = f"dim {of.dim}, {of.codebook.bits} bits, {of.rule}, {len(of.candidates)} candidates, {x.dtype}"
    for name, mine, expected in zip(("codes", "scales", "gammas"), got, REFERENCE.encode(of, x), strict=True):
        if expected is not None:
            assert np.array_equal(mine, expected, equal_nan=mine.dtype.kind == "f"), f"{name}: {where}"
    assert given.tobytes() == x.tobytes(), f"{where}: the input changed"


def check_dims():
    for dim in (*range(2, 301), *LARGE):
        for bits in (3, 4) if dim % 2 else (1, 2, 7):
            check(plan(dim, bits), rows_of(dim)[dim % 3 :: 3])


def check_widths_and_rules():
    for dim in STRADDLING:
        for bits in range(1, 9):
            check(plan(dim, bits, rule=RULES[(dim + bits) % 4]), rows_of(dim)[:: 1 + dim // 64])
    for dim in (33, 64, 128):
        for rule in RULES:
            check(plan(dim, 4, rule=rule, book=codebook(dim, 4)), rows_of(dim))


def check_search():
    for dim in (2, 9, 31, 32, 33, 64, 96, 100, 128, 160, 256):
        for bits in (1, 2, 3, 4, 6, 8):
            for search, rule in ((3, "unbiased"), (9, "mse")):
                check(plan(dim, bits, rule=rule, search=search), rows_of(dim)[::2])


def check_sketches():
    for dim in (8, 33, 64, 100, 128):
        for kind in ("gaussian", "hadamard"):
            sketch = Sketch(dim, dim if kind == "hadamard" else dim // 2 + 3, kind, 4)
            for bits in (1, 3, 4, 7):
                check(plan(dim, bits, sketch=sketch), rows_of(dim)[::3])
                check(plan(dim, bits, sketch=sketch, search=3, rule="mse"), rows_of(dim)[1::5])


def check_dtypes():
    for dim in (2, 7, 24, 33, 64, 100, 128, 129, 300, 768):
        x = rows_of(dim).astype(np.float64)
        x[5] *= 1e60
        x[6] *= 1e200  # squares overflow: the scale is infinite or no number, and the caller refuses the row
        x[7] *= 1e-170  # squares vanish
        with np.errstate(over="ignore", under="ignore"):
            small = np.where(np.abs(x) > 6e4, 6e4, x).astype(np.float16)
        small[8] *= np.float16(1e-5)  # subnormal
        for of in (plan(dim, 4), plan(dim, 2, rule="plain"), plan(dim, 6, search=3)):
            check(of, x)
            check(of, small)
        unit = rows_of(dim)[:9].astype(np.float64)
        unit /= np.linalg.norm(unit, axis=1)[:, None]
        for strict in (plan(dim, 4, rule="plain", strict=True), plan(dim, 5, rule="plain", strict=True)):
            for dtype in (np.float16, np.float32, np.float64):
                check(strict, unit.astype(dtype))


def check_clamping():
    """Rows that a strict plan takes as they are and that no int16 holds."""
    for dim in (12, 33, 64, 128, 300):
        x = rows_of(dim)[:10] * np.float32(10) ** np.arange(10, dtype=np.float32)[:, None]
        for bits in (1, 2, 3, 4, 8):
            check(plan(dim, bits, rule="plain", strict=True), x * np.float32(100))
            check(plan(dim, bits, rule="mse", strict=True, search=3), x * np.float32(1e20))


def check_crowded_thresholds():
    """Levels so near each other, some the same, that no table of buckets has one threshold to each."""
    for bits in range(2, 9):
        crowded = tuple(0.4 + 0.0002 * i for i in range(1 << (bits - 1)))
        for dim in (33, 64, 128):
            for search in (0, 3):
                check(plan(dim, bits, rule="mse", search=search, book=Codebook(dim, bits, crowded)), rows_of(dim))


def check_overflow_of_float32():
    """Rows that are infinite as float32 are the caller's to refuse; here they have codes and do no harm."""
    x = np.full((3, 128), 1e200)
    x[1] = 1e39
    x[2, ::2] *= -1
    of = plan(128, 4, rule="plain", strict=True)
    packed, scales = np.zeros((3, of.row_bytes), np.uint8), np.zeros(3, np.float32)
    _simd.encode(pack_plan(of), x, packed, scales, None, 1)
    v = np.frombuffer(packed.tobytes(), np.uint8)
    assert set(np.unique(np.concatenate([v & 15, v >> 4]))) <= {0, 15}, "an infinite coordinate has an outermost code"


def check_places():
    for dim in (2, 7, 12, 24, 31, 33, 40, 63, 64, 65, 96, 100, 127, 128, 129, 300, 1536):
        for bits in (1, 3, 4, 5, 8):
            for place in (at_page_end, at_odd_address):
                check(plan(dim, bits), rows_of(dim)[:5], place)
        for dtype in (np.float16, np.float64):
            check(plan(dim, 2), rows_of(dim)[:4].astype(dtype), at_page_end)


def check_threads_and_batches():
    for dim in (33, 128, 1536):
        x = np.random.default_rng(dim).standard_normal((150_000 // dim, dim), dtype=np.float32)
        of = plan(dim, 4)
        expected = REFERENCE.encode(of, x)
        for rows in (1, 2, 7, 8, 9, len(x)):
            for threads in (1, 3):
                packed, scales = np.empty((rows, of.row_bytes), np.uint8), np.empty(rows, np.float32)
                _simd.encode(pack_plan(of), x[:rows], packed, scales, None, threads)
                assert packed.tobytes() == expected[0][:rows].tobytes(), f"dim {dim}, {rows} rows"
                assert scales.tobytes() == expected[1][:rows].tobytes(), f"dim {dim}, {rows} rows"


CHECKS = {
    claim.__name__: claim
    for claim in (
        check_dims,
        check_widths_and_rules,
        check_search,
        check_sketches,
        check_dtypes,
        check_clamping,
        check_crowded_thresholds,
        check_overflow_of_float32,
        check_places,
        check_threads_and_batches,
    )
}


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", CHECKS)
def test_every_level_encodes_as_numpy_does(level, name):
    assert passes_at(level, __file__, name)


if __name__ == "__main__":
    main(CHECKS)
