"""Codebooks of 5, 6, 9, 10 and 11 levels, and those of a fractional width in turn.

The oracle is that of test_codebook.py in other words: first moments of cells from the antiderivative of the marginal,
masses by Simpson's rule on angles.
"""

import itertools
import json
import math

import numpy as np
import pytest

from tq_core import Codes, TurboQuantMSE, VectorCodec, from_spec
from tq_core._prim import book
from tq_core.codebook import codebook, codebook_of_levels, mixed_codebook
from tq_core.radix import RADICES, layout

# Distortion of a Gaussian at n levels, rounded to six decimals.
GAUSSIAN = {
    3: 0.190174,
    5: 0.079941,
    6: 0.057978,
    7: 0.044000,
    9: 0.027853,
    10: 0.022937,
    11: 0.019220,
    12: 0.016340,
    13: 0.014063,
    14: 0.012232,
    15: 0.010737,
}
GAUSSIAN_WIDTHS = {2.25: 0.0893, 2.5: 0.0690, 3.25: 0.0254, 3.5: 0.0192}
LEVELS = (5, 6, 9, 10, 11)


def cells(dim, half):
    """Mass and first moment of the positive part of each cell, in units of variance one; the masses add up to 1/2."""
    edges = [0.0, *(math.asin(0.5 * (low + high) / math.sqrt(dim)) for low, high in itertools.pairwise(half))]
    edges.append(min(math.pi / 2, 13 / math.sqrt(dim)))  # nothing in float64 lies beyond
    masses, firsts = [], []
    for low, high in itertools.pairwise(edges):
        angles = np.linspace(low, high, 4001)
        weights = np.full(4001, 2.0)
        weights[1::2], weights[[0, -1]] = 4.0, 1.0
        masses.append((weights * np.cos(angles) ** (dim - 2)).sum() * (high - low) / 12000)
        firsts.append(math.sqrt(dim) * (math.cos(low) ** (dim - 1) - math.cos(high) ** (dim - 1)) / (dim - 1))
    total = 2.0 * math.fsum(masses)
    return np.array(masses) / total, np.array(firsts) / total


@pytest.mark.parametrize("levels", GAUSSIAN)
def test_large_dims_have_the_printed_distortion(levels):
    half = book.solve_levels(1 << 20, levels)
    assert book.distortion(1 << 20, half) == pytest.approx(GAUSSIAN[levels], rel=3e-5, abs=6e-7)


