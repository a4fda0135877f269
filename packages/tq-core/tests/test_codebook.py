"""Codebooks against printed distortions, exact cases and closed-form moments of the marginal.

The oracle shares nothing with the solver: cell masses are differences of the incomplete beta function by continued
fraction, first moments are the antiderivative `(1 - t^2)^((dim-1)/2)`, the second moment of the whole line is 1.
"""

import itertools
import math

import numpy as np
import pytest

from tq_core import InvalidBitWidth, InvalidDimension, TurboQuantMSE, make_tables
from tq_core._prim import book
from tq_core.codebook import Codebook, codebook, shipped

BITS = range(1, 9)

# Distortion of a unit vector for 1..8 bits, rounded to eight decimals.
PRINTED = {
    64: (0.35838736, 0.11452576, 0.03339083, 0.00913152, 0.00239923, 0.00061596, 0.00015615, 0.00003932),
    96: (0.36005591, 0.11550779, 0.03377348, 0.00925337, 0.00243394, 0.00062526, 0.00015856, 0.00003993),
    128: (0.36088859, 0.11600007, 0.03396593, 0.00931479, 0.00245146, 0.00062996, 0.00015977, 0.00004024),
    200: (0.36178669, 0.11653266, 0.03417461, 0.00938149, 0.00247050, 0.00063507, 0.00016110, 0.00004058),
    256: (0.36213562, 0.11674004, 0.03425600, 0.00940753, 0.00247794, 0.00063707, 0.00016162, 0.00004071),
    512: (0.36275823, 0.11711071, 0.03440167, 0.00945418, 0.00249127, 0.00064064, 0.00016255, 0.00004095),
    768: (0.36296563, 0.11723438, 0.03445032, 0.00946977, 0.00249573, 0.00064184, 0.00016286, 0.00004103),
    1024: (0.36306930, 0.11729622, 0.03447466, 0.00947757, 0.00249796, 0.00064244, 0.00016301, 0.00004107),
    1536: (0.36317296, 0.11735809, 0.03449902, 0.00948538, 0.00250020, 0.00064304, 0.00016317, 0.00004111),
    3072: (0.36327660, 0.11741996, 0.03452338, 0.00949319, 0.00250243, 0.00064364, 0.00016332, 0.00004115),
}
GAUSSIAN = (0.363380228, 0.117481848, 0.034547761, 0.009501008, 0.002504668, 0.000644240, 0.000163478, 0.000041185)
SMALL = {
    2: (0.18943053, 0.04180958, 0.00985800, 0.00239581),
    4: (0.27949381, 0.07452344, 0.01929708, 0.00491420),
    8: (0.32243009, 0.09477053, 0.02606303, 0.00687042),
    16: (0.34318505, 0.10584748, 0.03008414, 0.00809366),
    32: (0.35335657, 0.11160032, 0.03226107, 0.00877383),
}
HALF_UNIT = 5.5e-9  # half a unit of the eighth decimal, and room for the last digit's own error

CENTROIDS = {  # positive halves, units of 1/sqrt(dim), six decimals
    (128, 1): (0.799444,),
    (128, 2): (0.452453, 1.505193),
    (128, 3): (0.244425, 0.753330, 1.336599, 2.131471),
    (128, 4): (0.127873, 0.386381, 0.653619, 0.937097, 1.247770, 1.604343, 2.045925, 2.688859),
    (64, 1): (0.801007,),
    (64, 2): (0.452119, 1.499975),
    (64, 3): (0.243753, 0.750658, 1.329343, 2.111311),
    (64, 4): (0.127352, 0.384718, 0.650494, 0.931894, 1.239404, 1.590849, 2.023310, 2.646370),
}
GAUSSIAN_CENTROIDS = (0.128395, 0.388048, 0.656759, 0.942340, 1.256231, 1.618046, 2.069017, 2.732590)
ENTROPY = (1.0000, 1.9111, 2.8249, 3.7653, 4.7298, 5.7101, 6.6996, 7.6941)  # of Gaussian indices, bits


