"""PolarQuant: angles in their bins, radii that keep the norm, the layout of levels."""

import math

import numpy as np
import pytest

from tq_core import PolarQuant, TurboQuantMSE, packing
from tq_core.polar_angles import AngleBook, angle_book
from tq_core.spec import polar_levels


@pytest.mark.parametrize(
    ("dim", "bits", "levels"),
    [
        (2, 4, [(1, 4)]),
        (4, 5, [(2, 5), (1, 3)]),
        (16, 4, [(8, 4), (4, 2), (2, 2), (1, 2)]),
        (64, 4, [(32, 4), (16, 2), (8, 2), (4, 2)]),
    ],
)
def test_levels_are_those_of_the_paper(dim, bits, levels):
    assert polar_levels(dim, bits) == levels


def test_the_paper_s_code_has_3_875_bits_a_coordinate():
    assert PolarQuant(128, 4).bits_per_vector == 3.875 * 128


@pytest.mark.parametrize("bits", range(1, 9))
def test_first_level_bins_are_uniform_on_the_circle(bits):
    book = AngleBook(1, bits)
    angles = np.random.default_rng(1).uniform(0, 2 * math.pi, 4000)
    found = book.bins(np.cos(angles), np.sin(angles))
    expected = np.floor(angles * (1 << bits) / (2 * math.pi)).astype(int)
    distance = np.abs(angles * (1 << bits) / (2 * math.pi) - np.rint(angles * (1 << bits) / (2 * math.pi)))
    assert np.array_equal(found[distance > 1e-9], expected[distance > 1e-9])


@pytest.mark.parametrize("bits", range(1, 9))
def test_angles_on_the_axes_fall_into_the_bin_that_begins_there(bits):
    book = AngleBook(1, bits)
    x, y = np.array([1.0, 0.0, -1.0, 0.0, 0.0]), np.array([0.0, 1.0, 0.0, -1.0, 0.0])
    quarter = (1 << bits) / 4
    bins = book.bins(x, y).tolist()
    assert bins[0] == bins[4] == 0
    assert bins[2] == 1 << (bits - 1)
    if bits > 1:
        assert bins == [0, quarter, 2 * quarter, 3 * quarter, 0]


@pytest.mark.parametrize("level", [2, 3, 4])
@pytest.mark.parametrize("bits", [1, 2, 4])
def test_deeper_bins_hold_the_nearest_angle(level, bits):
    book = angle_book(level, bits)
    centres = np.arctan2(book.sines, book.cosines)
    angles = np.random.default_rng(2).uniform(0, math.pi / 2, 3000)
    found = book.bins(np.cos(angles), np.sin(angles))
    gaps = np.sort(np.abs(angles[:, None] - centres), axis=1)
    clear = gaps[:, 1] - gaps[:, 0] > 1e-9
    nearest = np.abs(angles[:, None] - centres).argmin(axis=1)
    assert np.array_equal(found[clear], nearest[clear])


@pytest.mark.parametrize("level", [2, 3, 4])
def test_deeper_codebooks_are_lloyd_max_for_their_density(level):
    book = angle_book(level, 2)
    centres = np.arctan2(book.sines, book.cosines)
    assert np.allclose(centres + centres[::-1], math.pi / 2, atol=1e-9)  # the density is symmetric
    assert np.allclose(book.edges, (centres[1:] + centres[:-1]) / 2)
    theta = (np.arange(200_000) + 0.5) * (math.pi / 2 / 200_000)
    weight = np.sin(2 * theta) ** (2 ** (level - 1) - 1)
    bins = np.searchsorted(book.edges, theta)
    for k in range(4):
        inside = bins == k
        assert (weight * theta)[inside].sum() / weight[inside].sum() == pytest.approx(centres[k], abs=1e-5)
    cosine = (weight * np.cos(theta - centres[bins])).sum() / weight.sum()
    assert book.mean_cosine == pytest.approx(cosine, abs=1e-6)


def test_radii_are_those_of_groups_of_sixteen(unit_rows):
    quantizer = PolarQuant(64, 4, seed=3)
    x = unit_rows(10, 64)
    rotated = quantizer.backend.rotate(quantizer.rotation, x).astype(np.float64)
    radii = quantizer.quantize(x).arrays["radii"]
    expected = np.linalg.norm(rotated.reshape(10, 4, 16), axis=2)
    assert radii.astype(float) == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 8])
def test_decoded_rows_keep_the_norm_up_to_the_radii_s_rounding(unit_rows, bits):
    quantizer = PolarQuant(64, bits, seed=3)
    decoded = quantizer.dequantize(quantizer.quantize(unit_rows(30, 64)))
    assert np.linalg.norm(decoded, axis=1) == pytest.approx(np.ones(30), abs=2e-3)


@pytest.mark.parametrize("dim", [2, 4, 8, 16, 256])
def test_eight_bits_reproduce_the_row(unit_rows, dim):
    x = unit_rows(20, dim)
    quantizer = PolarQuant(dim, 8, seed=1)
    decoded = quantizer.dequantize(quantizer.quantize(x))
    assert ((decoded - x) ** 2).sum(axis=1).mean() < (1e-4 if dim == 2 else 6e-3)


def test_the_paper_s_code_is_about_as_good_as_three_bits_of_lloyd_max(unit_rows):
    x = unit_rows(400, 128)
    quantizers = (TurboQuantMSE(128, 4), PolarQuant(128, 4), TurboQuantMSE(128, 2))
    errors = [((each.dequantize(each.quantize(x)) - x) ** 2).sum(axis=1).mean() for each in quantizers]
    assert errors[0] < errors[1] < errors[2]
    assert errors[1] == pytest.approx(TurboQuantMSE(128, 3).expected_mse, rel=0.3)


def test_angles_of_a_level_lie_in_planes_of_their_own(unit_rows):
    quantizer = PolarQuant(16, 4, seed=1)
    packed = quantizer.quantize(unit_rows(3, 16)).arrays["packed"]
    assert packed.shape == (3, 4 + 1 + 1 + 1)
    first = packing.unpack(packed[:, :4], 8, 4)
    rotated = quantizer.backend.rotate(quantizer.rotation, unit_rows(3, 16))
    angles = np.arctan2(rotated[:, 1::2], rotated[:, ::2]) % (2 * math.pi)
    off = (first + 0.5) * (2 * math.pi / 16) - angles
    assert np.abs(off).max() < math.pi / 16 + 1e-3
