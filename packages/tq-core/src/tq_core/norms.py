"""Norms and unit vectors with a written-down order of additions (docs/format.md, section 3)."""

import numpy as np
from numpy.typing import NDArray


def row_norms(x: NDArray[np.floating]) -> NDArray[np.float64]:
    """Euclidean norms of the rows, (rows,) float64: squares added by a halving tree.

    A float64 row beyond 1e154 overflows to infinity; callers refuse it because no scale dtype can hold it.
    """
    with np.errstate(over="ignore", under="ignore"):
        sums: NDArray[np.float64] = np.square(x, dtype=np.float64)
    n = sums.shape[1]
    while n > 1:
        half = (n + 1) // 2
        sums[:, : n - half] += sums[:, half:n]
        n = half
    norms: NDArray[np.float64] = np.sqrt(sums[:, 0])
    return norms


def unit_rows(x: NDArray[np.floating], norms: NDArray[np.float64]) -> NDArray[np.float32]:
    """Rows divided by their norms, float32; zero rows stay zero."""
    inverse = 1.0 / np.where(norms > 0, norms, 1.0)
    return (x.astype(np.float64) * inverse[:, None]).astype(np.float32)
