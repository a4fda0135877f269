"""Packed rows: every width and awkward dimension against one big integer a plane."""

import numpy as np
import pytest

from tq_core import packing
from tq_core._prim import pack as scalar_pack

DIMS = (1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 127, 128, 129)
WIDTHS = {1: (1,), 2: (2,), 3: (2, 1), 4: (4,), 5: (4, 1), 6: (4, 2), 7: (4, 2, 1), 8: (8,)}


def random_codes(rows, dim, bits):
    return np.random.default_rng(dim * 8 + bits).integers(0, 1 << bits, (rows, dim)).astype(np.uint8)


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("dim", DIMS)
def test_rows_are_what_big_integers_say(slow, dim, bits):
    codes = random_codes(5, dim, bits)
    packed = packing.pack(codes, bits)
    assert packed.dtype == np.uint8
    assert packed.shape == (5, packing.row_bytes(dim, bits))
    for row, expected in zip(packed, codes.tolist(), strict=True):
        assert row.tobytes() == slow.pack(expected, bits)
        assert scalar_pack.pack(bytes(expected), bits) == row.tobytes()


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("dim", DIMS)
def test_unpacking_undoes_packing(dim, bits):
    codes = random_codes(4, dim, bits)
    packed = packing.pack(codes, bits)
    assert np.array_equal(packing.unpack(packed, dim, bits), codes)
    behind = b"\xff" * 3 + packed[1].tobytes()
    assert scalar_pack.unpack(behind, 3, dim, bits) == codes[1].tobytes()


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("dim", [*DIMS, 576, 1536])
def test_sizes_are_the_sum_of_byte_aligned_planes(dim, bits):
    expected = sum(-(-dim * width // 8) for width in WIDTHS[bits])
    assert packing.row_bytes(dim, bits) == scalar_pack.row_bytes(dim, bits) == expected


def test_coordinate_zero_lies_in_the_lowest_bits_of_byte_zero():
    assert packing.pack(np.array([[1, 0, 0]], np.uint8), 1).tolist() == [[0b001]]
    assert packing.pack(np.array([[3, 0, 1, 2, 1]], np.uint8), 2).tolist() == [[0b10_01_00_11, 0b01]]
    assert packing.pack(np.array([[15, 1, 2]], np.uint8), 4).tolist() == [[0x1F, 0x02]]


def test_the_low_bits_of_a_code_come_in_the_first_plane():
    codes = np.array([[0b101, 0b010]], np.uint8)
    assert packing.pack(codes, 3).tolist() == [[0b10_01, 0b01]]
    codes = np.array([[0b1_10_0011, 0b0_01_1000]], np.uint8)
    assert packing.pack(codes, 7).tolist() == [[0x83, 0b01_10, 0b01]]


@pytest.mark.parametrize("bits", range(1, 9))
def test_an_empty_batch_packs_to_no_rows(bits):
    packed = packing.pack(np.empty((0, 33), np.uint8), bits)
    assert packed.shape == (0, packing.row_bytes(33, bits))
    assert packing.unpack(packed, 33, bits).shape == (0, 33)


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 6, 7])
@pytest.mark.parametrize("dim", [3, 33, 65])
def test_every_unused_bit_is_found_dirty(dim, bits):
    packed = packing.pack(random_codes(2, dim, bits), bits)
    assert packing.has_clean_padding(packed, dim, packing.PLANES[bits])
    start = 0
    for width in WIDTHS[bits]:
        size = -(-dim * width // 8)
        for bit in range(dim * width, 8 * size):
            dirty = packed.copy()
            dirty[1, start + bit // 8] |= 1 << bit % 8
            assert not packing.has_clean_padding(dirty, dim, packing.PLANES[bits])
        start += size


def test_codes_of_every_value_survive_eight_bits():
    codes = np.arange(256, dtype=np.uint8)[None]
    assert np.array_equal(packing.pack(codes, 8), codes)
    for bits in range(1, 8):
        codes = (np.arange(256) % (1 << bits)).astype(np.uint8)[None]
        assert np.array_equal(packing.unpack(packing.pack(codes, bits), 256, bits), codes)
