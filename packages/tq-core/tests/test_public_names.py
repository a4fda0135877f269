"""The public surface: a sorted list, and signatures that a downstream project may rely on."""

import inspect

import numpy as np
import pytest

import tq_core

NAMES = [
    *("COMPILED", "Codes", "CorruptData", "Encoded", "FORMAT_VERSION", "FormatVersion", "InvalidBitWidth"),
    *("InvalidDimension", "InvalidDtype", "InvalidSpec", "NotFinite", "NotUnitNorm", "PolarQuant", "QJL"),
    *("RowOutOfRange", "ScaleRange", "ShapeMismatch", "SpecMismatch", "TrellisQuant", "TurboQuantError"),
    *("TurboQuantMSE",),
    *("TurboQuantProd", "VectorCodec", "ZeroVector", "BackendUnavailable", "backends", "from_spec", "normalize"),
    *("report", "WrongDevice", "OutOfDeviceMemory"),
]

CONSTRUCTORS = {
    "TurboQuantMSE": "(dim, bits, *, seed=0, rotation='hadamard', backend='auto')",
    "TurboQuantProd": "(dim, bits, *, seed=0, rotation='hadamard', sketch='gaussian', backend='auto')",
    "TrellisQuant": "(dim, bits, *, seed=0, states=1024, rotation='hadamard', backend='auto')",
    "QJL": "(dim, *, projections=None, seed=0, sketch='gaussian', backend='auto')",
    "PolarQuant": "(dim, bits, *, seed=0, backend='auto')",
    "VectorCodec": "(quantizer, *, scale='unbiased', norm_dtype='float16', search=0, underflow='raise')",
    "Codes": "(spec, arrays, *, single=False)",
    "from_spec": "(spec, *, backend='auto')",
    "normalize": "(x)",
    "backends": "()",
    "report": "()",
}

METHODS = {
    "quantize": "(self, x)",
    "dequantize": "(self, codes)",
    "scores": "(self, codes, queries)",
}


def bare(function):
    """The signature without annotations."""
    signature = inspect.signature(function)
    parameters = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in signature.parameters.values()]
    return str(inspect.Signature(parameters))


def test_public_names_are_exactly_these():
    assert sorted(tq_core.__all__) == sorted(NAMES)
    for name in NAMES:
        assert hasattr(tq_core, name)


@pytest.mark.parametrize("name", CONSTRUCTORS)
def test_signatures_are_as_promised_with_keyword_only_options(name):
    assert bare(getattr(tq_core, name)) == CONSTRUCTORS[name]


@pytest.mark.parametrize("name", ["TurboQuantMSE", "TurboQuantProd", "TrellisQuant", "QJL", "PolarQuant"])
def test_every_quantizer_speaks_the_same_vocabulary(name):
    cls = getattr(tq_core, name)
    for method, signature in METHODS.items():
        assert bare(getattr(cls, method)) == signature
    for attribute in ("spec", "expected_mse", "bits_per_vector", "dim", "tables", "state_nbytes"):
        assert isinstance(inspect.getattr_static(cls, attribute), property), attribute


def test_the_codec_speaks_its_own_vocabulary():
    assert bare(tq_core.VectorCodec.encode) == "(self, x)"
    assert bare(tq_core.VectorCodec.decode) == "(self, encoded)"
    assert bare(tq_core.VectorCodec.scores) == "(self, encoded, queries, *, accuracy='exact')"
    assert bare(tq_core.VectorCodec.search) == "(self, encoded, queries, k, mask=None, *, accuracy='auto')"


def test_everything_public_says_what_it_guarantees():
    for name in NAMES:
        found = getattr(tq_core, name)
        if not inspect.isclass(found) and not inspect.isfunction(found):
            continue
        assert found.__doc__, name
        for member, value in vars(found).items() if inspect.isclass(found) else ():
            if not member.startswith("_") and (inspect.isfunction(value) or isinstance(value, property)):
                assert value.__doc__, f"{name}.{member}"


@pytest.mark.parametrize("make", [tq_core.TurboQuantMSE, tq_core.TurboQuantProd])
def test_arguments_can_be_read_back(make):
    quantizer = make(24, 3, seed=7)
    assert (quantizer.dim, quantizer.bits, quantizer.seed) == (24, 3, 7)


def test_constants():
    assert tq_core.FORMAT_VERSION == 1
    assert isinstance(tq_core.COMPILED, bool)


def test_sizes_count_everything_and_match_what_is_held(encoder, unit_rows):
    made = encoder.encode(unit_rows(6, encoder.dim))
    assert made.nbytes * 8 == 6 * encoder.maker.bits_per_vector
    assert encoder.maker.state_nbytes == sum(table.nbytes for table in encoder.maker.tables)
    assert encoder.maker.state_nbytes > 0


@pytest.mark.parametrize(
    ("maker", "bytes_per_vector"),
    [
        (lambda: tq_core.VectorCodec(tq_core.TurboQuantMSE(128, 4)), 64 + 2),
        (lambda: tq_core.VectorCodec(tq_core.TurboQuantMSE(128, 3), norm_dtype="float32"), 48 + 4),
        (lambda: tq_core.VectorCodec(tq_core.TurboQuantProd(128, 4)), 64 + 4),
        (lambda: tq_core.TurboQuantMSE(128, 1), 16),
        (lambda: tq_core.TurboQuantProd(128, 4), 64 + 2),
        (lambda: tq_core.QJL(128), 16 + 4),
        (lambda: tq_core.PolarQuant(128, 4), 32 + 8 + 4 + 2 + 16),
    ],
)
def test_bytes_of_a_vector_are_the_published_ones(maker, bytes_per_vector):
    assert maker().bits_per_vector == 8 * bytes_per_vector


def test_expected_mse_falls_with_bits_and_is_met(unit_rows):
    x = unit_rows(400, 64)
    for make in (tq_core.TurboQuantMSE, tq_core.TurboQuantProd, tq_core.PolarQuant):
        expected = []
        for bits in (2, 3, 4):
            quantizer = make(64, bits)
            expected.append(quantizer.expected_mse)
            decoded = quantizer.dequantize(quantizer.quantize(x)).astype(np.float64)
            measured = ((decoded - x) ** 2).sum(axis=1).mean()
            assert measured == pytest.approx(expected[-1], rel=0.1)
        assert expected[0] >= expected[1] >= expected[2]