def upper_tail(dim: int, t: float) -> float:
    """P(coordinate > t) of a random unit vector, 0 <= t <= 1: I_x(a, a) with a = (dim-1)/2, x = (1-t)/2.

    Modified Lentz evaluation of the continued fraction, which converges because x <= 1/2 is below the mean.
    """
    a = 0.5 * (dim - 1)
    x = 0.5 * (1.0 - t)
    if x == 0.0:
        return 0.0
    log_front = math.lgamma(2 * a) - 2 * math.lgamma(a) + a * math.log(x) + a * math.log1p(-x) - math.log(a)
    c, d = 1.0, 1.0 / (1.0 - 2 * a * x / (a + 1))
    value = d
    for m in range(1, 20000):
        for term in (
            m * (a - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (2 * a + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1.0 / (1.0 + term * d)
            c = 1.0 + term / c
            value *= c * d
        if abs(c * d - 1.0) < 1e-16:
            return math.exp(log_front) * value
    raise AssertionError("the continued fraction did not converge")


def gamma_ratio(a: float) -> float:
    """Gamma(a + 1/2) / Gamma(a); by its asymptotic series where a difference of two large logarithms loses digits."""
    if a < 200:
        return math.exp(math.lgamma(a + 0.5) - math.lgamma(a))
    w = 1.0 / a
    return math.sqrt(a) * (1 - w / 8 + w**2 / 128 + 5 * w**3 / 1024 - 21 * w**4 / 32768)


def cells(dim: int, half: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Mass and first moment of each positive cell, in units of variance one; all masses of a half add up to 1/2."""
    root = math.sqrt(dim)
    edges = [0.0, *(0.5 * (low + high) / root for low, high in itertools.pairwise(half)), 1.0]
    tails = np.array([upper_tail(dim, min(edge, 1.0)) for edge in edges])
    masses = (tails[:-1] - tails[1:]) * (0.5 / tails[0])  # the normaliser's rounding cancels
    density = gamma_ratio(0.5 * (dim - 1)) / math.sqrt(math.pi)  # of the coordinate, at 0
    powers = np.array([math.exp(0.5 * (dim - 1) * math.log1p(-edge * edge)) if edge < 1 else 0.0 for edge in edges])
    firsts = root * density / (dim - 1) * (powers[:-1] - powers[1:])
    return masses, firsts


def closed_distortion(dim: int, half: tuple[float, ...]) -> float:
    """E(u - Q(u))^2 = 1 - 2 sum c m1 + sum c^2 m0 over both halves, for any codebook with midpoint edges."""
    masses, firsts = cells(dim, half)
    centroids = np.array(half)  # a middle cell around 0 costs nothing but its part of the second moment
    return 1.0 - 4.0 * math.fsum(centroids * firsts) + 2.0 * math.fsum(centroids * centroids * masses)


@pytest.mark.parametrize("dim", PRINTED)
def test_distortion_is_the_printed_one(dim):
    for bits, printed in zip(BITS, PRINTED[dim], strict=True):
        table = codebook(dim, bits)
        assert table.distortion == pytest.approx(printed, rel=0, abs=HALF_UNIT)
        assert TurboQuantMSE(dim, bits).expected_mse == table.distortion


@pytest.mark.parametrize("dim", [*SMALL, 3, 5, 7, *PRINTED, 100_000])
def test_distortion_equals_closed_form_moments(dim):
    for bits in BITS:
        table = codebook(dim, bits)
        assert table.distortion == pytest.approx(closed_distortion(dim, table.half), rel=1e-6)


@pytest.mark.parametrize("dim", SMALL)
def test_small_dims_have_the_printed_distortion(dim):
    for bits, printed in enumerate(SMALL[dim], 1):
        assert codebook(dim, bits).distortion == pytest.approx(printed, rel=0, abs=HALF_UNIT)


def test_three_dimensions_are_uniform_and_exact():
    for bits in BITS:
        table = codebook(3, bits)
        assert table.distortion == pytest.approx(4.0**-bits, rel=1e-12)
        step = 2 * math.sqrt(3) / 2**bits
        assert table.half == pytest.approx([step * (i + 0.5) for i in range(2 ** (bits - 1))], rel=1e-12)


def test_two_dimensions_at_one_bit_are_exact():
    assert codebook(2, 1).distortion == pytest.approx(1 - 8 / math.pi**2, rel=1e-13)


@pytest.mark.parametrize("dim", [2, 3, 7, 64, 96, 128, 200, 1536, 3072, 100_000])
def test_centroids_are_the_means_of_their_cells(dim):
    for bits in BITS:
        half = codebook(dim, bits).half
        masses, firsts = cells(dim, half)
        assert np.abs(firsts / masses - np.array(half)).max() <= 1e-9


@pytest.mark.parametrize(("dim", "bits"), CENTROIDS)
def test_centroids_are_the_printed_ones(dim, bits):
    assert codebook(dim, bits).half == pytest.approx(CENTROIDS[dim, bits], rel=0, abs=6e-7)


@pytest.mark.parametrize("dim", [*SMALL, 3, *PRINTED])
def test_tables_are_symmetric_and_ascend(dim):
    for bits in BITS:
        table = codebook(dim, bits)
        assert (table.centroids == -table.centroids[::-1]).all()
        assert (table.levels == -table.levels[::-1]).all()
        assert table.half[0] > 0
        assert table.half[-1] < math.sqrt(dim)
        assert (np.diff(table.half) > 0).all()
        assert (np.diff(table.centroids) > 0).all()
        assert (np.diff(table.levels) > 0).all()
        assert len(table.centroids) == 2**bits
        assert len(table.thresholds) == 2 ** (bits - 1) - 1
        assert (np.diff(table.thresholds) > 0).all()


@pytest.mark.parametrize("dim", [2, 3, 33, 128])
def test_code_table_is_the_nearest_centroid(dim):
    """Every int16 coordinate gets the code that searching the signed edges gives; ties go to the inner code."""
    for bits in BITS:
        table = codebook(dim, bits)
        for value in (1, *(int(t) for t in table.thresholds), *(int(t) + 1 for t in table.thresholds), 32767):
            above = int((np.abs(value) > table.thresholds.astype(int)).sum())
            assert table.code_table[value] == 2 ** (bits - 1) + above
            assert table.code_table[65536 - value] == 2 ** (bits - 1) - 1 - above
            nearest = np.abs(table.centroids.astype(float) - value / 4096.0)
            assert nearest[table.code_table[value]] <= nearest.min() + 2.0 / 4096.0


def test_arrays_are_read_only():
    with pytest.raises(ValueError, match="read-only"):
        codebook(64, 2).centroids[0] = 0


def test_large_dims_converge_to_the_gaussian():
    for bits in BITS:
        large, larger = codebook(100_000, bits), codebook(1 << 20, bits)
        gap, smaller_gap = (GAUSSIAN[bits - 1] - table.distortion for table in (large, larger))
        assert 0 < gap < GAUSSIAN[bits - 1] * 30 / 100_000
        assert larger.distortion == pytest.approx(GAUSSIAN[bits - 1], rel=3e-5)
        assert smaller_gap < gap
    assert codebook(1 << 20, 4).half == pytest.approx(GAUSSIAN_CENTROIDS, rel=0, abs=1e-5)


@pytest.mark.parametrize("dim", [64, 128, 576])
def test_solver_finds_the_shipped_tables_from_nothing(dim):
    for levels in make_tables.LEVELS:
        text = shipped()[str(dim)][str(levels)]
        assert book.solve_levels(dim, levels) == pytest.approx(
            [float.fromhex(c) for c in text], rel=0, abs=make_tables.TOLERANCE
        )


def test_shipped_tables_are_complete():
    tables = make_tables.read()
    assert tuple(tables) == make_tables.DIMS
    assert all(tuple(table) == make_tables.LEVELS for table in tables.values())
    assert set(PRINTED) <= set(tables)


def test_check_solves_every_shipped_table_anew(capsys):
    assert make_tables.main(["--check"]) == 0
    assert "largest difference" in capsys.readouterr().out


def test_check_notices_a_moved_centroid():
    tables = make_tables.read()
    moved = {dim: {levels: list(half) for levels, half in table.items()} for dim, table in tables.items()}
    moved[128][16][3] += 1e-9
    assert make_tables.largest_difference(moved, tables) == pytest.approx(1e-9, rel=1e-6)
    del moved[128][16]
    with pytest.raises(ValueError, match="do not hold the dims"):
        make_tables.largest_difference(moved, tables)


def test_rendered_tables_read_back_exactly(tmp_path):
    path = tmp_path / "codebooks.json"
    path.write_text(make_tables.render(make_tables.read()), "ascii")
    assert make_tables.read(path) == make_tables.read()
    assert path.read_bytes() == make_tables.PATH.read_bytes()


def test_solving_two_midpoints_apart_is_a_worse_codebook():
    """The distortion is a minimum: any centroid moved either way costs."""
    best = codebook(128, 3)
    for index in range(4):
        for step in (-0.01, 0.01):
            moved = list(best.half)
            moved[index] += step
            assert Codebook(128, 3, tuple(moved)).distortion > best.distortion


@pytest.mark.parametrize("dim", [1024, 1 << 20])
def test_index_entropy_is_the_gaussian_one(dim):
    for bits in BITS:
        masses, _ = cells(dim, codebook(dim, bits).half) if dim < 1 << 20 else _gaussian_cells(codebook(dim, bits).half)
        assert masses.sum() == pytest.approx(0.5, rel=1e-12)
        entropy = -2.0 * math.fsum(masses * np.log2(masses))
        assert entropy == pytest.approx(ENTROPY[bits - 1], rel=0, abs=0.003 if dim < 1 << 20 else 6e-5)


def _gaussian_cells(half: tuple[float, ...]) -> tuple[np.ndarray, None]:
    edges = [0.0, *(0.5 * (low + high) for low, high in itertools.pairwise(half)), math.inf]
    tails = np.array([0.5 * math.erfc(edge / math.sqrt(2)) for edge in edges])
    return tails[:-1] - tails[1:], None


@pytest.mark.parametrize(("dim", "bits"), [(1, 4), (0, 4), (-3, 1), (64, 0), (64, 9), (2, -1)])
def test_solver_refuses_what_has_no_codebook(dim, bits):
    with pytest.raises(ValueError, match="dim >= 2 and 1 <= bits <= 8"):
        book.solve(dim, bits)


@pytest.mark.parametrize(("dim", "levels"), [(1, 5), (64, 1), (64, 257), (64, 0), (64, -4)])
def test_solver_refuses_numbers_of_levels_that_no_codebook_has(dim, levels):
    with pytest.raises(ValueError, match="dim >= 2 and 2 <= levels <= 256"):
        book.solve_levels(dim, levels)


def test_public_door_refuses_with_typed_errors():
    with pytest.raises(InvalidDimension, match=r"2\.\.1048576, got 1"):
        TurboQuantMSE(1, 4)
    with pytest.raises(InvalidBitWidth, match="1 to 8 bits, got 9"):
        TurboQuantMSE(64, 9)
