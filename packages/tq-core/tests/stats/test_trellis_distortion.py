"""Acceptance rows 8, 13-17 and 21 of trellis codes, d = 128 unless said otherwise.

| row | quantity | value | tolerance | vectors |
| --- | --- | --- | --- | --- |
| 13 | Gaussian rows of 128, 256 states, no scale, b=1..4 | .286 .0785 .0211 .0060 | at most | 2k |
| 14 | rule mse, 1024 states, 5 scales, b=1..4 | .277 .0720 .0186 .00480 | at most | 2k |
| 15 | rule mse, 4096 states, 5 scales, b=2,3,4 | .0700 .0178 .00452 | at most | 1k |
| 16 | rule mse with search / the sphere's bound of `BOUND` | 1 | at least | 1k |
| 17 | prod / rule unbiased with 5 scales, d * squared error, b=2,3,4 | 6.5 8.5 10 | at least | 20k |
| 8 | bias at cosine 0, .3, .9, rule unbiased with 5 scales, b=2,3,4 | 0 | abs(z) < 4.5 | 30k |
| 21 | attention KL at 4 bits, rule unbiased with 3 scales / plain scalar code | .40 | at most | 256 queries |
| - | expected_mse, 8, 256, 1024 and 4096 states, b=1..4 | plain distortion | 4 % | 1k |

Pairs and seeds as in test_inner_products.py. Trellis errors spread little: 400 vectors give a per cent.
"""

import math

import numpy as np
import pytest

from tq_core import TrellisQuant, TurboQuantMSE, TurboQuantProd, VectorCodec

pytestmark = pytest.mark.stats

DIM = 128
GAUSSIAN = (0.286, 0.0785, 0.0211, 0.0060)
SEARCHED = {1024: {1: 0.277, 2: 0.0720, 3: 0.0186, 4: 0.00480}, 4096: {2: 0.0700, 3: 0.0178, 4: 0.00452}}
BOUND = {1: 0.9935, 2: 0.9835, 3: 0.9730, 4: 0.9625}  # times 4**-b: the sphere's rate-distortion function at d = 128
RATIOS = {2: 6.5, 3: 8.5, 4: 10.0}


def squared(x, decoded):
    return ((x - decoded.astype(np.float64)) ** 2).sum(axis=1)


def searching(bits, *, states=1024, seed=21, scale="mse", search=5):
    quantizer = TrellisQuant(DIM, bits, states=states, seed=seed)
    return VectorCodec(quantizer, scale=scale, norm_dtype="float32", search=search)


def test_row_13_gaussian_rows_without_a_scale(accept):
    x = np.random.default_rng(13).standard_normal((2000, DIM))
    for bits, bound in enumerate(GAUSSIAN, 1):
        # the plain rule stores the norm, which a row of sqrt(d) on average brings back to unit variance
        codec = searching(bits, states=256, scale="plain", search=0)
        measured = squared(x, codec.decode(codec.encode(x))).mean() / DIM
        accept.at_most("13", f"trellis, 256 states, plain, d=128, b={bits}", bound, measured, 2000)


@pytest.mark.parametrize("states", SEARCHED)
def test_rows_14_15_16_distortion_with_scale_search(states, accept, sphere):
    count = 2000 if states == 1024 else 1000
    x = sphere(count, DIM, states)
    for bits, bound in SEARCHED[states].items():
        codec = searching(bits, states=states)
        errors = squared(x, codec.decode(codec.encode(x)))
        row = "14" if states == 1024 else "15"
        accept.at_most(row, f"trellis, {states} states, rule mse, 5 scales, b={bits}", bound, errors.mean(), count)
        relative = errors / (BOUND[bits] * 4.0**-bits)
        margin = 4 * relative.std() / math.sqrt(count)
        what = f"trellis, {states} states / sphere bound, b={bits}"
        accept.at_least("16", what, 1 - margin, relative.mean(), count)


@pytest.mark.parametrize("states", [8, 256, 1024, 4096])
def test_expected_mse_is_the_plain_distortion(states, accept, sphere):
    x = sphere(1000, DIM, 5)
    for bits in (1, 2, 3, 4):
        quantizer = TrellisQuant(DIM, bits, states=states, seed=2)
        measured = squared(x, quantizer.dequantize(quantizer.quantize(x))).mean()
        what = f"trellis, {states} states, expected_mse, b={bits}"
        accept.within("trellis", what, quantizer.expected_mse, measured, 0.04, 1000)
        assert states == 8 or measured < 0.85 * TurboQuantMSE(DIM, bits).expected_mse


@pytest.mark.parametrize("bits", RATIOS)
def test_row_17_products_beat_prod(bits, accept, sphere, clustered):
    def scaled_squares(make):
        for seed in range(200):
            x, y = sphere(200, DIM, seed).reshape(2, 100, DIM)
            decoded = make(seed, x)
            yield DIM * ((decoded.astype(np.float64) * y).sum(axis=1) - (x * y).sum(axis=1)) ** 2

    def prod(seed, x):
        quantizer = TurboQuantProd(DIM, bits, seed=seed)
        return quantizer.dequantize(quantizer.quantize(x))

    def ours(seed, x):
        codec = searching(bits, seed=seed, scale="unbiased")
        return codec.decode(codec.encode(x))

    theirs, _, count = clustered(scaled_squares(prod))
    mean, _, _ = clustered(scaled_squares(ours))
    accept.at_least("17", f"prod / trellis, rule unbiased, d*MSE, b={bits}", RATIOS[bits], theirs / mean, count)


@pytest.mark.parametrize("bits", RATIOS)
def test_row_8_products_are_unbiased(bits, accept, sphere, at_cosine, clustered):
    for cosine in (0.0, 0.3, 0.9):
        errors = []
        for seed in range(150):
            x = sphere(200, DIM, seed)
            codec = searching(bits, states=256, seed=seed, scale="unbiased", search=3)
            decoded = codec.decode(codec.encode(x)).astype(np.float64)
            errors.append((decoded * at_cosine(x, cosine, seed + int(1000 * cosine))).sum(axis=1) - cosine)
        mean, deviation, count = clustered(errors)
        accept.near("8", f"z of trellis, unbiased, b={bits}, cos {cosine}", 0.0, mean / deviation, 4.5, count)


def test_row_21_attention_keeps_its_weights(accept):
    random = np.random.default_rng(2100)
    basis, _ = np.linalg.qr(random.standard_normal((DIM, DIM)))
    sigma = np.arange(1, DIM + 1) ** -0.5
    keys = (random.standard_normal((2048, DIM)) * sigma) @ basis
    queries = (random.standard_normal((256, DIM)) * sigma) @ basis
    queries *= 1.5 / (queries @ keys.T).std()

    def divergence(scores):
        exact, found = (s - np.log(np.exp(s).sum(axis=1, keepdims=True)) for s in (queries @ keys.T, scores))
        return (np.exp(exact) * (exact - found)).sum(axis=1).mean()

    found = [
        divergence(codec.scores(codec.encode(keys), queries).astype(np.float64))
        for codec in (
            searching(4, scale="unbiased", search=3),
            VectorCodec(TurboQuantMSE(DIM, 4, seed=21), scale="plain"),
        )
    ]
    accept.at_most("21", "attention KL, trellis / plain scalar code, b=4", 0.40, found[0] / found[1], 256)
