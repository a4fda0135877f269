"""Random rotations built from (dim, kind, seed): what they are, not how they are applied.

`z = sqrt(dim) * P u` has coordinates of unit variance for a random unit vector u (docs/format.md, section 2).
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tq_core import random_bits
from tq_core.errors import InvalidSpec

ORDERS = (1, 12, 20)


def kronecker_order(dim: int) -> int:
    """Order of the small Hadamard matrix in `dim = order * 2**k`, or 0 when there is none here."""
    for order in ORDERS:
        if dim % order == 0 and (dim // order).bit_count() == 1:
            return order
    return 0


def binary_blocks(dim: int) -> tuple[int, ...]:
    """Decreasing powers of two that add up to dim."""
    return tuple(1 << bit for bit in range(dim.bit_length() - 1, -1, -1) if dim >> bit & 1)


class Rotation:
    """Plan of one rotation: signs, permutations, factors, or the dense matrix. Immutable once built.

    `signs` (rounds, dim) float32; `permutations` (rounds - 1, dim) int64 or None; `matrix` (dim, dim) float32 or
    None; `factor`, `inverse_factor` float32 values; `order` 0 means `blocks` with permutations between rounds.
    """

    def __init__(
        self,
        dim: int,
        kind: str,
        seed: int,
        *,
        sign_stream: int = random_bits.SIGNS,
        permutation_stream: int = random_bits.PERMUTATION,
    ) -> None:
        self.dim, self.kind, self.seed = dim, kind, seed
        self.rounds = 0
        self.order = 0
        self.blocks: tuple[int, ...] = ()
        self.signs = np.empty((0, dim), np.float32)
        self.permutations: NDArray[np.int64] | None = None
        self.matrix: NDArray[np.float32] | None = None
        if kind == "dense":
            self.matrix = haar(dim, seed)
            self.factor, self.inverse_factor = math.sqrt(dim), 1.0 / math.sqrt(dim)
        elif kind == "hadamard":
            self._plan_rounds(sign_stream, permutation_stream)
        else:
            raise InvalidSpec(f"rotation must be 'hadamard' or 'dense', got {kind!r}")
        for array in (self.signs, self.permutations, self.matrix):
            if array is not None:
                array.setflags(write=False)

    def _plan_rounds(self, sign_stream: int, permutation_stream: int) -> None:
        dim, seed = self.dim, self.seed
        # small transforms leave sparse inputs visibly unmixed: measured in tests/stats/test_rotation_quality.py
        self.rounds = 3 if dim >= 64 else 5 if dim >= 32 else 8
        self.order = kronecker_order(dim)
        keys = [random_bits.stream_key(seed, sign_stream + r) for r in range(self.rounds)]
        self.signs = np.stack([random_bits.signs(key, dim) for key in keys])
        if self.order:
            self.factor = float(np.float32(float(dim) ** ((1 - self.rounds) / 2)))
            self.inverse_factor = float(np.float32(float(dim) ** (-(1 + self.rounds) / 2)))
            return
        self.blocks = binary_blocks(dim)
        keys = [random_bits.stream_key(seed, permutation_stream + r) for r in range(self.rounds - 1)]
        self.permutations = np.stack([random_bits.permutation(key, dim) for key in keys])
        self.factor = float(np.float32(math.sqrt(dim)))
        self.inverse_factor = float(np.float32(1.0 / math.sqrt(dim)))

    @property
    def tables(self) -> tuple[NDArray[Any], ...]:
        """The arrays held."""
        return tuple(array for array in (self.signs, self.permutations, self.matrix) if array is not None)


def haar(dim: int, seed: int) -> NDArray[np.float32]:
    """A Haar-distributed orthogonal matrix, (dim, dim) float32: Gaussian rows, Gram-Schmidt twice.

    Costs O(dim**3); built without LAPACK, so that it is the same with every BLAS.
    """
    key = random_bits.stream_key(seed, random_bits.HAAR)
    rows = random_bits.gaussians(key, dim * dim).reshape(dim, dim)
    for _ in range(2):
        for i in range(dim):
            rows[i] /= math.sqrt(math.fsum(rows[i] * rows[i]))
            if i + 1 < dim:
                rest = rows[i + 1 :]
                # axis-0 sums of the transposed product add column by column: a fixed order
                dots = np.add.reduce((rest * rows[i]).T, axis=0)
                rest -= dots[:, None] * rows[i]
    return rows.astype(np.float32)
