"""What a backend needs to encode, decode and score rows: rotation, codebook, scale rule, candidates, sketch."""

import math
from typing import Final, NamedTuple

import numpy as np

from tq_core.codebook import Codebook, MixedCodebook
from tq_core.packing import plane_bytes, row_bytes
from tq_core.rotation import Rotation
from tq_core.sketch import Sketch

RULES: Final = ("plain", "norm", "unbiased", "mse")


class ScalarPlan(NamedTuple):
    """Everything that decides a scalar code. `strict`: rows are taken as unit vectors, their norm as 1."""

    rotation: Rotation
    codebook: Codebook | MixedCodebook
    rule: str
    candidates: tuple[float, ...]
    sketch: Sketch | None
    strict: bool

    @property
    def dim(self) -> int:
        """Dimension of the rows."""
        return self.rotation.dim

    @property
    def stage_bytes(self) -> int:
        """Bytes of the first stage in a packed row."""
        return row_bytes(self.dim, self.codebook.bits)

    @property
    def row_bytes(self) -> int:
        """Bytes of a packed row, sketch included."""
        return self.stage_bytes + (plane_bytes(self.sketch.projections, 1) if self.sketch else 0)


def scale_candidates(dim: int, search: int) -> tuple[float, ...]:
    """Scales to try before quantizing, as float32 values in the order of trial; (1.0,) when search is 0.

    Log-spaced within 20 % of 1 (25 % below dimension 96, where vectors differ more; docs/format.md, section 4).
    """
    if search <= 1:
        return (1.0,)
    return log_spaced(0.25 if dim < 96 else 0.20, search)


def log_spaced(reach: float, count: int) -> tuple[float, ...]:
    """An odd `count` of scales from exp(-reach) to exp(reach), as float32 values, the middle one, 1, first."""
    middle = count // 2
    order = [middle]
    for away in range(1, middle + 1):
        order += [middle - away, middle + away]
    exponents = [0.0 if i == middle else -reach + 2 * reach * i / (count - 1) for i in order]
    return tuple(float(np.float32(math.exp(exponent))) for exponent in exponents)