@pytest.mark.parametrize("levels", LEVELS)
def test_three_dimensions_are_uniform_and_exact(levels):
    found = codebook_of_levels(3, levels)
    assert found.distortion == pytest.approx(levels**-2.0, rel=1e-12)
    step = 2 * math.sqrt(3) / levels
    assert found.centroids == pytest.approx([step * (i - (levels - 1) / 2) for i in range(levels)], rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("dim", [2, 3, 7, 64, 128, 200, 1536])
@pytest.mark.parametrize("levels", LEVELS)
def test_centroids_are_the_means_of_their_cells_and_distortion_follows(dim, levels):
    found = codebook_of_levels(dim, levels)
    half = np.array(found.half)
    masses, firsts = cells(dim, found.half)
    means = firsts / masses
    if levels % 2:
        assert half[0] == 0.0  # the mean of both sides of the middle cell
        means[0] = 0.0
    assert np.abs(means - half).max() <= 1e-9
    assert found.distortion == pytest.approx(1.0 - 4.0 * half @ firsts + 2.0 * half**2 @ masses, rel=1e-6)


@pytest.mark.parametrize("dim", [2, 64, 128])
@pytest.mark.parametrize("levels", LEVELS)
def test_tables_are_symmetric_ascend_and_hold_every_level(dim, levels):
    found = codebook_of_levels(dim, levels)
    assert len(found.centroids) == len(found.levels) == levels
    assert len(found.thresholds) == len(found.half) - 1 == (levels - 1) // 2
    assert (found.centroids == -found.centroids[::-1]).all()
    assert (found.levels == -found.levels[::-1]).all()
    assert (np.diff(found.levels) > 0).all()
    assert found.has_zero == bool(levels % 2)
    assert found.bits == math.ceil(math.log2(levels))


@pytest.mark.parametrize("levels", LEVELS)
def test_every_coordinate_gets_its_nearest_level(levels):
    found = codebook_of_levels(128, levels)
    v = np.arange(-32767, 32768)
    codes = found.code_table[v.astype(np.int16).view(np.uint16)]
    nearest = np.abs(found.centroids.astype(float)[:, None] - v / 4096.0)
    assert (nearest[codes, np.arange(len(v))] <= nearest.min(axis=0) + 2.0 / 4096).all()
    assert (np.diff(codes.astype(int)) >= 0).all()
    assert set(codes.tolist()) == set(range(levels))


def test_powers_of_two_levels_are_the_codebooks_of_bits():
    assert codebook_of_levels(64, 16) is codebook(64, 4)
    assert book.solve_levels(37, 8) == book.solve(37, 3)


@pytest.mark.parametrize("bits", RADICES)
def test_a_width_has_the_mean_distortion_of_its_coordinates(bits):
    for dim in (2, 3, 5, 64, 127, 128):
        radices = RADICES[bits]
        expected = [codebook_of_levels(dim, radices[i % len(radices)]).distortion for i in range(dim)]
        assert TurboQuantMSE(dim, bits).expected_mse == pytest.approx(math.fsum(expected) / dim, rel=1e-12)
    assert mixed_codebook(1 << 20, bits).distortion == pytest.approx(GAUSSIAN_WIDTHS[bits], abs=6e-5)
    assert mixed_codebook(128, bits).distortion < GAUSSIAN_WIDTHS[bits]


@pytest.mark.parametrize("bits", RADICES)
def test_codes_alternate_between_the_codebooks(bits):
    mixed = mixed_codebook(66, bits)
    v = np.arange(-3300, 3300, 100, dtype=np.int16)[None].repeat(2, axis=0)
    codes = mixed.codes(v)
    for i in range(66):
        own = mixed.books[i % len(mixed.books)]
        assert codes[1, i] == own.code_table[v[1, i]]
        assert mixed.levels_of(codes)[1, i] == own.levels[codes[1, i]]
        assert mixed.centroids_of(codes)[1, i] == own.centroids[codes[1, i]]


@pytest.mark.parametrize("bits", RADICES)
def test_tables_are_counted_once(bits):
    quantizer = TurboQuantMSE(64, bits)
    distinct = {len(one.levels): one for one in quantizer.plan.codebook.books}
    held = sum(table.nbytes for one in distinct.values() for table in one.tables)
    held += layout(64, bits).digits.nbytes + layout(64, bits).limits.nbytes
    assert quantizer.state_nbytes == held + sum(table.nbytes for table in quantizer.plan.rotation.tables)


@pytest.mark.parametrize("bits", [*RADICES, np.float64(2.5), np.float32(3.25)])
def test_specs_survive_json(bits):
    quantizer = TurboQuantMSE(100, bits, seed=3)
    assert type(quantizer.bits) is float
    assert quantizer.bits == bits
    spec = json.loads(json.dumps(quantizer.spec))
    assert spec == quantizer.spec == from_spec(spec).spec
    codec = VectorCodec(quantizer, scale="mse", search=9)
    assert from_spec(json.loads(json.dumps(codec.spec))).spec == codec.spec


@pytest.mark.parametrize("bits", RADICES)
def test_search_lowers_the_error_at_equal_bits(bits):
    x = np.random.default_rng(3).standard_normal((2000, 128))
    errors = []
    for search in (0, 9):
        codec = VectorCodec(TurboQuantMSE(128, bits, seed=2), scale="mse", search=search)
        errors.append(((codec.decode(codec.encode(x)) - x) ** 2).sum())
    assert errors[1] < 0.99 * errors[0]


@pytest.mark.parametrize("bits", RADICES)
def test_search_finds_a_row_by_itself_and_combine_adds_rows(bits):
    x = np.random.default_rng(4).standard_normal((200, 67))
    codec = VectorCodec(TurboQuantMSE(67, bits))
    encoded = codec.encode(x)
    decoded = codec.decode(encoded).astype(np.float64)
    scores, rows = codec.search(encoded, x[:20], 3)
    expected = np.argsort(-(x[:20] @ decoded.T), axis=1)[:, :3]
    assert (rows == expected).all()
    assert scores == pytest.approx(np.take_along_axis(x[:20] @ decoded.T, expected, axis=1), rel=1e-4)
    weights = np.random.default_rng(5).standard_normal((3, 200))
    assert codec.combine(encoded, weights) == pytest.approx(weights @ decoded, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("bits", RADICES)
@pytest.mark.parametrize("rule", ["plain", "norm", "mse", "unbiased"])
def test_a_zero_row_comes_back_as_zero_under_every_rule(bits, rule):
    codec = VectorCodec(TurboQuantMSE(64, bits), scale=rule, search=5)
    encoded = codec.encode(np.zeros((2, 64)))
    assert (encoded.arrays["scales"] == 0).all()
    assert not codec.decode(encoded).any()


def test_codes_of_a_width_are_no_codes_of_another():
    codes = TurboQuantMSE(64, 2.5).quantize(np.eye(64)[:3])
    assert Codes.from_bytes(codes.to_bytes()) == codes
    assert codes.nbytes == 3 * TurboQuantMSE(64, 2.5).bits_per_vector // 8
