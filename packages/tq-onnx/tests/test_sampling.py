"""Sampling against a slow definition, frequencies against probabilities, and every refusal."""

import numpy as np
import pytest

from tq_core import InvalidSpec, NotFinite, ShapeMismatch
from tq_onnx import Sampler

LOGITS = np.random.default_rng(2).normal(size=(3, 40)) * 2


def slow(logits: np.ndarray, temperature: float, top_k: int, top_p: float) -> np.ndarray:
    """Probabilities of one row by a loop over tokens in falling order."""
    weights = [np.exp(value / temperature) for value in logits]
    order = sorted(range(len(logits)), key=lambda token: (-logits[token], token))
    kept = order[:top_k] if top_k else order
    total, reached, found = sum(weights[token] for token in kept), 0.0, np.zeros(len(logits))
    for token in kept:
        if reached >= top_p:
            break
        found[token] = weights[token]
        reached += weights[token] / total
    return found / found.sum()


@pytest.mark.parametrize("temperature", [0.3, 1.0, 5.0])
@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (1, 1.0), (5, 1.0), (0, 0.5), (7, 0.8), (100, 0.01)])
def test_probabilities_follow_the_definition(temperature: float, top_k: int, top_p: float) -> None:
    found = Sampler(temperature=temperature, top_k=top_k, top_p=top_p).probabilities(LOGITS)
    for row, logits in zip(found, LOGITS, strict=True):
        np.testing.assert_allclose(row, slow(logits, temperature, top_k, top_p), atol=1e-12)


def test_greedy_takes_the_lower_id_of_a_tie() -> None:
    assert Sampler().pick([[0.0, 3.0, 3.0], [1.0, 0.0, 1.0]]).tolist() == [1, 0]


def test_tokens_come_as_often_as_their_probability_says() -> None:
    sampler = Sampler(temperature=1.0, top_k=4, seed=9)
    expected = sampler.probabilities(LOGITS[:1])[0]
    drawn = np.concatenate([sampler.pick(np.repeat(LOGITS[:1], 500, axis=0)) for _ in range(8)])
    found = np.bincount(drawn, minlength=40) / len(drawn)
    assert not found[expected == 0].any()
    np.testing.assert_allclose(found, expected, atol=5 * np.sqrt(0.25 / len(drawn)))


def test_seed_decides() -> None:
    runs = [[Sampler(temperature=2.0, seed=seed).pick(LOGITS).tolist() for _ in range(2)] for seed in range(8)]
    assert all(first == second for first, second in runs)
    assert len({tuple(first) for first, _ in runs}) > 4


def test_pinned_draws() -> None:
    sampler = Sampler(temperature=1.0, seed=123)
    assert [int(sampler.pick(np.zeros((1, 1000)))[0]) for _ in range(4)] == [682, 53, 220, 184]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"temperature": -1}, "temperature must lie in 0..1e"),
        ({"temperature": float("nan")}, "temperature must lie in"),
        ({"temperature": True}, "temperature must lie in"),
        ({"top_p": 0}, "top_p must lie above 0"),
        ({"top_p": 1.5}, "top_p must lie in 0..1"),
        ({"top_k": -1}, "top_k must be a whole number"),
        ({"top_k": 2.5}, "top_k must be a whole number"),
        ({"seed": -1}, "seed must be a whole number"),
        ({"seed": 1 << 64}, r"seed must be a whole number in 0\.\.2\*\*64-1"),
    ],
)
def test_bad_options(options, match: str) -> None:
    with pytest.raises(InvalidSpec, match=match):
        Sampler(**options)


def test_largest_seed_and_count_are_those_of_the_rotation() -> None:
    sampler = Sampler(temperature=1.0, top_k=(1 << 64) - 1, seed=(1 << 64) - 1)
    assert 0 <= int(sampler.pick(np.zeros((1, 10)))[0]) < 10


def test_bad_logits() -> None:
    with pytest.raises(ShapeMismatch, match=r"got \(3,\)"):
        Sampler().pick([1.0, 2.0, 3.0])
    with pytest.raises(NotFinite, match="NaN or infinity"):
        Sampler().pick([[np.nan, 1.0]])
