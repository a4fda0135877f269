"""VectorCodec: the algebra of the four scale rules, scale search, zero and extreme rows."""

import numpy as np
import pytest

from tq_core import PolarQuant, ScaleRange, ShapeMismatch, TurboQuantMSE, TurboQuantProd, VectorCodec, from_spec
from tq_core.codebook import codebook

DIMS_BITS = [(2, 1), (12, 2), (33, 3), (64, 4), (100, 8), (128, 1)]


def exact_rows(gaussian_rows, dim):
    """Ordinary rows of norms from 1e-3 to 1e3, float64."""
    return gaussian_rows(12, dim).astype(np.float64) * np.logspace(-3, 3, 12)[:, None]


def reconstruct(dim, bits, x, scale, **options):
    codec = VectorCodec(TurboQuantMSE(dim, bits, seed=4), scale=scale, norm_dtype="float32", **options)
    return codec.decode(codec.encode(x)).astype(np.float64)


def relative_errors(x, decoded):
    return ((decoded - x) ** 2).sum(axis=1) / (x**2).sum(axis=1)


# 4096 z is rounded to an integer before the scale is computed: half a unit a coordinate
ROUNDING = 3e-4


@pytest.mark.parametrize(("dim", "bits"), DIMS_BITS)
def test_unbiased_gives_every_row_its_inner_product_with_itself(gaussian_rows, dim, bits):
    x = exact_rows(gaussian_rows, dim)
    decoded = reconstruct(dim, bits, x, "unbiased")
    assert (x * decoded).sum(axis=1) == pytest.approx((x * x).sum(axis=1), rel=ROUNDING)


@pytest.mark.parametrize(("dim", "bits"), DIMS_BITS)
def test_norm_restores_the_norm_of_every_row(gaussian_rows, dim, bits):
    x = exact_rows(gaussian_rows, dim)
    decoded = reconstruct(dim, bits, x, "norm")
    assert np.linalg.norm(decoded, axis=1) == pytest.approx(np.linalg.norm(x, axis=1), rel=ROUNDING)


@pytest.mark.parametrize(("dim", "bits"), DIMS_BITS)
def test_mse_has_the_least_error_of_all_scales(gaussian_rows, dim, bits):
    x = exact_rows(gaussian_rows, dim)
    decoded = reconstruct(dim, bits, x, "mse")
    best = relative_errors(x, decoded)
    for factor in np.linspace(0.5, 1.5, 41):
        assert (best <= relative_errors(x, decoded * factor) + 1e-7).all()
    for other in ("plain", "norm", "unbiased"):
        assert (best <= relative_errors(x, reconstruct(dim, bits, x, other)) + 1e-7).all()


@pytest.mark.parametrize(("dim", "bits"), DIMS_BITS)
def test_plain_is_the_paper_s_scale(gaussian_rows, dim, bits):
    x = exact_rows(gaussian_rows, dim)
    quantizer = TurboQuantMSE(dim, bits, seed=4)
    unit = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    expected = quantizer.dequantize(quantizer.quantize(unit)) * np.linalg.norm(x, axis=1, keepdims=True)
    assert np.allclose(reconstruct(dim, bits, x, "plain"), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("dim", "bits"), DIMS_BITS)
def test_the_norm_rule_is_the_geometric_mean_of_the_other_two(gaussian_rows, dim, bits):
    x = exact_rows(gaussian_rows, dim)
    scales = {
        rule: VectorCodec(TurboQuantMSE(dim, bits), scale=rule, norm_dtype="float32").encode(x).arrays["scales"]
        for rule in ("mse", "norm", "unbiased")
    }
    assert np.sqrt(scales["mse"].astype(float) * scales["unbiased"]) == pytest.approx(
        scales["norm"].astype(float), rel=1e-3
    )


