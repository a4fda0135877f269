"""Specs: plain dicts that travel as JSON and rebuild exactly what made them."""

import json
from types import MappingProxyType

import numpy as np
import pytest

import tq_core
from tq_core import InvalidBitWidth, InvalidDimension, InvalidSpec, VectorCodec, from_spec
from tq_core.spec import bits_per_vector, fields, validated

VALID = {
    "mse": {"kind": "mse", "dim": 64, "bits": 3, "seed": 5, "rotation": "hadamard"},
    "prod": {"kind": "prod", "dim": 64, "bits": 3, "seed": 5, "rotation": "dense", "sketch": "hadamard"},
    "qjl": {"kind": "qjl", "dim": 64, "projections": 7, "seed": 5, "sketch": "gaussian"},
    "polar": {"kind": "polar", "dim": 64, "bits": 3, "seed": 5},
    "trellis": {"kind": "trellis", "dim": 64, "bits": 3, "seed": 5, "states": 256, "rotation": "dense"},
}
VALID["codec"] = {
    "kind": "codec",
    "quantizer": VALID["mse"],
    "scale": "mse",
    "norm_dtype": "float32",
    "search": 3,
}


def test_a_spec_rebuilds_what_made_it(encoder, unit_rows):
    again = from_spec(json.loads(json.dumps(encoder.spec)))
    assert type(again) is type(encoder.maker)
    assert again.spec == encoder.spec
    encode = again.encode if isinstance(again, VectorCodec) else again.quantize
    x = unit_rows(5, encoder.dim)
    assert encode(x).to_bytes() == encoder.encode(x).to_bytes()


def test_codes_carry_the_spec_of_what_reads_them(encoder, unit_rows):
    x = unit_rows(5, encoder.dim)
    made = encoder.encode(x)
    again = from_spec(type(made).from_bytes(made.to_bytes()).spec)
    decode = again.decode if isinstance(again, VectorCodec) else again.dequantize
    assert np.array_equal(decode(made), encoder.decode(made))


@pytest.mark.parametrize("kind", VALID)
def test_the_keys_of_each_kind_are_these(kind):
    assert from_spec(VALID[kind]).spec == VALID[kind]


@pytest.mark.parametrize("kind", VALID)
def test_any_mapping_is_a_spec_and_is_left_as_it_was(kind):
    frozen = MappingProxyType(dict(VALID[kind]))
    assert from_spec(frozen).spec == VALID[kind]
    canonical = validated(frozen)
    canonical["kind"] = "changed"
    assert frozen["kind"] == kind


@pytest.mark.parametrize("kind", VALID)
def test_changing_a_returned_spec_changes_nothing(kind):
    quantizer = from_spec(VALID[kind])
    quantizer.spec["seed"] = 99
    if kind == "codec":
        quantizer.spec["quantizer"]["seed"] = 99
    assert quantizer.spec == VALID[kind]


@pytest.mark.parametrize("kind", VALID)
def test_a_missing_key_is_named(kind):
    for key in VALID[kind]:
        if key == "kind":
            continue
        less = {name: value for name, value in VALID[kind].items() if name != key}
        with pytest.raises(InvalidSpec, match=rf"a {kind} spec has the keys .*'{key}'.*, got"):
            from_spec(less)


@pytest.mark.parametrize("key", ["backend", "extra", 3, None])
@pytest.mark.parametrize("kind", VALID)
def test_an_unknown_key_is_named(kind, key):
    with pytest.raises(InvalidSpec, match=rf"a {kind} spec has the keys .*, got .*'{key}'"):
        from_spec({**VALID[kind], key: 1})


@pytest.mark.parametrize("spec", [None, 5, "mse", [], ["mse"], {}, {"kind": "pq"}, {"kind": []}, {"kind": None}])
def test_what_is_no_spec(spec):
    with pytest.raises(
        InvalidSpec, match="a spec is a dict whose 'kind' is one of mse, prod, qjl, polar, trellis, codec; got"
    ):
        from_spec(spec)


@pytest.mark.parametrize(
    ("kind", "change", "error", "match"),
    [
        ("mse", {"dim": "64"}, InvalidDimension, "dim must be an integer, got '64'"),
        ("mse", {"dim": 64.0}, InvalidDimension, r"dim must be an integer, got 64\.0"),
        ("mse", {"bits": True}, InvalidBitWidth, "bits must be an integer, got True"),
        ("prod", {"bits": 1}, InvalidBitWidth, "the prod quantizer takes 2 to 8 bits, got 1"),
        ("prod", {"sketch": 1}, InvalidSpec, "sketch must be one of"),
        ("qjl", {"projections": None}, InvalidSpec, "projections must be an integer, got None"),
        ("polar", {"dim": 48}, InvalidDimension, "power-of-two dim, got 48"),
        ("codec", {"search": 2}, InvalidSpec, "0, or odd and at least 3, got 2"),
        ("codec", {"scale": None}, InvalidSpec, "scale must be one of"),
        ("codec", {"quantizer": VALID["qjl"]}, InvalidSpec, "a codec wraps an mse, prod, polar or trellis quantizer"),
        ("codec", {"quantizer": None}, InvalidSpec, "a codec wraps an mse, prod, polar or trellis quantizer, got None"),
        ("codec", {"quantizer": {**VALID["mse"], "dim": 1}}, InvalidDimension, r"dim must lie in 2\.\."),
    ],
)
def test_a_wrong_value_is_named(kind, change, error, match):
    with pytest.raises(error, match=match):
        from_spec({**VALID[kind], **change})


def test_codecs_do_not_nest_however_deep():
    nested = VALID["codec"]
    for _ in range(5000):
        nested = {**VALID["codec"], "quantizer": nested}
    with pytest.raises(InvalidSpec, match="a codec wraps an mse, prod, polar or trellis quantizer"):
        from_spec(nested)


def test_the_backend_is_no_part_of_a_spec():
    for name in ("numpy", "scalar"):
        quantizer = from_spec(VALID["mse"], backend=name)
        assert quantizer.backend.name == name
        assert quantizer.spec == VALID["mse"]
        assert from_spec(VALID["codec"], backend=name).quantizer.backend.name == name


@pytest.mark.parametrize("kind", VALID)
def test_declared_arrays_are_the_ones_made(kind, unit_rows):
    maker = from_spec(VALID[kind])
    made = (maker.encode if kind == "codec" else maker.quantize)(unit_rows(4, 64))
    declared = fields(validated(VALID[kind]))
    assert list(declared) == list(made.arrays)
    for name, (width, dtype) in declared.items():
        assert made.arrays[name].dtype == dtype
        assert made.arrays[name].shape == ((4,) if width is None else (4, width))
    assert bits_per_vector(validated(VALID[kind])) == 2 * made.nbytes
    if kind == "codec":
        assert maker.fields == declared


def test_repr_shows_what_to_write_to_get_the_same():
    for spec in (VALID["mse"], VALID["prod"], VALID["qjl"], VALID["polar"], VALID["trellis"]):
        quantizer = from_spec(spec, backend="numpy")
        assert eval(repr(quantizer), vars(tq_core)).spec == spec
    codec = from_spec(VALID["codec"], backend="numpy")
    assert "underflow" not in repr(codec)
    assert "underflow='zero'" in repr(VectorCodec(codec.quantizer, underflow="zero"))
    assert eval(repr(codec), vars(tq_core)).spec == VALID["codec"]
