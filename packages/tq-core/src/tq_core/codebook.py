"""Lloyd-Max codebooks of one coordinate of a random unit vector, solved or shipped.

Units are 1/sqrt(dim): the coordinates have unit variance (paper section 3.1; docs/format.md, section 4).
"""

import json
from functools import lru_cache
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tq_core._prim import book


class Codebook:
    """Centroids, integer thresholds and integer levels of one (dim, bits). Immutable.

    `half`: ascending positive centroids, float64. `centroids`: (2**bits,) float32 ascending. `thresholds`:
    (2**(bits-1) - 1,) int16 and `levels`: (2**bits,) int16 in units of 1/4096. `distortion`: expected squared
    error of a unit vector. `code_table`: see `_code_table`.
    """

    def __init__(self, dim: int, bits: int, half: tuple[float, ...]) -> None:
        self.dim, self.bits, self.half = dim, bits, half
        positive = np.array(half, np.float64)
        both = np.concatenate([-positive[::-1], positive])
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
        middle = 1 << (self.bits - 1)
        table = np.empty(65536, np.uint8)
        table[:32768] = middle + magnitude
        table[32769:] = middle - 1 - magnitude[:0:-1]
        table[32768] = 0  # -32768 never occurs: coordinates are clamped to +-32767
        return table

    @property
    def tables(self) -> tuple[NDArray[Any], ...]:
        """The arrays held."""
        return self.centroids, self.thresholds, self.levels, self.code_table


@lru_cache(maxsize=1)
def shipped() -> dict[str, dict[str, list[str]]]:
    """The shipped tables: dim -> bits -> hex floats of the positive half."""
    text = files("tq_core").joinpath("data/codebooks.json").read_text("ascii")
    tables: dict[str, dict[str, list[str]]] = json.loads(text)["tables"]
    return tables


@lru_cache(maxsize=256)
def codebook(dim: int, bits: int) -> Codebook:
    """The Lloyd-Max codebook of (dim, bits): shipped where it is, solved otherwise."""
    table = shipped().get(str(dim), {}).get(str(bits))
    half = [float.fromhex(text) for text in table] if table else book.solve(dim, bits)
    return Codebook(dim, bits, tuple(half))
