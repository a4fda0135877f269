"""Files from strangers: whatever is changed, cut, added or resealed is refused, and nothing large is allocated."""

import tracemalloc

import numpy as np
import pytest

import tq_core
from tq_core import (
    QJL,
    Codes,
    CorruptData,
    Encoded,
    FormatVersion,
    InvalidDtype,
    PolarQuant,
    ShapeMismatch,
    SpecMismatch,
    TurboQuantMSE,
    TurboQuantProd,
    VectorCodec,
)


@pytest.fixture(scope="module")
def small(unit_rows):
    """Two rows of a codec at dimension 5: bytes with padding bits."""
    return VectorCodec(TurboQuantMSE(5, 3)).encode(unit_rows(2, 5)).to_bytes()


def test_truncation_at_every_length(small):
    for length in range(len(small)):
        with pytest.raises(CorruptData, match=r"too few|announced"):
            Encoded.from_bytes(small[:length])


def test_every_single_bit_flip_is_found(small):
    flipped = bytearray(small)
    for bit in range(8 * len(small)):
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises((CorruptData, FormatVersion)):
            Encoded.from_bytes(flipped)
        flipped[bit // 8] ^= 1 << bit % 8
    assert Encoded.from_bytes(flipped).to_bytes() == small


@pytest.mark.parametrize("extra", [b"\0", b"x" * 52])
def test_appended_bytes(small, extra):
    with pytest.raises(CorruptData, match="truncated or with something appended"):
        Encoded.from_bytes(small + extra)
    with pytest.raises(CorruptData, match=r"too few|announced|not TurboQuant"):
        Encoded.from_bytes(extra + small)


def test_two_containers_in_a_row(small):
    with pytest.raises(CorruptData, match="truncated or with something appended"):
        Encoded.from_bytes(small + small)


@pytest.mark.parametrize("data", ["text", 5, None, [1, 2], np.zeros((4, 4), np.uint8)[:, ::2]])
def test_what_are_no_bytes(data):
    with pytest.raises(InvalidDtype, match="expected bytes, a bytearray or a contiguous buffer, got"):
        Codes.from_bytes(data)


@pytest.mark.parametrize("version", [0, 2, 3, 2**32 - 1])
def test_other_format_versions(small, taken_apart, reseal, version):
    with pytest.raises(FormatVersion, match=f"format version {version}; this release reads 1: upgrade tq-core"):
        Encoded.from_bytes(reseal(*taken_apart(small), version=version))


def test_a_future_version_is_named_before_its_unknown_layout_is_judged(small, reseal):
    with pytest.raises(FormatVersion, match="format version 2"):
        Encoded.from_bytes(reseal(b"not even JSON", b"", version=2)[:60])


def test_another_magic(small):
    with pytest.raises(CorruptData, match=r"begin with b'TQw\\x00'.*not TurboQuant codes"):
        Encoded.from_bytes(b"TQw\0" + small[4:])


def test_headers_beyond_the_limit(small, taken_apart, reseal):
    _, payload = taken_apart(small)
    with pytest.raises(CorruptData, match="header of 65537 bytes; at most 65536 are allowed"):
        Encoded.from_bytes(reseal(b"x" * 65537, payload))


def test_lengths_near_the_integer_limit(small):
    for at, size in ((8, 4), (12, 8)):
        changed = small[:at] + b"\xff" * size + small[at + size :]
        with pytest.raises(CorruptData, match=r"header of|announced"):
            Encoded.from_bytes(changed)


def test_codes_are_not_read_as_encoded_rows_nor_the_reverse(small, unit_rows):
    codes = TurboQuantMSE(5, 3).quantize(unit_rows(2, 5)).to_bytes()
    with pytest.raises(CorruptData, match="these bytes hold 'encoded', expected 'codes'"):
        Codes.from_bytes(small)
    with pytest.raises(CorruptData, match="these bytes hold 'codes', expected 'encoded'"):
        Encoded.from_bytes(codes)


def test_a_kind_that_its_spec_contradicts(small, taken_apart, reseal):
    header, payload = taken_apart(small)
    with pytest.raises(CorruptData, match="say they hold 'codes' of a codec spec"):
        Codes.from_bytes(reseal({**header, "kind": "codes"}, payload))
    with pytest.raises(CorruptData, match="say they hold 'encoded' of a mse spec"):
        Encoded.from_bytes(reseal({**header, "spec": header["spec"]["quantizer"]}, payload[:6]))


PADDED = {
    "mse": (lambda: TurboQuantMSE(5, 7), [(2, 4), (2, 7), (4, 2), (4, 7), (5, 5), (5, 7)]),
    "prod": (lambda: TurboQuantProd(5, 2), [(0, 5), (0, 7), (1, 5), (1, 7)]),
    "qjl": (lambda: QJL(8, projections=11), [(1, 3), (1, 7)]),
    "polar": (lambda: PolarQuant(4, 3), [(0, 6), (0, 7), (1, 2), (1, 7)]),
}


@pytest.mark.parametrize("kind", PADDED)
def test_dirty_padding_bits(unit_rows, taken_apart, reseal, kind):
    make, places = PADDED[kind]
    quantizer = make()
    header, payload = taken_apart(quantizer.quantize(unit_rows(2, quantizer.dim)).to_bytes())
    for byte, bit in places:
        dirty = bytearray(payload)
        dirty[byte] |= 1 << bit
        with pytest.raises(CorruptData, match="padding bits of a packed row are not zero"):
            Codes.from_bytes(reseal(header, bytes(dirty)))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -1.0, -0.0])
