"""Codes to bytes and back, one row at a time: the executable specification of docs/format.md, section 5.

A row is a sequence of byte-aligned planes of 1, 2, 4 or 8 bits; the first plane holds the low bits of the codes.
"""

from typing import Final

from librt.strings import BytesWriter
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
