"""What the acceptance tests share, as fixtures: inputs, seeds, and the record of every figure.

A figure is recorded before it is judged, so that `bench/acceptance.py` also lists the ones that fail.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

F64 = NDArray[np.float64]


class Acceptance:
    """Records `{row, what, value, measured, tolerance, n, verdict}` as a test property, then asserts the verdict."""

    def __init__(self, record: Callable[[str, object], None]) -> None:
        self._record = record

    def within(self, row: str, what: str, value: float, measured: float, relative: float, n: int) -> None:
        """Measured lies within a relative tolerance of the value."""
        tolerance = f"+-{100 * relative:g} %"
        self._judge(row, what, value, measured, tolerance, n, abs(measured - value) <= relative * abs(value))

    def near(self, row: str, what: str, value: float, measured: float, absolute: float, n: int) -> None:
        """Measured lies within an absolute tolerance of the value."""
        self._judge(row, what, value, measured, f"+-{absolute:g}", n, abs(measured - value) <= absolute)

    def between(self, row: str, what: str, low: float, high: float, measured: float, n: int) -> None:
        """Measured lies in low..high."""
        self._judge(row, what, (low + high) / 2, measured, f"{low:g}..{high:g}", n, low <= measured <= high)

    def at_most(self, row: str, what: str, bound: float, measured: float, n: int) -> None:
        """Measured does not exceed the bound."""
        self._judge(row, what, bound, measured, "<=", n, measured <= bound)

    def at_least(self, row: str, what: str, bound: float, measured: float, n: int) -> None:
        """Measured does not fall below the bound."""
        self._judge(row, what, bound, measured, ">=", n, measured >= bound)

    def _judge(self, row: str, what: str, value: float, measured: float, tolerance: str, n: int, holds: bool) -> None:
        figure: dict[str, Any] = {"row": row, "what": what, "value": float(value), "measured": float(measured)}
        figure |= {"tolerance": tolerance, "n": int(n), "verdict": "pass" if holds else "FAIL"}
        self._record("acceptance", figure)
        assert holds, f"row {row}, {what}: {measured:.7g} against {value:.7g} ({tolerance}, N={n})"


@pytest.fixture
def accept(record_property: Callable[[str, object], None]) -> Acceptance:
    """The recorder of this test's figures."""
    return Acceptance(record_property)


@pytest.fixture
def sphere() -> Callable[[int, int, int], F64]:
    """`sphere(rows, dim, seed)`: independent uniform unit vectors, float64."""

    def draw(rows: int, dim: int, seed: int) -> F64:
        x = np.random.default_rng(seed).standard_normal((rows, dim))
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    return draw


@pytest.fixture
def at_cosine() -> Callable[[F64, float, int], F64]:
    """`at_cosine(x, cosine, seed)`: for each row a unit vector at exactly this cosine, otherwise uniform."""

    def draw(x: F64, cosine: float, seed: int) -> F64:
        y = np.random.default_rng(seed).standard_normal(x.shape)
        y -= (y * x).sum(axis=1, keepdims=True) * x
        y /= np.linalg.norm(y, axis=1, keepdims=True)
        return cosine * x + math.sqrt(1.0 - cosine * cosine) * y

    return draw


@pytest.fixture
def hard_inputs() -> Callable[[int, int], dict[str, F64]]:
    """`hard_inputs(dim, seed)`: by name one unit vector each that isotropic data never shows.

    One-hot and equal 2-sparse vectors at random places with random signs, the constant vector, and a Gaussian vector
    with one coordinate of 30 times its length.
    """

    def draw(dim: int, seed: int) -> dict[str, F64]:
        random = np.random.default_rng(seed)
        signs = random.choice([-1.0, 1.0], 3)
        one_hot, sparse, constant = np.zeros(dim), np.zeros(dim), np.full(dim, dim**-0.5)
        one_hot[random.integers(dim)] = signs[0]
        sparse[random.choice(dim, 2, replace=False)] = signs[1:] / math.sqrt(2)
        outlier = random.standard_normal(dim)
        outlier[random.integers(dim)] = 30.0 * math.sqrt(dim) * signs[0]
        return {
            "one-hot": one_hot,
            "2-sparse": sparse,
            "constant": constant,
            "outlier": outlier / np.linalg.norm(outlier),
        }

    return draw


@pytest.fixture
def clustered() -> Callable[[Iterator[F64]], tuple[float, float, int]]:
    """`clustered(errors)`: mean, its standard error and the number of values, of one array of values per seed.

    Values of one seed share its rotation and sketch, so the standard error is that of the means of seeds.
    """

    def reduce(errors: Iterator[F64]) -> tuple[float, float, int]:
        groups = list(errors)
        means = np.array([group.mean() for group in groups])
        return float(means.mean()), float(means.std(ddof=1) / math.sqrt(len(means))), sum(g.size for g in groups)

    return reduce
