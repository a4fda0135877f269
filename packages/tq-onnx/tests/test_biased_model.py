"""The trained decoder whose keys share a large mean: what breaks low-bit keys there, and what mends it."""

from pathlib import Path

import numpy as np
import pytest

from tq_onnx import Bundle, DecoderRunner, evaluate

PLAIN = [f"k=mse{bits},v=mse{bits}" for bits in (2, 3, 4)]


@pytest.fixture(scope="module")
def divergences(biased: Path) -> dict[str, float]:
    """Mean KL by policy, two seeds."""
    policies = [*PLAIN, *(f"{policy},kmean=32" for policy in PLAIN), "k=mse8,v=mse4", "k=mse4,v=mse8"]
    text = (biased / "validation.txt").read_text()
    rows = evaluate(Bundle.open(biased), policies, text=text, windows=4, seeds=(0, 1), threads=1).rows
    return {row.policy: row["kl_mean"] for row in rows}


def test_the_second_decoder_has_one_wide_head_and_a_mean_in_its_keys(biased: Path) -> None:
    bundle = Bundle.open(biased)
    assert bundle.signature.layers[0].key_dim == 128
    runner = DecoderRunner(bundle, "k=float32,v=float32")
    runner.step(np.array([bundle.encode((biased / "validation.txt").read_text()[:1000])[:200]]))
    for layer in range(4):
        keys = runner.cache.keys(layer)[0, 0].astype(np.float64)
        mean = keys.mean(axis=0)
        assert np.square(mean).sum() > np.square(keys - mean).sum(axis=1).mean()


def test_modes_agree_on_it(biased: Path) -> None:
    bundle = Bundle.open(biased)
    ids = np.array([bundle.encode((biased / "validation.txt").read_text()[:1000])[:60]])
    policy = "k=mse4,v=mse4,kmean=8,window=4"
    ours, theirs = (DecoderRunner(bundle, policy, mode) for mode in ("fused", "reconstruct"))
    for position in range(ids.shape[1]):
        step = ids[:, position : position + 1]
        np.testing.assert_allclose(ours.step(step), theirs.step(step), atol=2e-4)


@pytest.mark.model
@pytest.mark.parametrize("policy", PLAIN)
def test_removing_the_mean_of_keys_divides_the_divergence_by_five(divergences, policy: str) -> None:
    assert divergences[f"{policy},kmean=32"] <= divergences[policy] / 5


@pytest.mark.model
def test_bits_of_keys_are_worth_more_than_bits_of_values(divergences) -> None:
    assert divergences["k=mse8,v=mse4"] <= divergences["k=mse4,v=mse8"] / 5
