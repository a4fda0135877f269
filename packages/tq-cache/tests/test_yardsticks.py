"""The plain integer stores against a slow oracle, and their guarantees."""

import numpy as np
import pytest

from tq_cache.affine import AffineCodec
from tq_cache.floats import FloatCodec
from tq_core import ScaleRange


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("dim", [5, 64])
def test_rows_are_rounded_to_the_nearest_level(bits, symmetric, dim, vectors):
    rows = vectors(40, dim, seed=bits)
    codec = AffineCodec(dim, bits, symmetric=symmetric, dtype="float32")
    encoded = codec.encode(rows)
    decoded = codec.decode(encoded)
    for row, got, scale in zip(rows, decoded, encoded["scales"], strict=True):
        if symmetric:
            step = np.abs(row).max() / (2 ** (bits - 1) - 1)
            levels = np.arange(-(2 ** (bits - 1)) + 1, 2 ** (bits - 1)) * step
        else:
            step = (row.max() - row.min()) / (2**bits - 1)
            levels = row.min() + np.arange(2**bits) * step
        assert scale == pytest.approx(step, rel=1e-6)
        nearest = levels[np.abs(row[:, None] - levels).argmin(axis=1)]
        np.testing.assert_allclose(got, nearest, rtol=1e-5, atol=1e-5 * np.abs(row).max())


def test_bytes_are_counted_with_their_scalars():
    assert [
        sum((width or 1) * dtype.itemsize for width, dtype in AffineCodec(64, 4, symmetric=s).fields.values())
        for s in (True, False)
    ] == [32 + 2, 32 + 4]


@pytest.mark.parametrize("symmetric", [True, False])
def test_zero_and_constant_rows_are_legal(symmetric):
    codec = AffineCodec(8, 4, symmetric=symmetric)
    rows = np.stack([np.zeros(8), np.full(8, 3.0), np.full(8, -0.5)])
    np.testing.assert_allclose(codec.decode(codec.encode(rows)), rows, atol=2e-3)
    assert codec.decode(codec.encode(np.empty((0, 8)))).shape == (0, 8)


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_scale_beyond_float16_is_refused(symmetric):
    with pytest.raises(ScaleRange, match=r"the scale of row 1 .* use norms=float32"):
        AffineCodec(4, 2, symmetric=symmetric).encode(np.array([[1.0, 2, 3, 4], [-1e9, 0, 0, 1e9]]))


def test_scores_are_products_with_the_decoded_rows(vectors):
    codec = AffineCodec(32, 4, symmetric=False)
    encoded, queries = codec.encode(vectors(20, 32)), vectors(3, 32, seed=1)
    np.testing.assert_allclose(codec.scores(encoded, queries), queries @ codec.decode(encoded).T, rtol=1e-5, atol=1e-5)


def test_floats_are_kept_to_the_bit_or_rounded_once(vectors):
    rows = vectors(10, 16)
    assert np.array_equal(FloatCodec(16, 32).decode(FloatCodec(16, 32).encode(rows)), rows)
    assert np.array_equal(FloatCodec(16, 16).decode(FloatCodec(16, 16).encode(rows)), rows.astype(np.float16))
    with pytest.raises(ScaleRange, match=r"coordinate 2 of row 1 is 1e\+06"):
        FloatCodec(4, 16).encode(np.array([[0, 0, 0, 0], [0, 0, 1e6, 0]]))