def test_polar_codes_keep_the_same_algebra(gaussian_rows):
    x = exact_rows(gaussian_rows, 64)
    lengths = np.linalg.norm(x, axis=1)
    decoded = {}
    for rule in ("plain", "mse", "norm", "unbiased"):
        codec = VectorCodec(PolarQuant(64, 4), scale=rule, norm_dtype="float32")
        decoded[rule] = codec.decode(codec.encode(x)).astype(np.float64)
    assert (x * decoded["unbiased"]).sum(axis=1) == pytest.approx(lengths**2, rel=1e-5)
    assert np.linalg.norm(decoded["norm"], axis=1) == pytest.approx(lengths, rel=1e-5)
    for rule in ("plain", "norm", "unbiased"):
        assert (relative_errors(x, decoded["mse"]) <= relative_errors(x, decoded[rule]) + 1e-9).all()


@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("scale", ["plain", "mse", "norm", "unbiased"])
def test_prod_scores_are_unbiased_over_seeds_under_every_rule(gaussian_rows, bits, scale):
    x, queries = gaussian_rows(20, 32), gaussian_rows(20, 32, seed=5)
    exact = queries.astype(np.float64) @ x.T.astype(np.float64)
    errors = []
    for seed in range(60):
        codec = VectorCodec(TurboQuantProd(32, bits, seed=seed), scale=scale, norm_dtype="float32")
        errors.append(codec.scores(codec.encode(x), queries) - exact)
    errors = np.array(errors)
    means = errors.mean(axis=(1, 2))
    assert abs(means.mean()) < 4.5 * means.std() / np.sqrt(60)
    # along each row itself, where a biased code shrinks
    slope = (errors * exact).sum(axis=(1, 2)) / (exact**2).sum()
    assert abs(slope.mean()) < 4.5 * slope.std() / np.sqrt(60)


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize(("dim", "search"), [(64, 13), (128, 9), (100, 5), (33, 65)])
def test_search_never_worsens_the_error_of_any_row(gaussian_rows, dim, bits, search):
    x = gaussian_rows(80, dim).astype(np.float64)
    before = relative_errors(x, reconstruct(dim, bits, x, "mse"))
    after = relative_errors(x, reconstruct(dim, bits, x, "mse", search=search))
    # the merit is computed from rounded coordinates: a tie may go either way within their rounding
    assert (after <= before * (1 + 1e-3) + 1e-7).all()
    if bits > 1:  # one-bit codes are signs, which no scale changes
        assert after.mean() < 0.995 * before.mean()


def test_more_bits_and_every_rule_reach_the_expected_error(gaussian_rows):
    x = gaussian_rows(500, 128).astype(np.float64)
    for bits, plain, unbiased in ((2, 0.116, 0.1307), (3, 0.03397, 0.0347), (4, 0.009315, 0.00923)):
        assert relative_errors(x, reconstruct(128, bits, x, "plain")).mean() == pytest.approx(plain, rel=0.04)
        assert relative_errors(x, reconstruct(128, bits, x, "unbiased")).mean() == pytest.approx(unbiased, rel=0.04)


@pytest.mark.parametrize(("dim", "bits"), [(766_156, 3), (1_044_184, 2), (1_048_575, 2)])
def test_the_largest_dimensions_have_a_codebook(dim, bits):
    # the distortion of the Gaussian, which such a coordinate is
    assert codebook(dim, bits).distortion == pytest.approx({2: 0.117482, 3: 0.034548}[bits], rel=1e-4)


def test_zero_rows_are_legal_and_stay_zero(codec, gaussian_rows):
    x = gaussian_rows(5, codec.dim)
    x[1] = 0
    x[3] = -0.0
    encoded = codec.encode(x)
    assert (encoded.arrays["scales"][[1, 3]] == 0).all()
    assert not np.signbit(encoded.arrays["scales"]).any()
    assert not codec.decode(encoded)[[1, 3]].any()
    assert not codec.scores(encoded, x[:2])[:, [1, 3]].any()
    assert type(encoded).from_bytes(encoded.to_bytes()) == encoded
    alone = codec.encode(np.zeros(codec.dim))
    assert not codec.decode(alone).any()


