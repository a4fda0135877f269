"""Each metric against a slow loop over Python floats."""

import math

import numpy as np
import pytest

from tq_onnx import metrics

RNG = np.random.default_rng(11)
EXACT = RNG.normal(size=(3, 4, 9)).astype(np.float32) * 3
MEASURED = (EXACT + RNG.normal(size=EXACT.shape)).astype(np.float32)
TARGETS = RNG.integers(0, 9, (3, 4))


def probabilities(logits: np.ndarray) -> list[float]:
    """Softmax of one position with exactly rounded sums."""
    powers = [math.exp(float(value)) for value in logits]
    return [power / math.fsum(powers) for power in powers]


def test_log_softmax_equals_the_definition() -> None:
    found = metrics.log_softmax(EXACT)
    assert found.dtype == np.float64
    for place in np.ndindex(3, 4):
        np.testing.assert_allclose(found[place], np.log(probabilities(EXACT[place])), rtol=1e-12)


def test_log_softmax_of_huge_float16_logits_stays_finite() -> None:
    logits = np.array([60000.0, -60000.0, 0.0], np.float16)
    np.testing.assert_array_equal(metrics.log_softmax(logits)[0], 0.0)
    assert np.isfinite(metrics.log_softmax(logits)).all()


def test_divergence_equals_the_definition() -> None:
    found = metrics.divergence(metrics.log_softmax(EXACT), metrics.log_softmax(MEASURED))
    for place in np.ndindex(3, 4):
        p, q = probabilities(EXACT[place]), probabilities(MEASURED[place])
        assert found[place] == pytest.approx(math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))


def test_divergence_weighs_by_the_exact_side() -> None:
    certain, even = np.log([[1 - 1e-9, 1e-9]]), np.log([[0.5, 0.5]])
    assert metrics.divergence(certain, even)[0] == pytest.approx(math.log(2), abs=1e-6)
    assert metrics.divergence(even, certain)[0] > 9


def test_divergence_of_equal_logits_is_zero() -> None:
    same = metrics.log_softmax(EXACT)
    np.testing.assert_array_equal(metrics.divergence(same, same), 0.0)


def test_surprise_and_perplexity_equal_the_definition() -> None:
    found = metrics.surprise(metrics.log_softmax(EXACT), TARGETS)
    slow = [-math.log(probabilities(EXACT[place])[TARGETS[place]]) for place in np.ndindex(3, 4)]
    np.testing.assert_allclose(found.ravel(), slow)
    assert metrics.perplexity(found) == pytest.approx(math.exp(math.fsum(slow) / 12))


def test_perplexity_of_even_odds_is_the_vocabulary() -> None:
    even = metrics.log_softmax(np.zeros((5, 1024), np.float16))
    assert metrics.perplexity(metrics.surprise(even, np.arange(5))) == pytest.approx(1024)


def test_same_best_gives_ties_to_the_lower_id() -> None:
    exact = np.array([[1.0, 1.0, 0.0], [0.0, 2.0, 1.0]])
    measured = np.array([[1.0, 0.0, 1.0], [0.0, 1.0, 2.0]])
    assert metrics.same_best(exact, measured).tolist() == [True, False]


def test_top_overlap_equals_sets() -> None:
    found = metrics.top_overlap(EXACT, MEASURED, 3)
    for place in np.ndindex(3, 4):
        best = [set(sorted(range(9), key=lambda token: -logits[place][token])[:3]) for logits in (EXACT, MEASURED)]
        assert found[place] == pytest.approx(len(best[0] & best[1]) / 3)
    assert 0 < found.mean() < 1


def test_top_overlap_counts_no_more_tokens_than_there_are() -> None:
    np.testing.assert_array_equal(metrics.top_overlap(EXACT[..., :3], MEASURED[..., :3], 5), 1.0)


def test_perplexity_beyond_measure_is_none() -> None:
    assert metrics.perplexity([300.0, 300.0]) == pytest.approx(math.exp(300))
    assert metrics.perplexity([1e30, 0.0]) is None


def test_mean_square_equals_the_definition() -> None:
    found = metrics.mean_square(EXACT, MEASURED)
    slow = math.fsum((float(a) - float(b)) ** 2 for a, b in zip(EXACT[1, 2], MEASURED[1, 2], strict=True)) / 9
    assert found[1, 2] == pytest.approx(slow)


@pytest.mark.parametrize(
    ("rows", "median"),
    [
        (["110", "101", "011"], 1.0),
        (["110", "101"], 1.5),
        (["111", "101", "111"], None),
        (["111", "101"], None),
        (["111", "101", "011"], 1.0),
        (["000"], 0.0),
    ],
)
def test_first_divergence_is_a_median_that_counts_agreement_as_latest(rows: list[str], median: float | None) -> None:
    agrees = np.array([[letter == "1" for letter in row] for row in rows])
    assert metrics.first_divergence(agrees) == median
