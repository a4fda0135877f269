"""Constructors refuse every option that they cannot mean, with a typed error that says what was expected."""

import numpy as np
import pytest

import tq_core
from tq_core import (
    QJL,
    BackendUnavailable,
    InvalidBitWidth,
    InvalidDimension,
    InvalidSpec,
    PolarQuant,
    TrellisQuant,
    TurboQuantMSE,
    TurboQuantProd,
    VectorCodec,
)

WITH_BITS = [TurboQuantMSE, TurboQuantProd, PolarQuant]
EVERY = [*WITH_BITS, TrellisQuant, QJL]


def make(cls, dim=64, bits=4, **options):
    return cls(dim, **options) if cls is QJL else cls(dim, bits, **options)


@pytest.mark.parametrize("cls", EVERY)
@pytest.mark.parametrize("dim", [1, 0, -64, (1 << 20) + 1, 10**30])
def test_dimensions_out_of_range(cls, dim):
    with pytest.raises(InvalidDimension, match=rf"dim must lie in 2\.\.1048576, got {dim}"):
        make(cls, dim)


@pytest.mark.parametrize("cls", EVERY)
@pytest.mark.parametrize("dim", [64.0, True, "64", None, np.array([64]), np.array(64), np.bool_(True)])
def test_dimensions_that_are_no_integers(cls, dim):
    with pytest.raises(InvalidDimension, match="dim must be an integer, got"):
        make(cls, dim)


@pytest.mark.parametrize(("cls", "bits"), [(TurboQuantMSE, 0), (TurboQuantProd, 1), (PolarQuant, 0)])
def test_too_few_bits(cls, bits):
    with pytest.raises(InvalidBitWidth, match=rf"takes [12] to 8 bits, got {bits}"):
        make(cls, bits=bits)


@pytest.mark.parametrize("cls", WITH_BITS)
@pytest.mark.parametrize("bits", [9, -1, 1000])
def test_bits_out_of_range(cls, bits):
    with pytest.raises(InvalidBitWidth, match=rf"bits, got {bits}"):
        make(cls, bits=bits)


@pytest.mark.parametrize("cls", WITH_BITS)
@pytest.mark.parametrize("bits", [True, 4.0, 2.75, "4", None, float("nan"), np.array(2.5)])
def test_bits_that_are_no_integers(cls, bits):
    with pytest.raises(InvalidBitWidth, match="bits must be an integer, got"):
        make(cls, bits=bits)


@pytest.mark.parametrize("bits", [0, 9, 4.0, 2.26, float("inf"), "2.5", True])
def test_the_fractional_widths_are_named(bits):
    with pytest.raises(InvalidBitWidth, match=r"; its fractional widths are 2\.25, 2\.5, 3\.25, 3\.5$"):
        TurboQuantMSE(64, bits)


@pytest.mark.parametrize("cls", [TurboQuantProd, PolarQuant])
@pytest.mark.parametrize("bits", [2.25, 2.5, 3.25, 3.5])
def test_only_the_mse_quantizer_takes_fractional_widths(cls, bits):
    with pytest.raises(InvalidBitWidth, match=rf"bits must be an integer, got {bits}$"):
        cls(64, bits)


@pytest.mark.parametrize("cls", EVERY)
@pytest.mark.parametrize("seed", [-1, 1 << 64])
def test_seeds_out_of_range(cls, seed):
    with pytest.raises(InvalidSpec, match=rf"seed must lie in 0\.\.2\*\*64-1, got {seed}"):
        make(cls, seed=seed)


@pytest.mark.parametrize("cls", EVERY)
@pytest.mark.parametrize("seed", [1.5, None, "0", False])
def test_seeds_that_are_no_integers(cls, seed):
    with pytest.raises(InvalidSpec, match="seed must be an integer, got"):
        make(cls, seed=seed)


@pytest.mark.parametrize("cls", EVERY)
def test_numpy_integers_are_integers(cls):
    quantizer = make(cls, np.int32(64), np.uint8(4), seed=np.uint64(2**64 - 1))
    assert type(quantizer.spec["dim"]) is int
    assert quantizer.spec["seed"] == 2**64 - 1


@pytest.mark.parametrize("cls", [TurboQuantMSE, TurboQuantProd])
@pytest.mark.parametrize("rotation", ["Hadamard", "haar", "", None, 3, ["dense"]])
def test_unknown_rotations(cls, rotation):
    with pytest.raises(InvalidSpec, match="rotation must be one of 'hadamard', 'dense', got"):
        make(cls, rotation=rotation)


@pytest.mark.parametrize("cls", [TurboQuantProd, QJL])
@pytest.mark.parametrize("sketch", ["Gaussian", "dense", "", None, 3])
def test_unknown_sketches(cls, sketch):
    with pytest.raises(InvalidSpec, match="sketch must be one of 'gaussian', 'hadamard', got"):
        make(cls, sketch=sketch)


