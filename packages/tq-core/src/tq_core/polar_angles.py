"""Codebooks of polar angles: uniform on the first level, Lloyd-Max of sin^(m-1)(2 theta) below it."""

import math
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]

GRID: Final = 1 << 14  # midpoint rule on a smooth density: errors far below the bins of at most 8 bits


class AngleBook:
    """Bins of one level: `edges` inside the range, reproduction `angles`, and E cos(angle error)."""

    def __init__(self, level: int, bits: int) -> None:
        self.level, self.bits = level, bits
        if level == 1:
            width = 2 * math.pi / (1 << bits)
            angles = np.asarray((np.arange(1 << bits) + 0.5) * width, np.float64)
            # the half circle y >= 0 alone is searched; the other half is folded onto it
            self.edges = np.asarray(np.arange(1, 1 << (bits - 1)) * width, np.float64)
            self.mean_cosine = math.sin(width / 2) / (width / 2)
        else:
            angles, self.edges, self.mean_cosine = _lloyd_max(level, 1 << bits)
        self.cosines: F64 = np.cos(angles)
        self.sines: F64 = np.sin(angles)

    @property
    def tables(self) -> tuple[F64, ...]:
        """The arrays held."""
        return self.edges, self.cosines, self.sines

    def bins(self, x: F64, y: F64) -> NDArray[np.uint8]:
        """The bin of each angle of (x, y), without computing it: edges are compared by cross products."""
        below = np.zeros(x.shape, bool)
        if self.level == 1:
            below = (y < 0) | ((y == 0) & (x < 0))
            x, y = np.where(below, -x, x), np.where(below, -y, y)
        found = np.zeros(x.shape, np.uint8)
        for edge in self.edges:
            found += (y * math.cos(edge) - x * math.sin(edge) >= 0) & ((x != 0) | (y != 0))
        if self.level == 1:
            found[below] += np.uint8(1 << (self.bits - 1))
        return found


def _lloyd_max(level: int, count: int) -> tuple[F64, F64, float]:
    """Angles, edges and E cos(error) for the density sin^(m-1)(2 theta) on [0, pi/2], m = 2^(level-1)."""
    theta = (np.arange(GRID) + 0.5) * (math.pi / 2 / GRID)
    weight = np.sin(2 * theta) ** (2 ** (level - 1) - 1)
    weight /= weight.sum()
    mass = np.concatenate([[0.0], np.cumsum(weight)])
    moment = np.concatenate([[0.0], np.cumsum(weight * theta)])
    grid = np.arange(GRID + 1) * (math.pi / 2 / GRID)
    angles = np.interp((np.arange(count) + 0.5) / count, mass, grid)
    for _ in range(5000):
        edges = (angles[1:] + angles[:-1]) / 2
        at = np.concatenate([[0.0], edges, [math.pi / 2]])
        masses, moments = np.diff(np.interp(at, grid, mass)), np.diff(np.interp(at, grid, moment))
        moved = moments / masses
        done = float(np.abs(moved - angles).max()) < 1e-13
        angles = moved
        if done:
            break
    edges = (angles[1:] + angles[:-1]) / 2
    error = theta - angles[np.searchsorted(edges, theta)]
    return angles, edges, float((weight * np.cos(error)).sum())


@lru_cache(maxsize=64)
def angle_book(level: int, bits: int) -> AngleBook:
    """The angle codebook of a level, built once."""
    return AngleBook(level, bits)
