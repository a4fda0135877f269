"""Mixed-radix words: every width and awkward dimension against one big integer a row, and what a reader refuses."""

import math

import numpy as np
import pytest
from librt.vecs import vec
from mypy_extensions import i64

from tq_core import Codes, CorruptData, Encoded, TurboQuantMSE, VectorCodec, packing
from tq_core._prim import pack as scalar_pack
from tq_core.radix import RADICES, layout

DIMS = (1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 31, 32, 33, 34, 63, 64, 65, 66, 67, 127, 128, 129, 1536)


def random_codes(rows, dim, bits):
    tops = np.resize(RADICES[bits], dim)
    codes = np.random.default_rng(dim).integers(0, tops, (rows, dim)).astype(np.uint8)
    codes[0], codes[1] = 0, tops - 1
    return codes


def radices_of(bits):
    return vec[i64](list(RADICES[bits]))


@pytest.mark.parametrize(("bits", "words"), [(2.25, (9, 500)), (2.5, (5, 30)), (3.25, (13, 8100)), (3.5, (7, 121))])
def test_a_word_is_as_wide_as_its_coordinates_pay_for(bits, words):
    width, count = words
    assert layout(64, bits).word_bits == width == bits * len(RADICES[bits])
    assert math.prod(RADICES[bits]) == count <= 1 << width


@pytest.mark.parametrize("bits", RADICES)
@pytest.mark.parametrize("dim", DIMS)
def test_rows_are_what_big_integers_say(slow, dim, bits):
    codes = random_codes(6, dim, bits)
    packed = packing.pack(codes, bits)
    assert packed.dtype == np.uint8
    assert packed.flags.c_contiguous
    assert packed.shape == (6, packing.row_bytes(dim, bits))
    for row, expected in zip(packed, codes.tolist(), strict=True):
        assert row.tobytes() == slow.pack(expected, bits)
        assert scalar_pack.pack_words(bytes(expected), radices_of(bits)) == row.tobytes()


@pytest.mark.parametrize("bits", RADICES)
@pytest.mark.parametrize("dim", DIMS)
def test_unpacking_undoes_packing(dim, bits):
    codes = random_codes(5, dim, bits)
    packed = packing.pack(codes, bits)
    assert np.array_equal(packing.unpack(packed, dim, bits), codes)
    behind = b"\xff" * 3 + packed[1].tobytes()
    assert scalar_pack.unpack_words(behind, 3, dim, radices_of(bits)) == codes[1].tobytes()


