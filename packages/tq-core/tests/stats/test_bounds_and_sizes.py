"""Acceptance rows 16, 20 and 22: the sphere's rate-distortion bound, exact sizes, index entropy.

| row | quantity | value | tolerance | N |
| --- | --- | --- | --- | --- |
| 16 | D of every quantizer, rule and width / the bound at the bits it stores | 1 - 4 sigma | at least | 2k |
| 20 | bytes a vector with float16 scalars, d a multiple of 8 | ceil(b d / 8) + 2 (mse), + 4 (prod) | exact | - |
| 22 | entropy of the indices, b=1..4 | 1.0000 1.9111 2.8249 3.7653 | .003 | 1e6 symbols |

The bound is computed from its definition: over von Mises-Fisher laws of concentration k, the rate is
KL(vMF(k) | uniform) and the distortion 1 - A(k)^2, A = I_{d/2}(k) / I_{d/2-1}(k). A(k) is a continued fraction, and
because the KL has derivative k A'(k), it is k A(k) - integral of A over 0..k.
"""

import functools
import math

import numpy as np
import pytest

from tq_core import PolarQuant, TurboQuantMSE, TurboQuantProd, VectorCodec, packing
from tq_core.radix import RADICES

pytestmark = pytest.mark.stats

BOUND_TIMES_4_TO_THE_B = {  # printed, for b = 1..8
    64: (0.9870, 0.9671, 0.9464, 0.9259, 0.9058, 0.8860, 0.8668, 0.8479),
    96: (0.9914, 0.9780, 0.9641, 0.9502, 0.9365, 0.9229, 0.9095, 0.8963),
    128: (0.9935, 0.9835, 0.9730, 0.9625, 0.9521, 0.9417, 0.9315, 0.9214),
    256: (0.9968, 0.9918, 0.9865, 0.9811, 0.9758, 0.9705, 0.9653, 0.9600),
    1024: (0.9992, 0.9979, 0.9966, 0.9953, 0.9939, 0.9926, 0.9912, 0.9899),
    1536: (0.9995, 0.9986, 0.9977, 0.9968, 0.9959, 0.9950, 0.9941, 0.9932),
}
ENTROPY = (1.0000, 1.9111, 2.8249, 3.7653)
NODES, WEIGHTS = np.polynomial.legendre.leggauss(8)


def shortfall(dim, k):
    """1 - A(k), A(k) = I_{dim/2}(k) / I_{dim/2-1}(k), k > 0, float64; small values keep their digits.

    Up to k = 10 dim by the continued fraction A = k / (dim + k^2 / (dim+2 + k^2 / (dim+4 + ...))), from the inside
    out; beyond it by the series in 1/k that solves A' = 1 - A^2 - (dim-1) A / k.
    """
    result = np.empty_like(k)
    near = k <= 10.0 * dim
    value, squares = np.zeros(near.sum()), k[near] ** 2
    for order in range(dim + 2 * (10 * dim + 200), dim - 2, -2):
        value = squares / (order + value)
    result[near] = 1.0 - value / k[near]
    terms = [1.0]
    for n in range(1, 31):
        products = sum(terms[i] * terms[n - i] for i in range(1, n))
        terms.append(0.5 * ((n - dim) * terms[n - 1] - products))
    result[~near] = -np.polynomial.polynomial.polyval(1.0 / k[~near], [0.0, *terms[1:]])
    return result


@functools.cache
def sphere_curve(dim):
    """(rate in bits a coordinate, ln D) on a fine grid of k: the KL is the integral of 1 - A, minus k (1 - A)."""
    edges = np.concatenate([[0.0], np.geomspace(1e-2 * dim, 1e24 * dim, 1600)])
    middles, halves = 0.5 * (edges[1:] + edges[:-1]), 0.5 * np.diff(edges)
    points = middles[:, None] + halves[:, None] * NODES
    integral = np.cumsum((shortfall(dim, points.ravel()).reshape(points.shape) @ WEIGHTS) * halves)
    ends = shortfall(dim, edges[1:])
    rates = (integral - edges[1:] * ends) / (dim * math.log(2))
    return np.concatenate([[0.0], rates]), np.concatenate([[0.0], np.log(ends * (2.0 - ends))])


def sphere_bound(dim, rate):
    """The least D of any code of `rate` bits a coordinate on the unit sphere; ln D is all but linear between points."""
    rates, log_distortions = sphere_curve(dim)
    assert rate < rates[-1]
    return math.exp(np.interp(rate, rates, log_distortions))


@pytest.mark.parametrize("dim", BOUND_TIMES_4_TO_THE_B)
def test_sphere_bound_is_the_printed_one(dim):
    for bits, printed in enumerate(BOUND_TIMES_4_TO_THE_B[dim], 1):
        assert sphere_bound(dim, bits) * 4.0**bits == pytest.approx(printed, rel=0, abs=1.1e-4)


