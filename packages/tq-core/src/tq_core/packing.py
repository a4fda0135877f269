"""Codes to bytes and back, vectorised (docs/format.md, section 5).

One row is a sequence of byte-aligned planes of 1, 2, 4 or 8 bits, low bits first, coordinate 0 in the lowest
bits of byte 0; at a fractional width it is a stream of mixed-radix words instead, which tq_core.radix packs.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from tq_core import radix
from tq_core.errors import CorruptData

PLANES: Final[dict[float, tuple[int, ...]]] = {
    1: (1,),
    2: (2,),
    3: (2, 1),
    4: (4,),
    5: (4, 1),
    6: (4, 2),
    7: (4, 2, 1),
    8: (8,),
}


def plane_bytes(dim: int, width: int) -> int:
    """Bytes of one plane: `dim` codes of `width` bits, the last byte zero-padded."""
    return (dim * width + 7) // 8


def row_bytes(dim: int, bits: float) -> int:
    """Bytes of one packed row."""
    if bits in radix.RADICES:
        return radix.row_bytes(dim, bits)
    return sum(plane_bytes(dim, width) for width in PLANES[bits])


def pack(codes: NDArray[np.uint8], bits: float) -> NDArray[np.uint8]:
    """Pack (rows, dim) codes below `2**bits`, or below the level counts of `bits`, into (rows, row_bytes) uint8."""
    if bits in radix.RADICES:
        return radix.pack(codes, bits)
    planes, shift = [], 0
    for width in PLANES[bits]:
        part = codes if bits == width else codes >> np.uint8(shift) & np.uint8((1 << width) - 1)
        planes.append(_pack_plane(part, width))
        shift += width
    return planes[0] if len(planes) == 1 else np.concatenate(planes, axis=1)


def unpack(packed: NDArray[np.uint8], dim: int, bits: float) -> NDArray[np.uint8]:
    """The (rows, dim) uint8 codes of (rows, row_bytes) packed rows."""
    if bits in radix.RADICES:
        return radix.unpack(packed, dim, bits)
    codes: NDArray[np.uint8] | None = None
    start, shift = 0, 0
    for width in PLANES[bits]:
        stop = start + plane_bytes(dim, width)
        part = _unpack_plane(packed[:, start:stop], dim, width)
        codes = part if codes is None else codes | part << np.uint8(shift)
        start, shift = stop, shift + width
    assert codes is not None  # every width has at least one plane
    return codes


def require_packed(packed: NDArray[np.uint8], dim: int, bits: float) -> None:
    """Raise CorruptData for rows that `pack` does not write; bytes behind the row are not looked at."""
    if bits in radix.RADICES:
        radix.require_words(packed, dim, bits)
    elif not has_clean_padding(packed, dim, PLANES[bits]):
        raise CorruptData("padding bits of a packed row are not zero")


def has_clean_padding(packed: NDArray[np.uint8], dim: int, widths: tuple[int, ...]) -> bool:
    """Whether the unused high bits of each plane's last byte are zero in every row."""
    start = 0
    for width in widths:
        stop = start + plane_bytes(dim, width)
        used = dim * width % 8
        if used and bool((packed[:, stop - 1] >> np.uint8(used)).any()):
            return False
        start = stop
    return True


def _pack_plane(codes: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    if width == 8:
        return codes if codes.flags.c_contiguous else codes.copy()
    if width == 1 and isinstance(codes, np.ndarray):  # what follows is right for arrays of devices, too, but slower
        return np.packbits(codes, axis=1, bitorder="little")
    per_byte = 8 // width
    rows, dim = codes.shape
    short = -dim % per_byte
    if short:
        codes = np.concatenate([codes, np.zeros_like(codes, shape=(rows, short))], axis=1)
    groups = codes.reshape(rows, codes.shape[1] // per_byte, per_byte)
    packed = groups[:, :, 0].copy()
    for place in range(1, per_byte):
        packed |= groups[:, :, place] << np.uint8(place * width)
    return packed


def _unpack_plane(plane: NDArray[np.uint8], dim: int, width: int) -> NDArray[np.uint8]:
    if width == 8:
        return plane
    if width == 1 and isinstance(plane, np.ndarray):
        return np.unpackbits(plane, axis=1, bitorder="little", count=dim)
    per_byte = 8 // width
    codes = np.empty_like(plane, shape=(*plane.shape, per_byte))
    mask = np.uint8((1 << width) - 1)
    for place in range(per_byte):
        codes[:, :, place] = plane >> np.uint8(place * width) & mask
    return codes.reshape(plane.shape[0], plane.shape[1] * per_byte)[:, :dim]
