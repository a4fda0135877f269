"""Arrays that break the contract are refused by every class, before anything is computed or changed."""

import numpy as np
import pytest

from tq_core import (
    QJL,
    InvalidDimension,
    InvalidDtype,
    InvalidSpec,
    NotFinite,
    NotUnitNorm,
    PolarQuant,
    ScaleRange,
    ShapeMismatch,
    SpecMismatch,
    TurboQuantMSE,
    TurboQuantProd,
    VectorCodec,
    ZeroVector,
    normalize,
)
from tq_core.checks import FEW, is_finite


@pytest.mark.parametrize("size", [1, 7, FEW, FEW + 1])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4"])
def test_finite_is_told_of_few_numbers_as_of_many(size, dtype):
    largest = np.finfo(np.dtype(dtype).newbyteorder("=")).max
    for fill in (0.0, 1.0, largest, -largest):  # squares of the largest are infinite
        numbers = np.full((1, size), fill, dtype)
        assert is_finite(numbers)
        for value in (np.nan, np.inf, -np.inf):
            numbers[0, size // 2] = value
            assert not is_finite(numbers)
    assert is_finite(np.empty((0, size), dtype))


@pytest.mark.parametrize("shape", [(), (1, 1, None), (2, 0), (3, -1), (None, 1), (0,), (1, 2, 3, 4)])
def test_wrong_ranks_and_dimensions(encoder, shape):
    shape = tuple(encoder.dim if size is None else encoder.dim - 1 if size == -1 else size for size in shape)
    with pytest.raises(ShapeMismatch, match=rf"x must have shape \({encoder.dim},\) or \(rows, {encoder.dim}\), got"):
        encoder.encode(np.ones(shape, np.float32))


@pytest.mark.parametrize(
    "dtype", ["int8", "int64", "uint32", "bool", "complex64", "complex128", "longdouble", "U1", "O", "M8[s]"]
)
def test_dtypes_are_never_coerced(encoder, dtype):
    with pytest.raises(InvalidDtype, match="x must be float16, float32 or float64, got"):
        encoder.encode(np.zeros((2, encoder.dim), dtype))


@pytest.mark.parametrize("x", ["text", None, [["a", "b"]], {"x": 1}, object()])
def test_what_is_no_array_of_numbers(encoder, x):
    with pytest.raises(InvalidDtype, match="x must be float16, float32 or float64, got"):
        encoder.encode(x)


def test_ragged_lists(encoder):
    with pytest.raises(ShapeMismatch, match="x must be an array of rows of one length"):
        encoder.encode([[1.0] * encoder.dim, [1.0] * (encoder.dim - 1)])


def test_what_refuses_to_become_an_array(encoder):
    class OnDevice:
        def __array__(self, dtype=None, copy=None):
            raise TypeError("implicit conversion is not allowed")

    with pytest.raises(InvalidDtype, match="x cannot be read as a numpy array: implicit conversion"):
        encoder.encode(OnDevice())


def test_masked_arrays_would_lose_their_mask(encoder, unit_rows):
    with pytest.raises(InvalidDtype, match="x is a masked array and its mask would be lost"):
        encoder.encode(np.ma.masked_array(unit_rows(2, encoder.dim), mask=True))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_values_that_are_not_finite_are_named_by_coordinate(encoder, unit_rows, value, dtype):
    x = unit_rows(4, encoder.dim).astype(dtype)
    x[2, 7] = value
    x[3, 1] = value
    with pytest.raises(NotFinite, match=rf"x\[2, 7\] is {value}; all values must be finite"):
        encoder.encode(x)
    with pytest.raises(NotFinite, match=rf"x\[7\] is {value}; all values must be finite"):
        encoder.encode(x[2])


@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 4e-3), ("float32", 1e-4), ("float64", 1e-6)])
def test_norms_off_by_more_than_the_tolerance_of_the_dtype(strict_quantizer, unit_rows, dtype, tolerance):
    x = unit_rows(3, strict_quantizer.dim).astype(np.float64)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    good, bad = x.copy(), x.copy()
    good[1] *= 1 + 0.8 * tolerance
    bad[1] *= 1 + 1.3 * tolerance
    assert len(strict_quantizer.quantize(good.astype(dtype))) == 3
    with pytest.raises(NotUnitNorm, match=rf"row 1 has norm .*expected 1 within {tolerance:g} for {dtype}; normalize"):
        strict_quantizer.quantize(bad.astype(dtype))


