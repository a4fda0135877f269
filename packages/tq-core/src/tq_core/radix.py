"""Fractional widths: coordinates of few levels in mixed-radix words (docs/format.md, section 5).

A width has a group of level counts, `(5, 5, 5, 4)`: coordinate i of a row is the digit of place `i % len(group)` in
word `i // len(group)`, the first place being the lowest. A row is one stream of words, lowest bits first, without
gaps; a last incomplete group is a word of its own digits, in the fewest bits that hold it.
"""

from functools import lru_cache
from math import prod
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tq_core.errors import CorruptData

RADICES: Final[dict[float, tuple[int, ...]]] = {
    2.25: (5, 5, 5, 4),
    2.5: (5, 6),
    3.25: (9, 9, 10, 10),
    3.5: (11, 11),
}
WORDS: Final = 8  # eight words of w bits are w whole bytes: the unit in which rows are packed


class Layout(NamedTuple):
    """Where the words of a row lie. `limits`: each word is below its limit, for all words of whole byte units."""

    radices: tuple[int, ...]
    word_bits: int
    row_bytes: int
    units: int
    limits: NDArray[np.uint16]
    digits: NDArray[np.uint8]  # (2**word_bits, places): the digits of every word


@lru_cache(maxsize=256)
def layout(dim: int, bits: float) -> Layout:
    """The layout of rows of `dim` coordinates at one of the fractional widths."""
    radices = RADICES[bits]
    word_bits = (prod(radices) - 1).bit_length()
    groups, left = divmod(dim, len(radices))
    tail = prod(radices[:left])  # 1 without a tail, which then takes no bits
    units = -(-(groups + (left > 0)) // WORDS)
    limits = np.ones(units * WORDS, np.uint16)  # words behind the last are 0
    limits[:groups] = prod(radices)
    if left:
        limits[groups] = tail
    words = np.arange(1 << word_bits)
    digits = np.empty((len(words), len(radices)), np.uint8)
    for place, radix in enumerate(radices):
        digits[:, place] = words % radix
        words //= radix
    limits.setflags(write=False)
    digits.setflags(write=False)
    row_bytes = (groups * word_bits + (tail - 1).bit_length() + 7) // 8
    return Layout(radices, word_bits, row_bytes, units, limits, digits)


def row_bytes(dim: int, bits: float) -> int:
    """Bytes of one packed row."""
    return layout(dim, bits).row_bytes


def pack(codes: NDArray[np.uint8], bits: float) -> NDArray[np.uint8]:
    """Pack (rows, dim) codes, each below the level count of its place, into (rows, row_bytes) uint8."""
    rows, dim = codes.shape
    held = layout(dim, bits)
    words = np.zeros((rows, held.units * WORDS), np.uint16)
    weight, places = 1, len(held.radices)
    for place, radix in enumerate(held.radices):
        digits = codes[:, place::places]
        words[:, : digits.shape[1]] += digits * np.uint16(weight)
        weight *= radix
    units = words.reshape(rows, held.units, WORDS)
    packed = np.zeros((rows, held.units, held.word_bits), np.uint8)
    for index in range(WORDS):
        byte, shift = divmod(index * held.word_bits, 8)
        spread = units[:, :, index].astype(np.uint32) << np.uint32(shift)
        for at in range(byte, (index * held.word_bits + held.word_bits + 7) // 8):
            packed[:, :, at] |= (spread >> np.uint32(8 * (at - byte))).astype(np.uint8)
    return np.ascontiguousarray(packed.reshape(rows, held.units * held.word_bits)[:, : held.row_bytes])


def unpack(packed: NDArray[np.uint8], dim: int, bits: float) -> NDArray[np.uint8]:
    """The (rows, dim) uint8 codes of (rows, row_bytes) packed rows."""
    held = layout(dim, bits)
    digits = held.digits[_words(packed, held)]
    return digits.reshape(len(packed), held.units * WORDS * len(held.radices))[:, :dim]


def require_words(packed: NDArray[np.uint8], dim: int, bits: float) -> None:
    """Raise CorruptData unless every word is one that `pack` writes and all bits behind the last are zero."""
    held = layout(dim, bits)
    words = _words(packed, held)
    wrong = words >= held.limits
    if wrong.any():
        row, word = (int(i) for i in np.argwhere(wrong)[0])
        limit = int(held.limits[word])
        if limit == 1:
            raise CorruptData(f"padding bits of packed row {row} are not zero")
        left = min(len(held.radices), dim - word * len(held.radices))
        counts = " * ".join(map(str, held.radices[:left]))
        raise CorruptData(f"word {word} of packed row {row} is {words[row, word]}, but {counts} levels end at {limit}")


def _words(packed: NDArray[np.uint8], held: Layout) -> NDArray[np.uint16]:
    """The words of all byte units, (rows, 8 * units); 0 behind the end of the rows."""
    rows = len(packed)
    padded = np.zeros((rows, held.units * held.word_bits), np.uint8)
    padded[:, : held.row_bytes] = packed[:, : held.row_bytes]
    units = padded.reshape(rows, held.units, held.word_bits)
    words = np.empty((rows, held.units, WORDS), np.uint16)
    mask = np.uint32((1 << held.word_bits) - 1)
    for index in range(WORDS):
        byte, shift = divmod(index * held.word_bits, 8)
        gathered = units[:, :, byte].astype(np.uint32)
        for at in range(byte + 1, (index * held.word_bits + held.word_bits + 7) // 8):
            gathered |= units[:, :, at].astype(np.uint32) << np.uint32(8 * (at - byte))
        words[:, :, index] = gathered >> np.uint32(shift) & mask
    return words.reshape(rows, held.units * WORDS)
