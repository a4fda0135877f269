"""QJL: signs of a random projection, norms beside them, unbiased estimates of any finite vector."""

import math

import numpy as np
import pytest

from tq_core import QJL, ScaleRange


@pytest.mark.parametrize("sketch", ["gaussian", "hadamard"])
def test_inner_products_are_unbiased_over_seeds(gaussian_rows, sketch):
    x = gaussian_rows(12, 48) * np.float32(5)
    queries = np.concatenate([x, gaussian_rows(12, 48, seed=7)])
    exact = queries.astype(np.float64) @ x.T.astype(np.float64)
    errors = np.array(
        [
            (quantizer := QJL(48, seed=seed, sketch=sketch)).scores(quantizer.quantize(x), queries) - exact
            for seed in range(150)
        ]
    )
    z = errors.mean(axis=0) / (errors.std(axis=0) / math.sqrt(150))
    assert np.abs(z).max() < 5
    assert abs(z.mean()) < 0.6


@pytest.mark.parametrize("projections", [32, 128, 256])
def test_the_error_falls_with_the_number_of_projections(unit_rows, projections):
    x, queries = unit_rows(30, 64), unit_rows(30, 64, seed=9)
    exact = queries.astype(np.float64) @ x.T
    squares = []
    for seed in range(20):
        quantizer = QJL(64, projections=projections, seed=seed)
        squares.append(((quantizer.scores(quantizer.quantize(x), queries) - exact) ** 2).mean())
    # paper lemma 4: pi/2 |y|^2 / m for orthogonal vectors, here of unit norm
    assert np.mean(squares) == pytest.approx(math.pi / 2 / projections, rel=0.1)


def test_the_expected_error_of_the_reconstruction_is_met(unit_rows):
    x = unit_rows(30, 64)
    for projections in (40, 200):
        errors = []
        for seed in range(40):
            quantizer = QJL(64, projections=projections, seed=seed)
            errors.append(((quantizer.dequantize(quantizer.quantize(x)) - x) ** 2).sum(axis=1).mean())
        assert np.mean(errors) == pytest.approx(quantizer.expected_mse, rel=0.05)


def test_projections_default_to_the_dimension():
    assert QJL(40).spec == QJL(40, projections=40).spec
    assert QJL(40).spec["projections"] == 40


def test_cosines_are_estimated_from_sign_bits(unit_rows):
    quantizer = QJL(64, projections=20_000, seed=1)
    x, y = unit_rows(6, 64), unit_rows(5, 64, seed=3)
    found = quantizer.cosines(quantizer.quantize(x * np.float32(7)), quantizer.quantize(y))
    assert found.shape == (5, 6)
    assert found.dtype == np.float32
    assert np.abs(found - y.astype(np.float64) @ x.T).max() < 0.06


def test_a_vector_agrees_with_itself_and_opposes_its_negative(gaussian_rows):
    x = gaussian_rows(4, 32)
    quantizer = QJL(32, seed=1)
    codes, negatives = quantizer.quantize(x), quantizer.quantize(-x)
    assert np.diag(quantizer.cosines(codes, codes)) == pytest.approx(np.ones(4), abs=1e-6)
    assert np.diag(quantizer.cosines(codes, negatives)) == pytest.approx(-np.ones(4), abs=1e-6)


def test_sign_bits_ignore_the_length_and_norms_keep_it(gaussian_rows):
    x = gaussian_rows(5, 32)
    quantizer = QJL(32)
    one, many = quantizer.quantize(x), quantizer.quantize(x * np.float32(1024))
    assert np.array_equal(one.arrays["packed"], many.arrays["packed"])
    assert np.array_equal(one.arrays["gammas"] * np.float32(1024), many.arrays["gammas"])
    assert one.arrays["gammas"].astype(float) == pytest.approx(np.linalg.norm(x, axis=1), rel=1e-6)


def test_zero_rows_are_legal_and_score_zero(gaussian_rows):
    x = gaussian_rows(3, 32)
    x[1] = 0
    quantizer = QJL(32)
    codes = quantizer.quantize(x)
    assert codes.arrays["gammas"][1] == 0
    assert not quantizer.dequantize(codes)[1].any()
    assert not quantizer.scores(codes, x)[:, 1].any()


@pytest.mark.parametrize("value", [1e39, 1e160, 1e308])
def test_norms_beyond_float32(value):
    x = np.zeros((2, 32))
    x[1, 3] = value
    with pytest.raises(
        ScaleRange, match=rf"row 1 has norm 1e\+{math.log10(value):.0f}, beyond float32; scale the data"
    ):
        QJL(32).quantize(x)


@pytest.mark.parametrize("value", [1e-46, 1e-200, 5e-324])
def test_norms_that_float32_would_store_as_zero(value):
    x = np.zeros((2, 32))
    x[1, 3] = value
    with pytest.raises(ScaleRange, match=r"row 1 has norm .*, which float32 would store as 0; scale the data up"):
        QJL(32).quantize(x)


def test_the_largest_float64_rows_that_fit_are_kept():
    x = np.zeros(32)
    x[3] = 3e38
    codes = QJL(32).quantize(x)
    assert codes.arrays["gammas"][0] == np.float32(3e38)


@pytest.mark.parametrize("projections", [1, 7, 8, 9, 65])
def test_unused_bits_stay_zero(gaussian_rows, projections):
    quantizer = QJL(32, projections=projections, seed=2)
    codes = quantizer.quantize(gaussian_rows(50, 32))
    assert codes.arrays["packed"].shape == (50, (projections + 7) // 8)
    used = projections % 8
    if used:
        assert not (codes.arrays["packed"][:, -1] >> used).any()
    assert type(codes).from_bytes(codes.to_bytes()) == codes
    assert quantizer.bits_per_vector == 8 * ((projections + 7) // 8) + 32
