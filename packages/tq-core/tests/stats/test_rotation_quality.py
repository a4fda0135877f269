"""Acceptance rows 18 and 19: hadamard rotations against Haar on inputs that isotropic data never shows.

| row | quantity | value | tolerance | seeds |
| --- | --- | --- | --- | --- |
| 18 | worst D / D(Haar) of four kinds, b=4, d=64 / 128 / 1024 | 1.10 1.05 1.02 | at most | 20k 20k 3k |
| 19 | D / D(Haar) of one-hot, d=80, 96, 192, 1536, b=2 / b=4 | .97-1.03 / .97-1.04 | band | 20k vectors |
| 19 | the same by power-of-two blocks and permutations, d=100 and 200 | the same | band | 20k vectors |
| - | 8 rounds below 32, 5 below 64: worst D / D(Haar), d=16 / 24 / 32 / 48, b=4 | 1.16 1.05 1.08 1.05 | at most | 4k |

The kinds are one-hot, equal 2-sparse, constant and outlier vectors; d=80 is of order 20, 96 to 1536 of order 12.
D(Haar) is the codebook's distortion, which is what a Haar rotation gives for any x.
"""

import numpy as np
import pytest

from tq_core import TurboQuantMSE

pytestmark = pytest.mark.stats

KINDS = ("one-hot", "2-sparse", "constant", "outlier")


def errors(quantizer, x):
    decoded = quantizer.dequantize(quantizer.quantize(x)).astype(np.float64)
    return ((x - decoded) ** 2).sum(axis=1)


def ratios(dim, bits, seeds, hard_inputs):
    """Mean D / D(Haar) of each kind and its standard error; every seed quantizes one new vector of each kind."""
    found = np.empty((seeds, len(KINDS)))
    for seed in range(seeds):
        quantizer = TurboQuantMSE(dim, bits, seed=seed)
        inputs = hard_inputs(dim, seed)
        found[seed] = errors(quantizer, np.stack([inputs[kind] for kind in KINDS]))
    found /= quantizer.expected_mse
    return found.mean(axis=0), found.std(axis=0) / np.sqrt(seeds)


@pytest.mark.parametrize(("dim", "bound", "seeds"), [(64, 1.10, 20000), (128, 1.05, 20000), (1024, 1.02, 3000)])
def test_row_18_three_rounds_come_close_to_haar(dim, bound, seeds, accept, hard_inputs):
    means, deviations = ratios(dim, 4, seeds, hard_inputs)
    for kind, mean in zip(KINDS, means, strict=True):
        accept.at_most("18", f"D / D(Haar), d={dim}, b=4, {kind}", bound, mean, seeds)
    assert 4 * deviations.max() < bound - 1


@pytest.mark.parametrize(("dim", "bound"), [(16, 1.16), (24, 1.05), (32, 1.08), (48, 1.05)])
def test_more_rounds_below_64_come_close_to_haar(dim, bound, accept, hard_inputs):
    """Three rounds have ratios of up to 1.6 at these sizes; `rotation="dense"` has 1 at every size."""
    means, _ = ratios(dim, 4, 4000, hard_inputs)
    for kind, mean in zip(KINDS, means, strict=True):
        accept.at_most("18 (d < 64)", f"D / D(Haar), d={dim}, b=4, {kind}", bound, mean, 4000)


@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("dim", [80, 96, 192, 1536, 100, 200])
def test_row_19_dims_that_are_no_power_of_two_come_close_to_haar(dim, bits, accept):
    """Up to 80 basis vectors, each of a random place and sign, through each of 250 rotations."""
    per_seed, seeds = 80, 250
    means = []
    for seed in range(seeds):
        random = np.random.default_rng(seed)
        x = np.zeros((per_seed, dim))
        x[np.arange(per_seed), random.choice(dim, per_seed, replace=False)] = random.choice([-1.0, 1.0], per_seed)
        quantizer = TurboQuantMSE(dim, bits, seed=seed)
        means.append(errors(quantizer, x).mean() / quantizer.expected_mse)
    high = 1.03 if bits == 2 else 1.04
    accept.between("19", f"D / D(Haar), one-hot, d={dim}, b={bits}", 0.97, high, np.mean(means), per_seed * seeds)