@pytest.mark.parametrize("factor", [0.0, 0.5, 2.0, 1e-200, 1e200])
def test_rows_that_are_far_from_unit_norm(strict_quantizer, unit_rows, factor):
    with pytest.raises(NotUnitNorm, match="row 0 has norm"):
        strict_quantizer.quantize(unit_rows(1, strict_quantizer.dim).astype(np.float64) * factor)


def test_queries_of_the_wrong_dimension(encoder, unit_rows):
    made = encoder.encode(unit_rows(2, encoder.dim))
    with pytest.raises(ShapeMismatch, match=rf"queries must have shape \({encoder.dim},\)"):
        encoder.scores(made, np.ones((1, encoder.dim + 1), np.float32))


def test_queries_of_integers(encoder, unit_rows):
    made = encoder.encode(unit_rows(2, encoder.dim))
    with pytest.raises(InvalidDtype, match="queries must be float16, float32 or float64, got int64"):
        encoder.scores(made, np.ones((1, encoder.dim), np.int64))


def test_queries_that_are_not_finite(encoder, unit_rows):
    made = encoder.encode(unit_rows(2, encoder.dim))
    queries = np.zeros((3, encoder.dim))
    queries[1, 5] = np.nan
    with pytest.raises(NotFinite, match=r"queries\[1, 5\] is nan"):
        encoder.scores(made, queries)


@pytest.mark.parametrize("value", [1e20, -1e38, 1e300])
def test_queries_that_would_overflow_on_the_way(encoder, unit_rows, value):
    made = encoder.encode(unit_rows(2, encoder.dim))
    queries = np.zeros((3, encoder.dim))
    queries[2, 3] = value
    with pytest.raises(ScaleRange, match=r"queries\[2, 3\] is .*scale the queries down"):
        encoder.scores(made, queries)


def test_the_largest_queries_score_without_overflow(encoder, unit_rows):
    made = encoder.encode(unit_rows(2, encoder.dim))
    scores = encoder.scores(made, np.full((2, encoder.dim), 2.0**64))
    assert np.isfinite(scores).all()


def test_codes_of_another_quantizer(unit_rows):
    x = unit_rows(2, 64)
    codes = TurboQuantMSE(64, 4, seed=1).quantize(x)
    for other in (TurboQuantMSE(64, 4, seed=2), TurboQuantMSE(64, 3, seed=1), TurboQuantProd(64, 4, seed=1)):
        with pytest.raises(SpecMismatch, match=r"these codes were made by .*, this quantizer is"):
            other.dequantize(codes)
        with pytest.raises(SpecMismatch, match=r"these codes were made by .*, this quantizer is"):
            other.scores(codes, x)
    for other in (PolarQuant(64, 4, seed=1), QJL(64, seed=1)):
        with pytest.raises(SpecMismatch, match="these codes were made by"):
            other.dequantize(codes)
        with pytest.raises(SpecMismatch, match="these codes were made by"):
            other.scores(codes, x)


def test_encoded_rows_are_no_codes_and_codes_are_no_encoded_rows(unit_rows):
    x = unit_rows(2, 64)
    quantizer = TurboQuantMSE(64, 4)
    codec = VectorCodec(quantizer)
    with pytest.raises(SpecMismatch, match="these codes were made by"):
        quantizer.dequantize(codec.encode(x))
    for read in (codec.decode, lambda rows: codec.scores(rows, x), lambda rows: codec.search(rows, x, 1)):
        with pytest.raises(SpecMismatch, match=r"these rows were encoded by .*, this codec is"):
            read(quantizer.quantize(x))