@pytest.mark.parametrize(
    ("maker", "name"),
    [
        (VectorCodec(TurboQuantMSE(8, 2)), "scales"),
        (VectorCodec(TurboQuantProd(8, 2), norm_dtype="float32"), "gammas"),
        (VectorCodec(TurboQuantProd(8, 2), norm_dtype="float32"), "scales"),
        (VectorCodec(PolarQuant(8, 2)), "radii"),
        (TurboQuantProd(8, 2), "gammas"),
        (QJL(8), "gammas"),
    ],
    ids=repr,
)
def test_scalars_that_no_encoder_writes(unit_rows, taken_apart, reseal, maker, name, value):
    x = unit_rows(3, 8)
    made = maker.encode(x) if isinstance(maker, VectorCodec) else maker.quantize(x)
    arrays = {key: array.copy() for key, array in made.arrays.items()}
    arrays[name].reshape(-1)[1] = value
    header, _ = taken_apart(made.to_bytes())
    payload = b"".join(arrays[key].tobytes() for key in ("packed", "gammas", "radii", "scales") if key in arrays)
    with pytest.raises(CorruptData, match=f"{name} must be finite and not negative"):
        type(made).from_bytes(reseal(header, payload))
    with pytest.raises(CorruptData, match=f"{name} must be finite and not negative"):
        type(made)(made.spec, arrays)


def test_reading_allocates_no_more_than_it_returns(unit_rows):
    made = VectorCodec(TurboQuantMSE(64, 4)).encode(unit_rows(4000, 64))
    data = made.to_bytes()
    tracemalloc.start()
    try:
        Encoded.from_bytes(data)
        assert tracemalloc.get_traced_memory()[1] < 1.5 * made.nbytes + (1 << 16)
    finally:
        tracemalloc.stop()


def test_reading_a_hostile_spec_builds_no_tables(reseal):
    spec = {"kind": "mse", "dim": 8192, "bits": 8, "seed": 1, "rotation": "dense"}
    data = reseal({"kind": "codes", "rows": 0, "single": False, "spec": spec}, b"")
    tracemalloc.start()
    try:
        assert len(Codes.from_bytes(data)) == 0
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"packed": None}, r"has the arrays \['packed', 'scales'\], got \['scales'\]"),
        ({"more": np.zeros(2)}, r"has the arrays \['packed', 'scales'\], got"),
        ({"packed": np.zeros((2, 4), np.uint8)}, r"packed must be \(2, 3\) uint8, got \(2, 4\) uint8"),
        ({"packed": np.zeros((2, 3), np.int8)}, r"packed must be \(2, 3\) uint8, got \(2, 3\) int8"),
        ({"scales": np.zeros(3, np.float16)}, r"scales must be \(2,\) float16, got \(3,\) float16"),
        ({"scales": np.zeros(2, np.float32)}, r"scales must be \(2,\) float16, got \(2,\) float32"),
        ({"scales": np.zeros((2, 1), np.float16)}, r"scales must be \(2,\) float16, got \(2, 1\) float16"),
        ({"packed": 5}, r"packed must be \(1, 3\) uint8, got \(\) int64"),
    ],
)
def test_arrays_that_do_not_fit_the_spec(small, change, match):
    codec = VectorCodec(TurboQuantMSE(5, 3))
    made = Encoded.from_bytes(small)
    arrays = {key: value for key, value in {**made.arrays, **change}.items() if value is not None}
    for wrap in (lambda held: Encoded(codec.spec, held), codec.wrap):
        with pytest.raises(ShapeMismatch, match=match):
            wrap(arrays)


def test_constructors_refuse_the_other_s_spec_and_dirty_padding(small):
    made = Encoded.from_bytes(small)
    with pytest.raises(SpecMismatch, match="Codes cannot hold rows of a codec spec"):
        Codes(made.spec, made.arrays)
    with pytest.raises(SpecMismatch, match="Encoded cannot hold rows of a mse spec"):
        Encoded(made.spec["quantizer"], {"packed": made.arrays["packed"]})
    packed = made.arrays["packed"].copy()
    packed[1, 2] |= 0x80
    with pytest.raises(CorruptData, match="padding bits"):
        Encoded(made.spec, {**made.arrays, "packed": packed})
    with pytest.raises(ShapeMismatch, match="codes of a single vector have one row, got 2"):
        Encoded(made.spec, made.arrays, single=True)
    with pytest.raises(tq_core.InvalidSpec, match="a spec is a dict"):
        Encoded({}, made.arrays)
