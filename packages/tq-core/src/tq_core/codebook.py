"""Lloyd-Max codebooks of one coordinate of a random unit vector, solved or shipped.

Units are 1/sqrt(dim): the coordinates have unit variance (paper section 3.1; docs/format.md, section 4).
"""

import json
from functools import lru_cache
from importlib.resources import files
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from tq_core._prim import book
from tq_core.radix import RADICES, layout

Scalar = TypeVar("Scalar", bound=np.generic)


class Codebook:
    """Centroids, integer thresholds and integer levels for one (dim, number of levels). Immutable.

    `half`: ascending centroids that are not negative, float64; an odd number of levels has 0 as the first.
    `bits`: of one code. `centroids`: float32 ascending, one a level. `thresholds`: (len(half) - 1,) int16 and `levels`:
    int16, one a level, in units of 1/4096. `distortion`: expected squared error of a unit vector. `code_table`: see
    `_code_table`.
    """

    def __init__(self, dim: int, bits: int, half: tuple[float, ...]) -> None:
        self.dim, self.bits, self.half = dim, bits, half
        positive = np.array(half, np.float64)
        both = np.concatenate([-positive[: -len(half) - 1 + self.has_zero : -1], positive])
        self.centroids = both.astype(np.float32)
        self.thresholds = np.rint(4096.0 * ((positive[:-1] + positive[1:]) * 0.5)).astype(np.int16)
        self.levels = np.rint(4096.0 * both).astype(np.int16)
        self.distortion = book.distortion(dim, list(half))
        self.code_table = self._code_table()
        for array in (self.centroids, self.thresholds, self.levels, self.code_table):
            array.setflags(write=False)

    def _code_table(self) -> NDArray[np.uint8]:
        """The code of every int16 coordinate, (65536,) uint8 indexed by its bits as uint16."""
        magnitude = np.searchsorted(self.thresholds, np.arange(32768, dtype=np.int32), side="left")
        size = len(self.levels)
        table = np.empty(65536, np.uint8)
        table[:32768] = size // 2 + magnitude
        table[32769:] = (size - 1) // 2 - magnitude[:0:-1]
        table[32768] = 0  # -32768 never occurs: coordinates are clamped to +-32767
        return table

    @property
    def has_zero(self) -> bool:
        """Whether 0 is a centroid, as it is of an odd number of levels."""
        return self.half[0] == 0.0

    @property
    def books(self) -> "tuple[Codebook, ...]":
        """The codebooks that coordinates take in turn: this one."""
        return (self,)

    def codes(self, v: NDArray[np.int16]) -> NDArray[np.uint8]:
        """The codes of (rows, dim) coordinates in units of 1/4096."""
        return self.code_table[v.view(np.uint16)]

    def levels_of(self, codes: NDArray[np.uint8]) -> NDArray[np.int16]:
        """The integer levels of (rows, dim) codes."""
        return self.levels[codes]

    def centroids_of(self, codes: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The centroids of (rows, dim) codes."""
        return self.centroids[codes]

    @property
    def tables(self) -> tuple[NDArray[Any], ...]:
        """The arrays held."""
        return self.centroids, self.thresholds, self.levels, self.code_table


class MixedCodebook:
    """The codebooks of a fractional width: coordinate i takes that of place `i % len(books)` in its group.

    `distortion` is that of a row of `dim` coordinates, a last incomplete group included.
    """

    def __init__(self, dim: int, bits: float, books: tuple[Codebook, ...]) -> None:
        self.dim, self.bits, self.books = dim, bits, books
        self.layout = layout(dim, bits)
        counts = [len(range(place, dim, len(books))) for place in range(len(books))]
        self.distortion = sum(n * one.distortion for n, one in zip(counts, books, strict=True)) / dim

    def codes(self, v: NDArray[np.int16]) -> NDArray[np.uint8]:
        """As Codebook."""
        return self._in_turn(np.uint8, v.view(np.uint16), [one.code_table for one in self.books])

    def levels_of(self, codes: NDArray[np.uint8]) -> NDArray[np.int16]:
        """As Codebook."""
        return self._in_turn(np.int16, codes, [one.levels for one in self.books])

    def centroids_of(self, codes: NDArray[np.uint8]) -> NDArray[np.float32]:
        """As Codebook."""
        return self._in_turn(np.float32, codes, [one.centroids for one in self.books])

    def _in_turn(self, dtype: type[Scalar], keys: NDArray[Any], tables: list[NDArray[Scalar]]) -> NDArray[Scalar]:
        out = np.empty(keys.shape, dtype)
        for place, table in enumerate(tables):
            out[:, place :: len(tables)] = table[keys[:, place :: len(tables)]]
        return out

    @property
    def tables(self) -> tuple[NDArray[Any], ...]:
        """The arrays held, each once, those of the layout of rows included."""
        own = (table for one in dict.fromkeys(self.books) for table in one.tables)
        return (*own, self.layout.limits, self.layout.digits)


@lru_cache(maxsize=1)
def shipped() -> dict[str, dict[str, list[str]]]:
    """The shipped tables: dim -> number of levels -> hex floats of the half."""
    text = files("tq_core").joinpath("data/codebooks.json").read_text("ascii")
    tables: dict[str, dict[str, list[str]]] = json.loads(text)["tables"]
    return tables


@lru_cache(maxsize=256)
def codebook_of_levels(dim: int, levels: int) -> Codebook:
    """The Lloyd-Max codebook of (dim, number of levels up to 256): shipped where it is, solved otherwise."""
    table = shipped().get(str(dim), {}).get(str(levels))
    half = [float.fromhex(text) for text in table] if table else book.solve_levels(dim, levels)
    return Codebook(dim, (levels - 1).bit_length(), tuple(half))


def codebook(dim: int, bits: int) -> Codebook:
    """The Lloyd-Max codebook of (dim, bits), one for all coordinates."""
    return codebook_of_levels(dim, 1 << bits)


@lru_cache(maxsize=64)
def mixed_codebook(dim: int, bits: float) -> MixedCodebook:
    """The codebooks of a fractional width."""
    return MixedCodebook(dim, bits, tuple(codebook_of_levels(dim, levels) for levels in RADICES[bits]))


def codebook_of(dim: int, bits: float) -> Codebook | MixedCodebook:
    """The codebook of any width."""
    return mixed_codebook(dim, bits) if bits in RADICES else codebook(dim, int(bits))