@pytest.mark.parametrize("what", [None, b"bytes", np.zeros((2, 8), np.uint8), {"packed": 1}])
def test_what_are_no_codes_at_all(encoder, what):
    with pytest.raises(SpecMismatch, match=r"(made|encoded) by"):
        encoder.decode(what)


def test_hamming_distances_of_another_sketch(gaussian_rows):
    sketch, other = QJL(64, seed=1), QJL(64, seed=2)
    x = gaussian_rows(2, 64)
    with pytest.raises(SpecMismatch, match="this sketch is"):
        sketch.cosines(sketch.quantize(x), other.quantize(x))


@pytest.mark.parametrize("k", [0, -1, (1 << 31) + 1])
def test_k_out_of_range(codec, unit_rows, k):
    x = unit_rows(3, codec.dim)
    with pytest.raises(InvalidSpec, match=f"k must lie in 1.*, got {k}"):
        codec.search(codec.encode(x), x, k)


@pytest.mark.parametrize("k", [1.0, True, None, "3"])
def test_k_that_is_no_integer(codec, unit_rows, k):
    x = unit_rows(3, codec.dim)
    with pytest.raises(InvalidSpec, match="k must be an integer, got"):
        codec.search(codec.encode(x), x, k)


@pytest.mark.parametrize("mask", [np.ones(4, bool), np.ones((3, 1), bool), np.ones(3, np.uint8), [1, 0, 1], True])
def test_masks_of_the_wrong_shape_or_dtype(codec, unit_rows, mask):
    x = unit_rows(3, codec.dim)
    with pytest.raises(ShapeMismatch, match=r"mask must be \(3,\) bool, got"):
        codec.search(codec.encode(x), x, 2, mask)


def test_ragged_masks(codec, unit_rows):
    x = unit_rows(2, codec.dim)
    with pytest.raises(ShapeMismatch, match="mask must be an array of rows of one length"):
        codec.search(codec.encode(x), x, 2, [[True], [True, False]])


def test_normalize_needs_a_direction(gaussian_rows):
    x = gaussian_rows(3, 8)
    x[1] = 0
    with pytest.raises(ZeroVector, match="row 1 is zero and has no direction"):
        normalize(x)


@pytest.mark.parametrize(
    ("x", "error", "match"),
    [
        (np.ones((2, 2, 2)), ShapeMismatch, r"x must have shape \(dim,\) or \(rows, dim\)"),
        (1.0, ShapeMismatch, r"x must have shape \(dim,\) or \(rows, dim\), got \(\)"),
        (np.ones((3, 1)), InvalidDimension, r"dim must lie in 2\.\."),
        (np.ones((2, 4), int), InvalidDtype, "x must be float16"),
        ([[1.0, 2.0], [1.0]], ShapeMismatch, "rows of one length"),
        (np.array([[1.0, np.nan]]), NotFinite, r"x\[0, 1\] is nan"),
        (np.full((1, 4), 1.7e308), ScaleRange, "row 0 has a norm beyond float64"),
    ],
)
def test_normalize_refuses_what_has_no_norm(x, error, match):
    with pytest.raises(error, match=match):
        normalize(x)


def test_a_refused_call_leaves_everything_as_it_was(encoder, unit_rows):
    x = unit_rows(3, encoder.dim)
    before = encoder.encode(x)
    tables = [table.tobytes() for table in encoder.maker.tables]
    spec = encoder.spec
    bad = x.copy()
    bad[2, 0] = np.nan
    copy = bad.copy()
    with pytest.raises(NotFinite, match=r"x\[2, 0\]"):
        encoder.encode(bad)
    with pytest.raises(NotFinite, match=r"queries\[2, 0\]"):
        encoder.scores(before, bad)
    assert np.array_equal(bad, copy, equal_nan=True)
    assert encoder.spec == spec
    assert [table.tobytes() for table in encoder.maker.tables] == tables
    assert encoder.encode(x) == before
