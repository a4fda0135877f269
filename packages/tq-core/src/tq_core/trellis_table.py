"""The value tables of trellis codes, shipped as trained (docs/format.md, section 10)."""

import base64
import json
from functools import lru_cache
from importlib.resources import files
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

STATES: Final = (8, 256, 1024, 4096)
BITS: Final = (1, 2, 3, 4)


def window_bits(bits: int, states: int) -> int:
    """Bits of the window that decides a coordinate: log2(states), and `bits + 3` for the 8-state code.

    The large codes are named after their windows, as in the literature on bit-shift trellises; a window of three bits
    would not even hold one code of four, so the small code is named after the states between two coordinates.
    """
    return bits + 3 if states == 8 else states.bit_length() - 1


class Trellis:
    """One trellis code. Immutable.

    A window of `window` bits, the newest `bits` of them at the low end, selects a level; windows that overlap in
    `window - bits` bits follow each other, so there are `nodes = 2**(window - bits)` ways to enter a coordinate.
    `levels`: (2**window,) int16 in units of 1/4096, none of them 0; `centroids`: the same as float32. `distortion`:
    squared error a coordinate on long Gaussian sequences.
    """

    def __init__(self, bits: int, states: int, levels: NDArray[np.int16], distortion: float) -> None:
        self.bits, self.states, self.levels, self.distortion = bits, states, levels, distortion
        self.window = window_bits(bits, states)
        self.nodes = 1 << (self.window - bits)
        self.centroids = levels.astype(np.float32) * np.float32(1 / 4096)
        for array in (self.levels, self.centroids):
            array.setflags(write=False)

    @property
    def tables(self) -> tuple[NDArray[Any], ...]:
        """The arrays held."""
        return self.levels, self.centroids


@lru_cache(maxsize=1)
def _shipped() -> dict[str, Any]:
    text = files("tq_core").joinpath("data/trellis.json").read_text("ascii")
    tables: dict[str, Any] = json.loads(text)["tables"]
    return tables


@lru_cache(maxsize=len(STATES) * len(BITS))
def trellis(bits: int, states: int) -> Trellis:
    """The shipped code of (bits, states), one of BITS and one of STATES."""
    held = _shipped()[str(states)][str(bits)]
    levels = np.frombuffer(base64.b64decode(held["levels"]), "<i2").astype(np.int16)
    return Trellis(bits, states, levels, float(held["distortion"]))