def test_scores_are_queries_times_decoded_rows(encoder, unit_rows, gaussian_rows):
    made = encoder.encode(unit_rows(30, encoder.dim))
    queries = gaussian_rows(8, encoder.dim, seed=6)
    decoded = encoder.decode(made).astype(np.float64)
    lengths = np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(decoded, axis=1)
    error = np.abs(encoder.scores(made, queries) - queries.astype(np.float64) @ decoded.T)
    assert (error <= 1e-4 * lengths).all()


@pytest.mark.parametrize("exponent", [-15, -5, 0, 4, 15])
def test_norms_from_1e_minus_15_to_1e15_with_float32_scales(gaussian_rows, exponent):
    x = gaussian_rows(6, 64).astype(np.float64) * 10.0**exponent
    for make in (TurboQuantMSE, TurboQuantProd, PolarQuant):
        codec = VectorCodec(make(64, 4), norm_dtype="float32")
        encoded = codec.encode(x)
        assert relative_errors(x, codec.decode(encoded)).max() < 0.35
        query = x[0] / np.linalg.norm(x[0])
        assert codec.scores(encoded, query)[0, 0] == pytest.approx(float(np.linalg.norm(x[0])), rel=0.35)


@pytest.mark.parametrize("make", [TurboQuantMSE, TurboQuantProd, PolarQuant])
def test_a_power_of_two_changes_the_scale_alone(gaussian_rows, make):
    x = gaussian_rows(6, 64).astype(np.float64)
    codec = VectorCodec(make(64, 4), norm_dtype="float32")
    small, large = codec.encode(x), codec.encode(x * 2.0**40)
    assert np.array_equal(small.arrays["packed"], large.arrays["packed"])
    assert np.array_equal(small.arrays["scales"] * np.float32(2.0**40), large.arrays["scales"])


def test_float32_scales_near_the_limit_decode_to_finite_rows(gaussian_rows):
    x = gaussian_rows(4, 128).astype(np.float64) * 1e36
    for make in (TurboQuantMSE, TurboQuantProd, PolarQuant):
        codec = VectorCodec(make(128, 4), norm_dtype="float32")
        assert relative_errors(x / 1e36, codec.decode(codec.encode(x)) / 1e36).max() < 0.2


@pytest.mark.parametrize(("dim", "bits"), [(2, 1), (2, 2), (4, 1), (16, 1)])
def test_coarse_polar_codes_of_axes_have_a_scale(dim, bits):
    x = np.concatenate([np.eye(dim), -np.eye(dim)]).astype(np.float32)
    for seed in range(5):
        for rule in ("plain", "mse", "norm", "unbiased"):
            codec = VectorCodec(PolarQuant(dim, bits, seed=seed), scale=rule)
            scales = codec.encode(x).arrays["scales"]
            assert (scales > 0).all()
            assert np.isfinite(scales).all()


@pytest.mark.parametrize(("factor", "shown"), [(1e5, "100000"), (1e30, r"1e\+30"), (1e200, r"1e\+200")])
def test_norms_that_float16_cannot_hold(factor, shown):
    codec = VectorCodec(TurboQuantMSE(64, 4))
    x = np.zeros((3, 64))
    x[1:, 0] = factor
    with pytest.raises(
        ScaleRange, match=rf"scale of row 1 \(norm {shown}.*overflows float16; use norm_dtype='float32'"
    ):
        codec.encode(x)


@pytest.mark.parametrize("make", [TurboQuantMSE, TurboQuantProd, PolarQuant])
@pytest.mark.parametrize("factor", [1e39, 1e160, 1e308])
def test_norms_that_float32_cannot_hold(make, factor):
    codec = VectorCodec(make(64, 4), norm_dtype="float32")
    x = np.zeros((2, 64))
    x[1, 5] = -factor
    with pytest.raises(ScaleRange, match=rf"of row 1 \(norm 1e\+{np.log10(factor):.0f}\) overflows float32; scale"):
        codec.encode(x)


