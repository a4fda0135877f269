"""TurboQuantProd: two stages in one row, and inner products without bias."""

import math

import numpy as np
import pytest

from tq_core import TurboQuantMSE, TurboQuantProd, packing
from tq_core.sketch import Sketch, mean_abs_coordinate


@pytest.mark.parametrize("bits", range(2, 9))
def test_the_first_stage_is_the_mse_code_of_one_bit_less(unit_rows, bits):
    x = unit_rows(6, 40)
    both = TurboQuantProd(40, bits, seed=3).quantize(x).arrays["packed"]
    first = TurboQuantMSE(40, bits - 1, seed=3).quantize(x).arrays["packed"]
    size = packing.row_bytes(40, bits - 1)
    assert np.array_equal(both[:, :size], first)
    assert both.shape[1] == size + 5


def test_the_factor_is_that_of_algorithm_2():
    assert Sketch(64, 64, "gaussian", 0).constant == math.sqrt(math.pi / 2) / 64
    assert Sketch(64, 16, "gaussian", 0).constant == math.sqrt(math.pi / 2) / 16


@pytest.mark.parametrize(("dim", "expected"), [(2, 2 / math.pi), (3, 0.5), (4, 4 / (3 * math.pi))])
def test_the_mean_coordinate_of_a_random_unit_vector(dim, expected):
    assert mean_abs_coordinate(dim) == pytest.approx(expected, rel=1e-14)
    assert mean_abs_coordinate(10**6) == pytest.approx(math.sqrt(2 / math.pi) / 1000, rel=1e-5)


@pytest.mark.parametrize("kind", ["gaussian", "hadamard"])
def test_gamma_is_the_norm_of_what_the_first_stage_leaves(unit_rows, kind):
    x = unit_rows(8, 64)
    codes = TurboQuantProd(64, 3, seed=3, sketch=kind).quantize(x)
    first = TurboQuantMSE(64, 2, seed=3)
    left = np.linalg.norm(x - first.dequantize(first.quantize(x)), axis=1)
    assert codes.arrays["gammas"].astype(float) == pytest.approx(left, rel=2e-3)


@pytest.mark.parametrize("sketch", ["gaussian", "hadamard"])
@pytest.mark.parametrize(("dim", "bits"), [(32, 2), (33, 3), (64, 4)])
def test_inner_products_are_unbiased_over_seeds(unit_rows, dim, bits, sketch):
    x = unit_rows(16, dim)
    exact = x.astype(np.float64) @ x.T
    errors = np.array(
        [
            (quantizer := TurboQuantProd(dim, bits, seed=seed, sketch=sketch)).scores(quantizer.quantize(x), x) - exact
            for seed in range(80)
        ]
    )
    own = errors[:, np.arange(16), np.arange(16)].mean(axis=1)  # <x, x>: where the first stage alone falls short
    assert abs(own.mean()) < 4.5 * own.std() / math.sqrt(80)
    assert abs(own.mean()) < 0.5 * TurboQuantMSE(dim, bits - 1).expected_mse


def test_the_first_stage_alone_is_biased_by_its_distortion(unit_rows):
    x = unit_rows(50, 32)
    means = []
    for seed in range(20):
        quantizer = TurboQuantMSE(32, 1, seed=seed)
        means.append((np.diag(quantizer.scores(quantizer.quantize(x), x)) - 1).mean())
    assert np.mean(means) == pytest.approx(-quantizer.expected_mse, rel=0.05)


def test_dequantized_rows_hold_both_stages(unit_rows):
    x = unit_rows(20, 64)
    quantizer = TurboQuantProd(64, 4, seed=1)
    first = TurboQuantMSE(64, 3, seed=1)
    codes = quantizer.quantize(x)
    second = quantizer.dequantize(codes) - first.dequantize(first.quantize(x))
    residual = x - first.dequantize(first.quantize(x))
    # unbiased with error pi/2 at dim projections, so of squared length 1 + pi/2
    cosines = (second * residual).sum(axis=1) / np.linalg.norm(second, axis=1) / np.linalg.norm(residual, axis=1)
    assert cosines.mean() == pytest.approx(1 / math.sqrt(1 + math.pi / 2), abs=0.03)


@pytest.mark.parametrize("sketch", ["gaussian", "hadamard"])
def test_rotation_and_sketch_do_not_share_their_randomness(sketch):
    plan = TurboQuantProd(64, 3, seed=7, sketch=sketch).plan
    if sketch == "gaussian":
        rows = plan.sketch.matrix.astype(np.float64)
        signs = plan.rotation.signs.astype(np.float64)
        cosines = rows @ signs.T / np.linalg.norm(rows, axis=1)[:, None] / 8
        assert np.abs(cosines).max() < 5 / 8
        assert np.sqrt((cosines**2).mean()) == pytest.approx(1 / 8, rel=0.2)
    else:
        assert not np.array_equal(plan.sketch.rotation.signs, plan.rotation.signs)


def test_seeds_change_rotation_and_sketch(unit_rows):
    x = unit_rows(4, 64)
    one, other = (TurboQuantProd(64, 3, seed=seed) for seed in (1, 2))
    assert not np.array_equal(one.plan.sketch.matrix, other.plan.sketch.matrix)
    assert not np.array_equal(one.quantize(x).arrays["packed"], other.quantize(x).arrays["packed"])


def test_a_row_that_the_first_stage_reproduces_leaves_next_to_nothing():
    quantizer = TurboQuantProd(64, 8, seed=1)
    first = TurboQuantMSE(64, 7, seed=1)
    x = first.dequantize(first.quantize(np.eye(64, dtype=np.float32)[0])).astype(np.float64)
    x /= np.linalg.norm(x)
    codes = quantizer.quantize(x)
    assert codes.arrays["gammas"][0] < 0.02
    assert abs(quantizer.scores(codes, x)[0, 0] - 1) < 0.02


@pytest.mark.parametrize("kind", ["gaussian", "hadamard"])
def test_the_expected_error_of_a_sketch_is_met(unit_rows, kind):
    x = unit_rows(40, 48)
    errors = []
    for seed in range(40):
        quantizer = TurboQuantProd(48, 2, seed=seed, sketch=kind)
        decoded = quantizer.dequantize(quantizer.quantize(x)).astype(np.float64)
        errors.append(((decoded - x) ** 2).sum(axis=1).mean())
    assert np.mean(errors) == pytest.approx(quantizer.expected_mse, rel=0.03)
