"""Sign sketches: bits equal to numpy's whatever the size of the residuals, estimates within rounding."""

import numpy as np
import pytest
from children import OTHER_LEVELS, rerun

from tq_core import QJL, TurboQuantError, TurboQuantProd, errors
from tq_core.numpy_backend import NumpyBackend
from tq_core.sketch import Sketch
from tq_kernels_simd import _simd
from tq_kernels_simd.backend import SimdBackend
from tq_kernels_simd.plan import pack_plan, pack_sketch

NUMPY, SIMD = NumpyBackend(), SimdBackend()


def integers(rows, dim, limit, seed=0):
    found = np.random.default_rng(seed).integers(-limit, limit + 1, (rows, dim))
    found[: len(found) // 4] //= 1 << 9
    return found.astype(np.int64)


@pytest.mark.parametrize("limit", [1, 3000, 32767, 32768, 1 << 20, (1 << 31) - 1])
def test_gaussian_signs_are_exact_for_residuals_of_any_size(limit):
    for dim, projections in (
        (2, 2),
        (3, 9),
        (15, 8),
        (16, 16),
        (17, 65),
        (33, 31),
        (64, 64),
        (100, 100),
        (129, 40),
        (256, 7),
    ):
        sketch, residuals = Sketch(dim, projections, "gaussian", 5), integers(9, dim, limit)
        assert (SIMD.sketch(sketch, residuals) == NUMPY.sketch(sketch, residuals)).all(), (dim, projections)


@pytest.mark.parametrize("rows", [1, 2, 5, 15, 16, 17, 33])
def test_gaussian_signs_do_not_depend_on_the_rows_beside_them(rows):
    sketch, residuals = Sketch(70, 71, "gaussian", 5), integers(40, 70, 3000)
    residuals[3, 5] = 1 << 20  # too great for the arithmetic of its neighbours
    assert (SIMD.sketch(sketch, residuals[:rows]) == NUMPY.sketch(sketch, residuals)[:rows]).all()


def test_structured_signs_are_those_of_numpy():
    for dim in (2, 3, 8, 12, 17, 20, 48, 64, 100, 129, 256, 768):
        sketch, residuals = Sketch(dim, dim, "hadamard", 5), integers(9, dim, 30000)
        assert (SIMD.sketch(sketch, residuals) == NUMPY.sketch(sketch, residuals)).all(), dim


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("size", [2048, 32767, (1 << 31) - 1])
def test_the_largest_sums_keep_their_sign(sign, size):
    """Every entry at its limit, and one more on the other side: a wrapped lane would turn the sign."""
    dim = 4096
    sketch = Sketch(dim, 9, "gaussian", 5)
    sketch.matrix = np.full((9, dim), 32767, np.int16)
    residuals = np.full((2, dim), sign * size, np.int64)
    residuals[1, ::2] *= -1
    residuals[1, 0] = 0  # leaves one entry of the other sign too many
    bits = np.unpackbits(SIMD.sketch(sketch, residuals), axis=1, bitorder="little", count=9)
    assert (bits[0] == (sign > 0)).all()
    assert (bits[1] == (sign > 0)).all()


def test_a_sum_of_zero_is_positive_and_unused_bits_are_zero():
    sketch = Sketch(33, 13, "gaussian", 5)
    assert (SIMD.sketch(sketch, np.zeros((3, 33), np.int64)) == [255, 31]).all()


def test_threads_do_not_change_bits():
    sketch, residuals = Sketch(64, 64, "gaussian", 5), integers(900, 64, 32767)
    assert (SimdBackend(2).sketch(sketch, residuals) == SIMD.sketch(sketch, residuals)).all()


@pytest.mark.parametrize("kind", ["gaussian", "hadamard"])
def test_sketch_scores_are_those_of_numpy_within_rounding(kind):
    for dim in (2, 9, 33, 64, 100, 128, 257):
        sketch = Sketch(dim, dim, kind, 5)
        bits = SIMD.sketch(sketch, integers(70, dim, 30000))
        queries = np.random.default_rng(2).standard_normal((5, dim)).astype(np.float32)
        expected = NUMPY.sketch_scores(sketch, bits, queries)
        assert np.allclose(
            SIMD.sketch_scores(sketch, bits, queries), expected, rtol=1e-5, atol=1e-5 * abs(expected).max()
        ), dim


@pytest.mark.parametrize("sketch", ["gaussian", "hadamard"])
def test_qjl_and_prod_agree_with_numpy(sketch):
    x = np.random.default_rng(4).standard_normal((40, 100)).astype(np.float32)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    for make in (
        lambda name: QJL(100, sketch=sketch, backend=name),
        lambda name: TurboQuantProd(100, 3, sketch=sketch, backend=name),
    ):
        fast, slow = make("simd"), make("numpy")
        codes = fast.quantize(unit)
        assert codes.to_bytes() == slow.quantize(unit).to_bytes()
        assert np.allclose(fast.scores(codes, x[:6]), slow.scores(codes, x[:6]), rtol=1e-4, atol=1e-4)
        assert np.allclose(fast.dequantize(codes), slow.dequantize(codes), rtol=1e-4, atol=1e-4)


def test_no_rows_have_no_bits():
    sketch = Sketch(64, 40, "gaussian", 5)
    assert SIMD.sketch(sketch, np.empty((0, 64), np.int64)).shape == (0, 5)
    assert SIMD.sketch_scores(sketch, np.empty((0, 5), np.uint8), np.ones((2, 64), np.float32)).shape == (2, 0)


@pytest.mark.parametrize("level", OTHER_LEVELS)
def test_every_other_level_passes_this_file(level):
    rerun(__file__, level)


SKETCH = Sketch(64, 40, "gaussian", 5)
GOOD = {
    "plan": pack_sketch(SKETCH),
    "residuals": integers(3, 64, 100),
    "out": np.zeros((3, 5), np.uint8),
    "threads": 1,
}
TOO_LARGE = integers(3, 64, 100)
TOO_LARGE[1, 7] = 1 << 31
BAD = {
    "a plan without a sketch": (
        "plan",
        pack_plan(TurboQuantProd(64, 3).plan._replace(sketch=None)),
        errors.InvalidSpec,
        "plan must have a sketch",
    ),
    "residuals in int32": (
        "residuals",
        integers(3, 64, 9).astype(np.int32),
        errors.InvalidDtype,
        "residuals .*'q', got 'i'",
    ),
    "residuals of another dim": (
        "residuals",
        integers(3, 65, 9),
        errors.ShapeMismatch,
        r"residuals .*\(n, 64\), got \(3, 65\)",
    ),
    "residuals beyond 32 bits": (
        "residuals",
        TOO_LARGE,
        errors.ScaleRange,
        r"residuals\[1, 7\] is 2147483648; 32-bit integers",
    ),
    "out of another width": ("out", np.zeros((3, 8), np.uint8), errors.ShapeMismatch, r"out .*\(3, 5\), got \(3, 8\)"),
    "no threads": ("threads", 0, errors.InvalidSpec, "threads must be an integer"),
}


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_argument_is_named_and_nothing_is_written(fault):
    name, value, error, message = BAD[fault]
    GOOD["out"][:] = 7
    with pytest.raises(error, match=message) as caught:
        _simd.sketch(*{**GOOD, name: value}.values())
    assert isinstance(caught.value, TurboQuantError)
    assert (GOOD["out"] == 7).all()
