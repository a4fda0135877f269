"""Resealed headers with a valid checksum: counts, spellings, nesting and specs that no writer would have written."""

import json
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tq_core import CorruptData, Encoded, TurboQuantMSE, VectorCodec


@pytest.fixture(scope="module")
def small(unit_rows):
    """Two rows of a codec at dimension 5: bytes with padding bits."""
    return VectorCodec(TurboQuantMSE(5, 3)).encode(unit_rows(2, 5)).to_bytes()


@pytest.mark.parametrize(
    "rows", [0, 1, 3, 2**31, 2**62, 2**64, 10**4000], ids=lambda rows: f"{rows if rows < 2**65 else 'astronomical'}"
)
def test_row_counts_that_the_payload_does_not_hold(small, taken_apart, reseal, rows):
    header, payload = taken_apart(small)
    data = reseal({**header, "rows": rows}, payload)
    tracemalloc.start()
    try:
        with pytest.raises(CorruptData, match="the payload has 10 bytes"):
            Encoded.from_bytes(data)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("rows", [True, -1, 2.0, "2", None, [2]])
def test_row_counts_that_are_no_counts(small, taken_apart, reseal, rows):
    header, payload = taken_apart(small)
    with pytest.raises(CorruptData, match="header says rows="):
        Encoded.from_bytes(reseal({**header, "rows": rows}, payload))


@pytest.mark.parametrize("single", [1, 0, None, "true"])
def test_single_is_a_boolean(small, taken_apart, reseal, single):
    header, payload = taken_apart(small)
    with pytest.raises(CorruptData, match=r"header says rows=2, single="):
        Encoded.from_bytes(reseal({**header, "single": single}, payload))


def test_two_rows_are_no_single_vector(small, taken_apart, reseal):
    header, payload = taken_apart(small)
    with pytest.raises(CorruptData, match="header says rows=2, single=True"):
        Encoded.from_bytes(reseal({**header, "single": True}, payload))


@pytest.mark.parametrize("change", [{"note": 1}, {"rows": ...}, {"spec": ...}, {"kind": ...}])
def test_unknown_and_missing_keys(small, taken_apart, reseal, change):
    header, payload = taken_apart(small)
    changed = {key: value for key, value in {**header, **change}.items() if value is not ...}
    with pytest.raises(CorruptData, match="expected kind, rows, single, spec"):
        Encoded.from_bytes(reseal(changed, payload))


def canonical(header):
    return json.dumps(header, sort_keys=True, separators=(",", ":")).encode()


@pytest.mark.parametrize(
    "respell",
    [
        lambda text: text.replace(b'"rows":2', b'"rows":2,"rows":2'),
        lambda text: text.replace(b'"rows":2', b'"rows":9,"rows":2'),
        lambda text: text.replace(b'"rows":2', b'"rows": 2'),
        lambda text: text.replace(b'"rows"', b'"\\u0072ows"'),
        lambda text: text + b"\n",
        lambda text: json.dumps(dict(reversed(json.loads(text).items())), separators=(",", ":")).encode(),
        lambda text: text.replace(b'"seed":0', b'"seed":-0'),
    ],
    ids=["twice", "twice, differing", "space", "escape", "newline", "order", "minus zero"],
)
def test_headers_that_two_readers_could_read_differently(small, taken_apart, reseal, respell):
    header, payload = taken_apart(small)
    text = respell(canonical(header))
    assert text != canonical(header)
    with pytest.raises(CorruptData, match="header is not canonical JSON"):
        Encoded.from_bytes(reseal(text, payload))


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (b"", "header is not JSON"),
        (b"{", "header is not JSON"),
        (b'{"kind":"\xff"}', "header is not JSON"),
        (b"[" * 65536, "header is not JSON"),
        (b'{"a":' * 13000, "header is not JSON"),
        (b"9" * 60000, "header is not JSON"),
        (b"[]", "header is a JSON list, expected an object"),
        (b"null", "header is a JSON NoneType, expected an object"),
        (b"{}", "header has the keys"),
    ],
    ids=["empty", "cut", "latin", "deep list", "deep object", "long integer", "list", "null", "no keys"],
)
def test_headers_that_are_no_header(reseal, text, match):
    with pytest.raises(CorruptData, match=match):
        Encoded.from_bytes(reseal(text, b""))


