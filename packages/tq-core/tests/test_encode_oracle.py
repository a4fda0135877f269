"""Codes, scales and residual norms equal those of an encoder written from docs/format.md alone, byte for byte."""

import numpy as np
import pytest

from tq_core import QJL, PolarQuant, TurboQuantMSE, TurboQuantProd, VectorCodec
from tq_core.codebook import codebook, codebook_of


def require_same(slow, codec, x, **options):
    """Compare a float32-norm codec with the slow encoder on every row of x."""
    spec = codec.spec
    inner = spec["quantizer"]
    bits = inner["bits"] - (inner["kind"] == "prod")
    halves = [book.half for book in codebook_of(inner["dim"], bits).books]
    encoded = codec.encode(x)
    stored = np.dtype(spec["norm_dtype"]).type
    for row, values in enumerate(x):
        packed, scale, gamma = slow.encode(
            values, halves, bits, seed=inner["seed"], rule=spec["scale"], search=spec["search"], **options
        )
        assert encoded.arrays["packed"][row].tobytes() == packed, f"codes of row {row}"
        assert encoded.arrays["scales"][row] == stored(np.float32(scale)), f"scale of row {row}"
        if gamma is not None:
            assert encoded.arrays["gammas"][row] == stored(np.float32(gamma)), f"residual norm of row {row}"


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("dim", [2, 7, 33, 64])
def test_codes_and_scales_of_every_width(slow, awkward_rows, dim, bits):
    codec = VectorCodec(TurboQuantMSE(dim, bits, seed=dim), norm_dtype="float32", underflow="zero")
    require_same(slow, codec, awkward_rows(dim))


@pytest.mark.parametrize(("dim", "bits"), [(12, 3), (20, 2), (63, 4), (80, 5), (96, 4), (100, 1), (128, 3), (129, 6)])
def test_codes_and_scales_of_every_kind_of_dimension(slow, awkward_rows, dim, bits):
    codec = VectorCodec(TurboQuantMSE(dim, bits, seed=3), norm_dtype="float32", underflow="zero")
    require_same(slow, codec, awkward_rows(dim))


@pytest.mark.parametrize("bits", [2.25, 2.5, 3.25, 3.5])
@pytest.mark.parametrize("dim", [2, 5, 7, 33, 64, 100])
def test_codes_and_scales_of_fractional_widths(slow, awkward_rows, dim, bits):
    codec = VectorCodec(TurboQuantMSE(dim, bits, seed=dim), norm_dtype="float32", underflow="zero")
    require_same(slow, codec, awkward_rows(dim))


@pytest.mark.parametrize("scale", ["plain", "norm", "mse", "unbiased"])
@pytest.mark.parametrize("bits", [2.25, 2.5, 3.25, 3.5])
def test_scale_search_at_fractional_widths(slow, awkward_rows, bits, scale):
    codec = VectorCodec(TurboQuantMSE(63, bits, seed=4), scale=scale, norm_dtype="float32", search=7, underflow="zero")
    require_same(slow, codec, awkward_rows(63)[:9])


@pytest.mark.parametrize("norm_dtype", ["float16", "float32"])
@pytest.mark.parametrize("scale", ["plain", "norm", "mse", "unbiased"])
def test_the_four_scale_rules_in_both_storage_dtypes(slow, gaussian_rows, scale, norm_dtype):
    codec = VectorCodec(TurboQuantMSE(40, 2, seed=8), scale=scale, norm_dtype=norm_dtype)
    x = gaussian_rows(8, 40)
    x[5] = 0
    require_same(slow, codec, x)


@pytest.mark.parametrize(("dim", "bits", "search"), [(64, 4, 13), (64, 2, 3), (95, 3, 5), (96, 3, 9), (128, 4, 9)])
def test_scale_search_tries_the_written_candidates_in_the_written_order(slow, awkward_rows, dim, bits, search):
    codec = VectorCodec(TurboQuantMSE(dim, bits, seed=4), norm_dtype="float32", search=search, underflow="zero")
    require_same(slow, codec, awkward_rows(dim)[:9])


def test_search_without_rescaling_changes_nothing(slow, gaussian_rows):
    codec = VectorCodec(TurboQuantMSE(64, 3, seed=4), scale="plain", norm_dtype="float32", search=9)
    require_same(slow, codec, gaussian_rows(6, 64))


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_rows_are_normalised_in_float64_whatever_they_come_in(slow, gaussian_rows, dtype):
    x = (gaussian_rows(6, 48).astype(np.float64) / 3).astype(dtype)
    require_same(slow, VectorCodec(TurboQuantMSE(48, 5, seed=1), norm_dtype="float32"), x)