@pytest.mark.parametrize("rule", ["unbiased", "plain"])
def test_the_largest_float16_row_needs_room_for_the_rule(rule):
    codec = VectorCodec(TurboQuantMSE(64, 1), scale=rule)
    x = np.zeros(64, np.float16)
    x[0] = 65504
    if rule == "plain":
        assert codec.encode(x).arrays["scales"][0] == 65504
    else:
        with pytest.raises(ScaleRange, match=r"scale of row 0 \(norm 65504\) overflows float16"):
            codec.encode(x)


@pytest.mark.parametrize("norm", [1e-9, 1e-30, 1e-170, 5e-324])
def test_norms_that_would_be_stored_as_zero(norm):
    x = np.zeros((2, 64))
    x[1, 3] = norm
    codec = VectorCodec(TurboQuantMSE(64, 4))
    with pytest.raises(ScaleRange, match=rf"row 1 has norm {norm:.6g}, which float16 would store as 0; use norm_dtype"):
        codec.encode(x)
    accepting = VectorCodec(TurboQuantMSE(64, 4), underflow="zero")
    assert not accepting.decode(accepting.encode(x)).any()


def test_underflow_is_a_matter_of_encoding_alone(gaussian_rows):
    x = gaussian_rows(3, 64)
    accepting, raising = (VectorCodec(TurboQuantMSE(64, 4), underflow=rule) for rule in ("zero", "raise"))
    assert accepting.spec == raising.spec
    assert np.array_equal(raising.decode(accepting.encode(x)), accepting.decode(raising.encode(x)))
    assert from_spec(accepting.spec).underflow == "raise"


def test_subnormal_float16_rows_keep_their_direction():
    codec = VectorCodec(TurboQuantMSE(64, 4), norm_dtype="float32")
    x = (np.arange(64) % 7 - 3).astype(np.float16) * np.float16(6e-8)
    exact = x.astype(np.float64)
    decoded = codec.decode(codec.encode(x)).astype(np.float64)
    cosine = exact @ decoded / np.linalg.norm(exact) / np.linalg.norm(decoded)
    assert cosine > 0.99


@pytest.mark.parametrize("backend", ["numpy", "scalar"])
@pytest.mark.parametrize(
    "make", [lambda b: TurboQuantMSE(40, 3, backend=b), lambda b: TurboQuantProd(40, 4, backend=b)]
)
def test_combine_is_a_weighted_sum_of_decoded_rows(make, backend):
    random = np.random.default_rng(0)
    codec = VectorCodec(make(backend))
    encoded = codec.encode(random.standard_normal((30, 40)))
    weights = random.standard_normal((4, 30))
    decoded = codec.decode(encoded).astype(np.float64)
    np.testing.assert_allclose(codec.combine(encoded, weights), weights @ decoded, rtol=0, atol=1e-4)
    np.testing.assert_allclose(codec.combine(encoded, weights[0]), weights[:1] @ decoded, rtol=0, atol=1e-4)
    assert not codec.combine(encoded[:0], np.empty((4, 0))).any()
    with pytest.raises(ShapeMismatch, match=r"weights must have shape \(30,\) or \(rows, 30\)"):
        codec.combine(encoded, weights[:, :29])


def test_combine_of_polar_codes():
    random = np.random.default_rng(0)
    codec = VectorCodec(PolarQuant(32, 4))
    encoded = codec.encode(random.standard_normal((30, 32)))
    weights = random.standard_normal((4, 30))
    np.testing.assert_allclose(codec.combine(encoded, weights), weights @ codec.decode(encoded), rtol=0, atol=1e-4)
