"""Student's intervals: the quantiles against the distribution's own density, and coverage by drawing."""

import math

import numpy as np
import pytest

from tq_onnx.intervals import NORMAL, QUANTILES, half_width


@pytest.mark.parametrize("freedom", [1, 2, 3, 7, 15, 30])
def test_quantiles_leave_one_fortieth_beyond(freedom: int) -> None:
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(freedom * math.pi)
    angles = np.linspace(0, math.atan(QUANTILES[freedom - 1] / math.sqrt(freedom)), 20_001)
    # with t = sqrt(n) tan(a) the density becomes a power of the cosine
    density = scale * math.sqrt(freedom) * np.cos(angles) ** (freedom - 1)
    assert np.trapezoid(density, angles) == pytest.approx(0.475, abs=1e-6)


def test_intervals_cover_the_mean_of_nineteen_in_twenty_samples() -> None:
    samples = np.random.default_rng(0).normal(3.0, 2.0, (4000, 4))
    covered = [abs(sample.mean() - 3.0) <= half_width(sample.tolist()) for sample in samples]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.012)


def test_many_values_use_the_normal_quantile() -> None:
    values = np.random.default_rng(1).normal(size=100)
    assert half_width(values.tolist()) == pytest.approx(NORMAL * values.std(ddof=1) / 10)


@pytest.mark.parametrize("values", [[], [1.0], [1.0, None]])
def test_there_is_no_interval_of_fewer_than_two_values(values) -> None:
    assert half_width(values) is None