@pytest.mark.parametrize("bits", RADICES)
@pytest.mark.parametrize("dim", DIMS)
def test_sizes_are_the_stream_rounded_up_to_bytes(dim, bits):
    radices = RADICES[bits]
    groups, left = divmod(dim, len(radices))
    stream = groups * math.ceil(math.log2(math.prod(radices))) + math.ceil(math.log2(math.prod(radices[:left])))
    assert packing.row_bytes(dim, bits) == scalar_pack.word_row_bytes(dim, radices_of(bits)) == -(-stream // 8)
    if dim > 1:
        assert TurboQuantMSE(dim, bits).bits_per_vector == 8 * packing.row_bytes(dim, bits)


@pytest.mark.parametrize(("bits", "size"), [(2.25, 36), (2.5, 40), (3.25, 52), (3.5, 56)])
def test_128_coordinates_take_exactly_their_bits(bits, size):
    assert packing.row_bytes(128, bits) == size == bits * 16


def test_the_first_place_is_the_lowest_digit_and_words_follow_without_gaps():
    words = [1 + 5 * 2, 3 + 5 * 4]
    stream = words[0] | words[1] << 5
    assert packing.pack(np.array([[1, 2, 3, 4]], np.uint8), 2.5).tolist() == [[stream & 255, stream >> 8]]
    word = 4 + 5 * (3 + 5 * (2 + 5 * 1))
    assert packing.pack(np.array([[4, 3, 2, 1]], np.uint8), 2.25).tolist() == [[word & 255, word >> 8]]


@pytest.mark.parametrize("bits", RADICES)
def test_an_empty_batch_packs_to_no_rows(bits):
    packed = packing.pack(np.empty((0, 33), np.uint8), bits)
    assert packed.shape == (0, packing.row_bytes(33, bits))
    assert packing.unpack(packed, 33, bits).shape == (0, 33)


@pytest.mark.parametrize("bits", RADICES)
@pytest.mark.parametrize("dim", [2, 3, 5, 7, 33, 64, 66, 127])
def test_every_bit_pattern_is_refused_exactly_when_packing_cannot_write_it(dim, bits):
    """Every word and all padding: a row is taken when packing what it unpacks to gives the same bytes."""
    random = np.random.default_rng(dim)
    rows = packing.pack(random_codes(400, dim, bits), bits)
    flipped = random.integers(0, 8 * rows.shape[1], len(rows))
    rows[np.arange(len(rows)), flipped // 8] ^= (1 << flipped % 8).astype(np.uint8)
    seen = set()
    for row in rows:
        codes = packing.unpack(row[None], dim, bits)
        is_written = (codes < np.resize(RADICES[bits], dim)).all() and packing.pack(
            codes, bits
        ).tobytes() == row.tobytes()
        seen.add(is_written)
        if is_written:
            packing.require_packed(row[None], dim, bits)
        else:
            with pytest.raises(CorruptData):
                packing.require_packed(row[None], dim, bits)
    assert True in seen


@pytest.mark.parametrize(
    ("bits", "word", "counts"),
    [
        (2.25, 500, r"5 \* 5 \* 5 \* 4"),
        (2.5, 30, r"5 \* 6"),
        (3.25, 8100, r"9 \* 9 \* 10 \* 10"),
        (3.5, 121, r"11 \* 11"),
    ],
)
def test_a_word_beyond_its_levels_is_corrupt(reseal, taken_apart, bits, word, counts):
    """Word 3 of row 1 just beyond the last legal value, in both containers and in the constructor."""
    quantizer = TurboQuantMSE(64, bits)
    for made, kind in (
        (quantizer.quantize(np.eye(64)[:3]), Codes),
        (VectorCodec(quantizer).encode(np.eye(64)[:3]), Encoded),
    ):
        width, size = layout(64, bits).word_bits, packing.row_bytes(64, bits)
        row = int.from_bytes(made.arrays["packed"][1].tobytes(), "little")
        for value, is_legal in ((word - 1, True), (word, False), ((1 << width) - 1, False)):
            changed = row & ~((1 << width) - 1 << 3 * width) | value << 3 * width
            header, payload = taken_apart(made.to_bytes())
            data = reseal(header, payload[:size] + changed.to_bytes(size, "little") + payload[2 * size :])
            packed = made.arrays["packed"].copy()
            packed[1] = np.frombuffer(changed.to_bytes(size, "little"), np.uint8)
            if is_legal:
                assert kind.from_bytes(data).arrays["packed"].tobytes() == packed.tobytes()
                continue
            message = f"word 3 of packed row 1 is {value}, but {counts} levels end at {word}"
            with pytest.raises(CorruptData, match=message):
                kind.from_bytes(data)
            with pytest.raises(CorruptData, match=message):
                kind(made.spec, {**made.arrays, "packed": packed})


def test_a_last_incomplete_word_is_judged_by_its_own_levels():
    packed = packing.pack(random_codes(2, 7, 2.25), 2.25)  # 9 bits, then 125 values in 7 bits
    packing.require_packed(packed, 7, 2.25)
    stream = int.from_bytes(packed[1].tobytes(), "little")
    assert stream >> 9 == 124
    packed[1] = np.frombuffer((stream + (1 << 9)).to_bytes(2, "little"), np.uint8)
    with pytest.raises(CorruptData, match=r"word 1 of packed row 1 is 125, but 5 \* 5 \* 5 levels end at 125"):
        packing.require_packed(packed, 7, 2.25)


def test_bits_behind_the_last_word_are_padding():
    packed = packing.pack(random_codes(2, 4, 2.25), 2.25)
    packed[1, 1] |= 0b10
    with pytest.raises(CorruptData, match="padding bits of packed row 1 are not zero"):
        packing.require_packed(packed, 4, 2.25)


def test_an_incomplete_row_is_an_index_error_to_the_primitives():
    with pytest.raises(IndexError):
        scalar_pack.unpack_words(b"\x01\x02", 0, 64, radices_of(2.5))