@pytest.mark.parametrize(("dim", "bits", "sketch"), [(33, 2, "gaussian"), (64, 4, "gaussian"), (64, 3, "hadamard")])
@pytest.mark.parametrize("scale", ["plain", "mse", "norm", "unbiased"])
def test_residual_and_sketch_of_prod(slow, awkward_rows, dim, bits, sketch, scale):
    quantizer = TurboQuantProd(dim, bits, seed=6, sketch=sketch)
    codec = VectorCodec(quantizer, scale=scale, norm_dtype="float32", underflow="zero")
    require_same(slow, codec, awkward_rows(dim)[:11], sketch=sketch)


@pytest.mark.parametrize(("dim", "sketch"), [(96, "hadamard"), (100, "hadamard"), (128, "gaussian")])
def test_residual_and_sketch_of_prod_at_larger_dimensions(slow, gaussian_rows, dim, sketch):
    codec = VectorCodec(TurboQuantProd(dim, 3, seed=2, sketch=sketch), search=3)
    require_same(slow, codec, gaussian_rows(3, dim), sketch=sketch)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_strict_quantizers_take_the_row_as_it_is(slow, unit_rows, dtype):
    x = unit_rows(5, 64).astype(np.float64)
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(dtype)
    codes = TurboQuantMSE(64, 4, seed=9).quantize(x)
    both = TurboQuantProd(64, 4, seed=9).quantize(x)
    for row, values in enumerate(x):
        packed, _, _ = slow.encode(values, [codebook(64, 4).half], 4, seed=9, rule="plain", is_strict=True)
        assert codes.arrays["packed"][row].tobytes() == packed
        packed, _, gamma = slow.encode(
            values, [codebook(64, 3).half], 3, seed=9, rule="plain", is_strict=True, sketch="gaussian"
        )
        assert both.arrays["packed"][row].tobytes() == packed
        assert both.arrays["gammas"][row] == np.float16(np.float32(gamma))


@pytest.mark.parametrize(("projections", "sketch"), [(50, "gaussian"), (64, "gaussian"), (64, "hadamard")])
def test_sign_bits_and_norms_of_qjl(slow, awkward_rows, projections, sketch):
    x = awkward_rows(64)
    codes = QJL(64, projections=projections, seed=12, sketch=sketch).quantize(x)
    for row, values in enumerate(x):
        packed, norm = slow.qjl(values, projections, seed=12, sketch=sketch)
        assert codes.arrays["packed"][row].tobytes() == packed
        assert codes.arrays["gammas"][row] == np.float32(norm)


def slow_polar(slow, values, quantizer):
    """Packed angles and radii of one unit row, pair by pair; the deeper edges are data."""
    spec = quantizer.spec
    v = [slow.clamped(np.float32(4096) * z) for z in slow.rotate(values, spec["seed"])]
    radii = [value / 4096 for value in v]
    packed, level = b"", 1
    while len(radii) > len(v) / min(16, len(v)):
        width = spec["bits"] if level == 1 else -(-spec["bits"] // 2)
        if level == 1:
            edges = [k * 2 * np.pi / (1 << width) for k in range(1, 1 << (width - 1))]
        else:
            edges = quantizer.books[level - 1].edges
        bins, longer = [], []
        for x, y in zip(radii[::2], radii[1::2], strict=True):
            longer.append(np.sqrt(x * x + y * y))
            folded = level == 1 and (y < 0 or (y == 0 and x < 0))
            if folded:
                x, y = -x, -y
            found = sum(y * np.cos(edge) - x * np.sin(edge) >= 0 for edge in edges) if x or y else 0
            bins.append(int(found) + (1 << (width - 1) if folded else 0))
        packed, radii, level = packed + slow.pack(bins, width), longer, level + 1
    return packed, np.array(radii, np.float16)


@pytest.mark.parametrize(("dim", "bits"), [(2, 4), (4, 3), (16, 8), (32, 1), (64, 4), (64, 5)])
def test_angles_and_radii_of_polar(slow, unit_rows, dim, bits):
    x = unit_rows(5, dim)
    x[4] = 0
    x[4, 1] = -1
    quantizer = PolarQuant(dim, bits, seed=7)
    codes = quantizer.quantize(x)
    for row, values in enumerate(x):
        packed, radii = slow_polar(slow, values, quantizer)
        assert codes.arrays["packed"][row].tobytes() == packed
        assert codes.arrays["radii"][row].tobytes() == radii.tobytes()
