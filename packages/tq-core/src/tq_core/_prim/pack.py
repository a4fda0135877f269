"""Codes to bytes and back, one row at a time: the executable specification of docs/format.md, section 5.

A row is a sequence of byte-aligned planes of 1, 2, 4 or 8 bits; the first plane holds the low bits of the codes. At a
fractional width it is one stream of mixed-radix words, one code of every radix each, the last of what is left.
"""

from typing import Final

from librt.strings import BytesWriter
from librt.vecs import vec
from mypy_extensions import i64, u8

PLANES: Final = ((), (1,), (2,), (2, 1), (4,), (4, 1), (4, 2), (4, 2, 1), (8,))


def plane_bytes(dim: i64, width: i64) -> i64:
    """Bytes of one plane: `dim` codes of `width` bits, the last byte zero-padded."""
    return (dim * width + 7) >> 3


def row_bytes(dim: i64, bits: i64) -> i64:
    """Bytes of one packed row."""
    total: i64 = 0
    for width in PLANES[bits]:
        total += plane_bytes(dim, width)
    return total


def write_plane(packed: BytesWriter, codes: bytes, shift: i64, width: i64) -> None:
    """Append the plane of bits `shift .. shift + width - 1` of each code."""
    mask: i64 = (1 << width) - 1
    held: i64 = 0
    place: i64 = 0
    for j in range(i64(len(codes))):
        code: i64 = codes[j]
        held |= ((code >> shift) & mask) << place
        place += width
        if place == 8:
            packed.append(u8(held))
            held = 0
            place = 0
    if place > 0:
        packed.append(u8(held))


def pack(codes: bytes, bits: i64) -> bytes:
    """The packed row of codes below `2**bits`, one a byte; higher bits are ignored."""
    packed = BytesWriter()
    shift: i64 = 0
    for width in PLANES[bits]:
        write_plane(packed, codes, shift, width)
        shift += width
    return packed.getvalue()


def unpack(packed: bytes, start: i64, dim: i64, bits: i64) -> bytes:
    """The `dim` codes, one a byte, of the packed row at byte `start`; IndexError when bytes are missing."""
    codes = BytesWriter()
    shift: i64 = 0
    for plane in PLANES[bits]:
        width: i64 = plane
        mask: i64 = (1 << width) - 1
        for j in range(dim):
            at = j * width
            held: i64 = packed[start + (at >> 3)]
            code = ((held >> (at & 7)) & mask) << shift
            if shift == 0:
                codes.append(u8(code))
            else:
                codes[j] = u8(i64(codes[j]) | code)
        start += plane_bytes(dim, width)
        shift += width
    return codes.getvalue()


def digit_bits(count: i64) -> i64:
    """The fewest bits that hold `count` values."""
    bits: i64 = 0
    while (i64(1) << bits) < count:
        bits += 1
    return bits


def word_bits(radices: vec[i64], digits: i64) -> i64:
    """Bits of a word of the first `digits` radices."""
    count: i64 = 1
    for place in range(digits):
        count *= radices[place]
    return digit_bits(count)


def word_row_bytes(dim: i64, radices: vec[i64]) -> i64:
    """Bytes of one row of words."""
    places = i64(len(radices))
    return (dim // places * word_bits(radices, places) + word_bits(radices, dim % places) + 7) >> 3


def pack_words(codes: bytes, radices: vec[i64]) -> bytes:
    """The row of codes, each below the radix of its place, as a stream of words."""
    packed = BytesWriter()
    places = i64(len(radices))
    dim = i64(len(codes))
    held: i64 = 0
    filled: i64 = 0
    for first in range(i64(0), dim, places):
        digits = min(places, dim - first)
        word: i64 = 0
        for place in range(digits - 1, i64(-1), -1):
            word = word * radices[place] + i64(codes[first + place])
        held |= word << filled
        filled += word_bits(radices, digits)
        while filled >= 8:
            packed.append(u8(held & 255))
            held >>= 8
            filled -= 8
    if filled > 0:
        packed.append(u8(held))
    return packed.getvalue()


def unpack_words(packed: bytes, start: i64, dim: i64, radices: vec[i64]) -> bytes:
    """The `dim` codes, one a byte, of the row of words at byte `start`; IndexError when bytes are missing."""
    codes = BytesWriter()
    places = i64(len(radices))
    held: i64 = 0
    filled: i64 = 0
    for first in range(i64(0), dim, places):
        digits = min(places, dim - first)
        width = word_bits(radices, digits)
        while filled < width:
            byte: i64 = packed[start]
            held |= byte << filled
            filled += 8
            start += 1
        word = held & ((i64(1) << width) - 1)
        held >>= width
        filled -= width
        for place in range(digits):
            codes.append(u8(word % radices[place]))
            word //= radices[place]
    return codes.getvalue()