def test_sphere_bound_knows_the_circle():
    """Four arcs of a circle reach 1 - 8 / pi^2 at one bit a coordinate; the bound lies below, not far."""
    assert 0.6 * (1 - 8 / math.pi**2) < sphere_bound(2, 1.0) < 1 - 8 / math.pi**2


def stored_rate(quantizer, codes):
    """Bits a coordinate that carry information about the direction.

    The scalars of mse and prod rows (norm, merged scale, residual norm) are left out, as if they came for free: the
    stricter reading. The radii of polar rows are part of the direction.
    """
    inner = quantizer.quantizer if isinstance(quantizer, VectorCodec) else quantizer
    arrays = codes.arrays
    size = arrays["packed"].nbytes + (arrays["radii"].nbytes if isinstance(inner, PolarQuant) else 0)
    return 8.0 * size / (len(codes) * inner.dim)


def makers(dim):
    """Every quantizer, rule and width of this dim, by name."""
    for bits in RADICES:
        quantizer = TurboQuantMSE(dim, bits, seed=16)
        yield f"mse, b={bits}", quantizer
        yield f"mse, b={bits}, mse, 33 scales", VectorCodec(quantizer, scale="mse", norm_dtype="float32", search=33)
    for bits in range(1, 9):
        quantizer = TurboQuantMSE(dim, bits, seed=16)
        yield f"mse, b={bits}", quantizer
        for rule in ("mse", "norm", "unbiased"):
            yield f"mse, b={bits}, {rule}", VectorCodec(quantizer, scale=rule, norm_dtype="float32")
        searched = VectorCodec(quantizer, scale="mse", norm_dtype="float32", search=33)
        yield f"mse, b={bits}, mse, 33 scales", searched
        if bits > 1:
            for sketch in ("gaussian", "hadamard"):
                prod = TurboQuantProd(dim, bits, seed=16, sketch=sketch)
                yield f"prod, b={bits}, {sketch}", prod
                yield f"prod, b={bits}, {sketch}, mse", VectorCodec(prod, scale="mse", norm_dtype="float32")
        if dim.bit_count() == 1:
            polar = PolarQuant(dim, bits, seed=16)
            yield f"polar, b={bits}", polar
            yield f"polar, b={bits}, mse", VectorCodec(polar, scale="mse", norm_dtype="float32")


@pytest.mark.parametrize("dim", [2, 8, 64, 96, 128, 256])
def test_row_16_nothing_lies_below_the_sphere_bound(dim, accept, sphere):
    rows = 2000
    x = sphere(rows, dim, 16)
    closest, name = math.inf, ""
    for what, quantizer in makers(dim):
        if isinstance(quantizer, VectorCodec):
            codes = quantizer.encode(x)
            decoded = quantizer.decode(codes)
        else:
            codes = quantizer.quantize(x)
            decoded = quantizer.dequantize(codes)
        errors = ((x - decoded.astype(np.float64)) ** 2).sum(axis=1)
        sigma = errors.std() / errors.mean() / math.sqrt(rows)
        bound = sphere_bound(dim, stored_rate(quantizer, codes))
        assert errors.mean() >= bound * (1 - 4 * sigma), f"{what}: {errors.mean():.6g} below {bound:.6g}"
        ratio = errors.mean() / bound
        if ratio < closest:
            closest, name = ratio, what
    accept.at_least("16", f"D / bound, d={dim}, closest: {name}", 1.0, closest, rows)


@pytest.mark.parametrize("dim", [8, 64, 96, 128, 200, 1536])
def test_row_20_bytes_a_vector_are_exact(dim, accept, sphere):
    x = sphere(10, dim, 20)
    for bits in (*range(1, 9), *RADICES):
        encoded = VectorCodec(TurboQuantMSE(dim, bits)).encode(x)
        accept.near(
            "20", f"bytes of mse, d={dim}, b={bits}", math.ceil(bits * dim / 8) + 2, encoded.nbytes / 10, 0.0, 10
        )
        assert VectorCodec(TurboQuantMSE(dim, bits)).bits_per_vector == 8 * encoded.nbytes // 10
        if bits > 1 and bits not in RADICES:
            encoded = VectorCodec(TurboQuantProd(dim, bits)).encode(x)
            accept.near(
                "20", f"bytes of prod, d={dim}, b={bits}", -(-bits * dim // 8) + 4, encoded.nbytes / 10, 0.0, 10
            )


def test_row_22_indices_have_the_gaussian_entropy(accept, sphere):
    rows, dim = 400, 3072
    for bits, value in enumerate(ENTROPY, 1):
        codes = TurboQuantMSE(dim, bits, seed=22).quantize(sphere(rows, dim, bits))
        indices = packing.unpack(codes.arrays["packed"], dim, bits)
        frequencies = np.bincount(indices.ravel(), minlength=2**bits) / indices.size
        entropy = -(frequencies * np.log2(frequencies)).sum()
        accept.near("22", f"index entropy, d={dim}, b={bits}", value, entropy, 0.003, indices.size)