@pytest.mark.parametrize("projections", [0, -1, (1 << 20) + 1])
def test_projections_out_of_range(projections):
    with pytest.raises(InvalidSpec, match=rf"projections must lie in 1\.\.1048576, got {projections}"):
        QJL(64, projections=projections)


def test_a_structured_sketch_has_as_many_projections_as_dimensions():
    with pytest.raises(InvalidSpec, match="projections = dim = 64, got 32"):
        QJL(64, projections=32, sketch="hadamard")


@pytest.mark.parametrize("dim", [3, 12, 96, 100])
def test_polar_needs_a_power_of_two(dim):
    with pytest.raises(InvalidDimension, match=f"power-of-two dim, got {dim}"):
        PolarQuant(dim, 4)


@pytest.mark.parametrize(
    ("build", "what"),
    [
        (lambda dim: TurboQuantMSE(dim, 4, rotation="dense"), "rotation"),
        (lambda dim: TurboQuantProd(dim, 4), "sketch"),
        (lambda dim: QJL(dim), "sketch"),
    ],
)
def test_matrices_of_gigabytes_are_refused_before_they_are_built(build, what):
    with pytest.raises(InvalidDimension, match=rf"the {what} matrix of dim 1048576 .*use {what}='hadamard'"):
        build(1 << 20)


@pytest.mark.parametrize("backend", [None, 3, ["numpy"], np])
@pytest.mark.parametrize("cls", EVERY)
def test_backends_that_are_no_names(cls, backend):
    with pytest.raises(InvalidSpec, match="backend must be a name"):
        make(cls, backend=backend)


@pytest.mark.parametrize("cls", EVERY)
def test_unknown_backends(cls):
    with pytest.raises(BackendUnavailable, match="backend 'fortran' cannot run: no such backend is installed; known"):
        make(cls, backend="fortran")


@pytest.mark.parametrize("scale", ["none", "Unbiased", None, 1.0])
def test_unknown_scale_rules(scale):
    with pytest.raises(InvalidSpec, match="scale must be one of 'plain', 'norm', 'unbiased', 'mse', got"):
        VectorCodec(TurboQuantMSE(64, 4), scale=scale)


@pytest.mark.parametrize("norm_dtype", ["float64", "bfloat16", np.float16, None])
def test_unknown_norm_dtypes(norm_dtype):
    with pytest.raises(InvalidSpec, match="norm_dtype must be one of 'float16', 'float32', got"):
        VectorCodec(TurboQuantMSE(64, 4), norm_dtype=norm_dtype)


@pytest.mark.parametrize("search", [1, 2, 4, 64])
def test_searches_without_a_middle(search):
    with pytest.raises(InvalidSpec, match=f"0, or odd and at least 3, got {search}"):
        VectorCodec(TurboQuantMSE(64, 4), search=search)


@pytest.mark.parametrize("search", [-1, 66, 67, 10**9])
def test_searches_out_of_range(search):
    with pytest.raises(InvalidSpec, match=rf"search must lie in 0\.\.65, got {search}"):
        VectorCodec(TurboQuantMSE(64, 4), search=search)


@pytest.mark.parametrize("search", [True, 3.0, "9", None])
def test_searches_that_are_no_integers(search):
    with pytest.raises(InvalidSpec, match="search must be an integer, got"):
        VectorCodec(TurboQuantMSE(64, 4), search=search)


def test_searching_polar_codes_means_nothing():
    with pytest.raises(InvalidSpec, match="not to polar ones; use search=0"):
        VectorCodec(PolarQuant(64, 4), search=3)


@pytest.mark.parametrize("underflow", ["ignore", None, 0])
def test_unknown_underflow_rules(underflow):
    with pytest.raises(InvalidSpec, match="underflow must be one of 'raise', 'zero', got"):
        VectorCodec(TurboQuantMSE(64, 4), underflow=underflow)


@pytest.mark.parametrize("inner", [QJL(64), "mse", None, {"kind": "mse"}, VectorCodec(TurboQuantMSE(64, 4))])
def test_a_codec_wraps_a_quantizer_of_vectors(inner):
    with pytest.raises(
        InvalidSpec, match="a codec wraps TurboQuantMSE, TurboQuantProd, TrellisQuant or PolarQuant, got"
    ):
        VectorCodec(inner)


@pytest.mark.parametrize("cls", [TurboQuantMSE, TurboQuantProd])
def test_a_class_rebuilds_its_own_kind_alone(cls):
    other = TurboQuantProd if cls is TurboQuantMSE else TurboQuantMSE
    with pytest.raises(InvalidSpec, match=f"{cls.__name__} is of kind"):
        cls.from_spec(other(64, 4).spec)
    assert cls.from_spec(cls(64, 4, seed=3).spec).spec == cls(64, 4, seed=3).spec


def test_options_are_keyword_only():
    with pytest.raises(TypeError, match="positional"):
        TurboQuantMSE(64, 4, 7)
    with pytest.raises(TypeError, match="positional"):
        tq_core.VectorCodec(TurboQuantMSE(64, 4), "mse")