def test_well_formed_nesting_of_any_depth_is_refused(small, taken_apart, reseal):
    header, payload = taken_apart(small)
    for depth in (10, 500, *range(900, 1000, 3), 20000):
        text = canonical(header).replace(b'"rows":2', b'"rows":' + b"[" * depth + b"]" * depth)
        with pytest.raises(CorruptData, match=r"header says rows=|not JSON|not canonical|too deep"):
            Encoded.from_bytes(reseal(text, payload))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(
    place=st.sampled_from(["kind", "rows", "single", "spec", "quantizer", "scale", "norm_dtype", "search"]),
    inner=st.sampled_from(["", "kind", "dim", "bits", "seed", "rotation", "projections", "sketch"]),
    value=json_values,
)
def test_any_json_value_in_any_place_is_refused_as_corrupt(small, taken_apart, reseal, place, inner, value):
    header, payload = taken_apart(small)
    target = header if place in header else header["spec"]
    if place == "quantizer" and inner:
        target, place = header["spec"]["quantizer"], inner
    target[place] = value
    data = reseal(header, payload)
    if data == small or (place == "seed" and type(value) is int and 0 <= value < 2**64):
        assert Encoded.from_bytes(data).to_bytes() == data
        return
    with pytest.raises(CorruptData, match=r"."):
        Encoded.from_bytes(data)


BAD_SPECS = [
    *(None, 5, [], "mse", {}, {"kind": "mse"}, {"kind": []}, {"kind": "trellis-of-tomorrow"}),
    {"kind": "mse", "dim": 5, "bits": 3, "seed": 0, "rotation": "hadamard", "extra": 1},
]
SPEC_CHANGES = [
    *({"dim": 1}, {"dim": -5}, {"dim": 5.0}, {"dim": True}, {"dim": None}, {"dim": 2**70}, {"bits": 0}, {"bits": 9}),
    *({"bits": "3"}, {"seed": -1}, {"seed": 2**64}, {"seed": 0.0}, {"rotation": "identity"}, {"rotation": ["dense"]}),
    *({"kind": "prod"}, {"kind": "qjl"}, {"kind": "codec"}),
]


@pytest.mark.parametrize("spec", BAD_SPECS, ids=repr)
def test_specs_that_are_no_spec(small, taken_apart, reseal, spec):
    header, payload = taken_apart(small)
    for changed in (spec, {**header["spec"], "quantizer": spec}):
        with pytest.raises(CorruptData, match="header holds a"):
            Encoded.from_bytes(reseal({**header, "spec": changed}, payload))


@pytest.mark.parametrize("change", SPEC_CHANGES, ids=repr)
def test_specs_with_a_bad_entry(small, taken_apart, reseal, change):
    header, payload = taken_apart(small)
    inner = {**header["spec"]["quantizer"], **change}
    with pytest.raises(CorruptData, match="header holds a"):
        Encoded.from_bytes(reseal({**header, "spec": {**header["spec"], "quantizer": inner}}, payload))


@pytest.mark.parametrize("change", [{"dim": 9}, {"dim": 1 << 20}, {"bits": 5}, {"bits": 1}])
def test_specs_of_another_row_size(small, taken_apart, reseal, change):
    header, payload = taken_apart(small)
    inner = {**header["spec"]["quantizer"], **change}
    with pytest.raises(CorruptData, match=r"rows of .* bytes expected, but the payload has"):
        Encoded.from_bytes(reseal({**header, "spec": {**header["spec"], "quantizer": inner}}, payload))
