"""The one-bit sketch: its random matrix and its constant (paper definition 1; docs/format.md, section 6)."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tq_core import random_bits
from tq_core.errors import InvalidSpec
from tq_core.rotation import Rotation


class Sketch:
    """Plan of a sign sketch. Immutable.

    gaussian: `matrix` (projections, dim) int16 in units of 1/2048, `constant` = sqrt(pi/2) / projections per
    unit of the real-valued matrix. hadamard: `rotation` with streams of its own, projections = dim, and the
    constant of orthonormal rows scaled by sqrt(dim).
    """

    def __init__(self, dim: int, projections: int, kind: str, seed: int) -> None:
        self.dim, self.projections, self.kind, self.seed = dim, projections, kind, seed
        self.matrix: NDArray[np.int16] | None = None
        self.rotation: Rotation | None = None
        if kind == "gaussian":
            key = random_bits.stream_key(seed, random_bits.SKETCH)
            drawn = np.rint(2048.0 * random_bits.gaussians(key, projections * dim))
            self.matrix = np.clip(drawn, -32767, 32767).astype(np.int16).reshape(projections, dim)
            self.matrix.setflags(write=False)
            self.constant = math.sqrt(math.pi / 2) / projections
        elif kind == "hadamard":
            if projections != dim:
                raise InvalidSpec(f"a hadamard sketch has as many projections as dimensions, {dim}, got {projections}")
            self.rotation = Rotation(
                dim,
                "hadamard",
                seed,
                sign_stream=random_bits.SKETCH_SIGNS,
                permutation_stream=random_bits.SKETCH_PERMUTATION,
            )
            self.constant = 1.0 / (dim * math.sqrt(dim) * mean_abs_coordinate(dim))
        else:
            raise InvalidSpec(f"sketch must be 'gaussian' or 'hadamard', got {kind!r}")

    @property
    def expected_mse(self) -> float:
        """Expected squared error of the reconstruction of a unit vector."""
        if self.kind == "gaussian":
            return math.pi / 2 * self.dim / self.projections - 1 / self.projections
        return 1.0 / (self.dim * mean_abs_coordinate(self.dim) ** 2) - 1.0

    @property
    def tables(self) -> tuple[NDArray[Any], ...]:
        """The arrays held."""
        if self.matrix is not None:
            return (self.matrix,)
        return self.rotation.tables if self.rotation is not None else ()


def mean_abs_coordinate(dim: int) -> float:
    """E|u_1| of a random unit vector: Gamma(d/2) / (sqrt(pi) Gamma((d+1)/2))."""
    return math.exp(math.lgamma(dim / 2) - math.lgamma((dim + 1) / 2)) / math.sqrt(math.pi)
