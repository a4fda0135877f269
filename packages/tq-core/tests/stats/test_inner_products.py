"""Acceptance rows 6-8 and 17: bias and variance of estimated inner products, d = 128.

| row | quantity | value | tolerance | N |
| --- | --- | --- | --- | --- |
| 6 | slope of the mse estimate on the truth, b=1..4 | .6391 .8840 .9660 .9907 | .005 .003 .0015 .0007 | 50k |
| 7 | prod, d * squared error, b=1..4 (b=1 is QJL alone) | 1.5630 .5641 .1813 .05309 | 3 % | 50k |
| 7 | the same with the hadamard sketch, b=2,3,4 | .204 .0657 .0191 | 4 % | 50k |
| 8 | bias at cosine 0, .3, .9: prod with both sketches, codec rule unbiased | 0 | abs(z) < 4.5 | 60k |
| 17 | prod / rule unbiased at equal bits, b=1..4 | 2.66 4.15 5.0 5.5 | at least | 50k |
| qjl | QJL, d * variance at cosine 0, .3, .9 | pi/2 - cos^2 | 3 % | 36k |

Pairs (x, y) are all independent. Rotation and sketch change with the seed, 300 to 1500 seeds a figure; pairs of one
seed share them, so standard errors and z are those of the means of seeds.
"""

import math

import numpy as np
import pytest

from tq_core import QJL, TurboQuantMSE, TurboQuantProd, VectorCodec

pytestmark = pytest.mark.stats

DIM = 128
SLOPES = ((0.6391, 0.005), (0.8840, 0.003), (0.9660, 0.0015), (0.9907, 0.0007))
PROD = {1: 1.5630, 2: 0.5641, 3: 0.1813, 4: 0.05309}
PROD_STRUCTURED = {2: 0.204, 3: 0.0657, 4: 0.0191}
RATIOS = {1: 2.66, 2: 4.15, 3: 5.0, 4: 5.5}  # prod's numerator over D/(1-D), less 4 %


def estimates(quantizer, x, y):
    """The estimate of <x, y> for each pair of rows, float64, by reconstruction."""
    if isinstance(quantizer, VectorCodec):
        decoded = quantizer.decode(quantizer.encode(x))
    else:
        decoded = quantizer.dequantize(quantizer.quantize(x))
    return (decoded.astype(np.float64) * y).sum(axis=1)


def prod(bits, seed, sketch="gaussian"):
    return QJL(DIM, seed=seed, sketch=sketch) if bits == 1 else TurboQuantProd(DIM, bits, seed=seed, sketch=sketch)


def unbiased(bits, seed):
    return VectorCodec(TurboQuantMSE(DIM, bits, seed=seed))


def scaled_squares(make, sphere, seeds=500, pairs=100):
    """d * squared error of random pairs, one array for each seed."""
    for seed in range(seeds):
        x, y = sphere(2 * pairs, DIM, seed).reshape(2, pairs, DIM)
        yield DIM * (estimates(make(seed), x, y) - (x * y).sum(axis=1)) ** 2


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_row_6_plain_products_shrink_by_one_minus_the_distortion(bits, accept, sphere, at_cosine):
    """Cosines of 25 values in -1..1, so that the slope is steadier than with random pairs, whose cosines are small."""
    quantizer = TurboQuantMSE(DIM, bits, seed=6)
    truth, found = [], []
    for number, cosine in enumerate(np.linspace(-1, 1, 25)):
        x = sphere(2000, DIM, 100 * bits + number)
        found.append(estimates(quantizer, x, at_cosine(x, cosine, number)))
        truth.append(np.full(2000, cosine))
    truth, found = np.concatenate(truth), np.concatenate(found)
    slope = (truth * found).sum() / (truth * truth).sum()
    value, tolerance = SLOPES[bits - 1]
    accept.near("6", f"slope of mse, d=128, b={bits}", value, slope, tolerance, truth.size)


@pytest.mark.parametrize("bits", PROD)
def test_rows_7_17_prod_has_the_papers_variance(bits, accept, sphere, clustered):
    """Row 17 too, on the same pairs: the codec's default rule has a fraction of this at equal bits."""
    mean, deviation, count = clustered(scaled_squares(lambda seed: prod(bits, seed), sphere))
    accept.within("7", f"prod, d*MSE, d=128, b={bits}", PROD[bits], mean, 0.03, count)
    assert 4 * deviation <= 0.03 * PROD[bits]
    ours, _, _ = clustered(scaled_squares(lambda seed: unbiased(bits, seed), sphere))
    accept.at_least("17", f"prod / rule unbiased, d*MSE, b={bits}", RATIOS[bits], mean / ours, count)


@pytest.mark.parametrize("bits", PROD_STRUCTURED)
def test_row_7_structured_sketch_has_less_variance(bits, accept, sphere, clustered):
    mean, deviation, count = clustered(scaled_squares(lambda seed: prod(bits, seed, "hadamard"), sphere))
    accept.within("7", f"prod, hadamard sketch, d*MSE, b={bits}", PROD_STRUCTURED[bits], mean, 0.04, count)
    assert 4 * deviation <= 0.04 * PROD_STRUCTURED[bits]


MAKERS = {
    "prod, gaussian": lambda bits, seed: prod(bits, seed),
    "prod, hadamard": lambda bits, seed: prod(bits, seed, "hadamard"),
    "unbiased": unbiased,
}


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_row_8_products_are_unbiased(bits, name, accept, sphere, at_cosine, clustered):
    for cosine in (0.0, 0.3, 0.9):
        errors = []
        for seed in range(300):
            x = sphere(200, DIM, 1000 * bits + seed)
            y = at_cosine(x, cosine, 10000 + 1000 * bits + seed)
            errors.append(estimates(MAKERS[name](bits, seed), x, y) - cosine)
        mean, deviation, count = clustered(errors)
        accept.near("8", f"z of {name}, b={bits}, cos {cosine}", 0.0, mean / deviation, 4.5, count)


@pytest.mark.parametrize("name", MAKERS)
def test_row_8_holds_for_hard_inputs(name, accept, hard_inputs, at_cosine, clustered):
    """3 bits, 4 kinds of x at cosine .9, 1500 rotations: a bias of the rotation itself shows up here alone."""
    for kind in ("one-hot", "2-sparse", "constant", "outlier"):
        errors = []
        for seed in range(1500):
            x = hard_inputs(DIM, seed)[kind][None]
            errors.append(estimates(MAKERS[name](3, seed), x, at_cosine(x, 0.9, seed)) - 0.9)
        mean, deviation, count = clustered(errors)
        accept.near("8", f"z of {name}, b=3, {kind}, cos .9", 0.0, mean / deviation, 4.5, count)


@pytest.mark.parametrize("cosine", [0.0, 0.3, 0.9])
def test_qjl_has_its_exact_variance(cosine, accept, sphere, at_cosine, clustered):
    """Var = (pi/2 |y|^2 - <x, y>^2) / d over the sketch, for any norms; the norms here are 3 and 2."""
    groups = []
    for seed in range(360):
        x = sphere(100, DIM, seed)
        y = at_cosine(x, cosine, seed + 7)
        sketch = QJL(DIM, seed=seed)
        found = np.diagonal(sketch.scores(sketch.quantize(3.0 * x), 2.0 * y)).astype(np.float64)
        groups.append(DIM * (found / 6.0 - cosine) ** 2)
    mean, deviation, count = clustered(groups)
    value = math.pi / 2 - cosine**2
    accept.within("qjl", f"QJL, d*variance, cos {cosine}", value, mean, 0.03, count)
    assert 4 * deviation <= 0.03 * value
