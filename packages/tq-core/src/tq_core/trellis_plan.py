"""What a backend needs to encode, decode and score rows of a trellis code."""

import math
from typing import NamedTuple

from tq_core.packing import plane_bytes
from tq_core.plan import log_spaced
from tq_core.rotation import Rotation
from tq_core.trellis_table import Trellis


class TrellisPlan(NamedTuple):
    """Everything that decides a trellis code; the fields of a ScalarPlan that has no sketch."""

    rotation: Rotation
    codebook: Trellis
    rule: str
    candidates: tuple[float, ...]
    strict: bool
    sketch: None = None

    @property
    def dim(self) -> int:
        """Dimension of the rows."""
        return self.rotation.dim

    @property
    def stage_bytes(self) -> int:
        """Bytes of a packed row: one stream of `dim * bits` bits."""
        return plane_bytes(self.dim * self.codebook.bits, 1)

    @property
    def row_bytes(self) -> int:
        """The same."""
        return self.stage_bytes


def trellis_candidates(dim: int, search: int) -> tuple[float, ...]:
    """Scales to try before quantizing, as float32 values in the order of trial; (1.0,) when search is 0.

    Log-spaced; the norms of the best codewords of a vector spread by about 1/sqrt(dim), and so do these
    (docs/format.md, section 10).
    """
    if search <= 1:
        return (1.0,)
    return log_spaced(min(0.25, 1.8 / math.sqrt(dim) * (search - 1) / (search + 1)), search)
