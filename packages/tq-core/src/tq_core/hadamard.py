"""Applying a rotation with numpy, to the bit as docs/format.md section 2 says.

Arrays are held transposed, (dim, rows): every butterfly is then one long contiguous addition.
"""

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tq_core.rotation import Rotation

F32 = NDArray[np.float32]

TILE_VALUES: Final = 1 << 16  # 256 KiB of float32: both ping-pong buffers stay in the second-level cache

# Row r: the three other groups and their signs in `w`; `t` has the opposite signs and + for group r.
_FORWARD12: Final = (
    ((1, 1), (2, 1), (3, 1)),
    ((0, -1), (2, -1), (3, 1)),
    ((0, -1), (1, 1), (3, -1)),
    ((0, -1), (1, -1), (2, 1)),
)
_INVERSE12: Final = (
    ((1, -1), (2, -1), (3, -1)),
    ((0, 1), (2, 1), (3, -1)),
    ((0, 1), (1, -1), (3, 1)),
    ((0, 1), (1, 1), (2, -1)),
)


def paley20() -> NDArray[np.int8]:
    """The order-20 Hadamard matrix of docs/format.md, (20, 20) int8 of +-1."""
    squares = {i * i % 19 for i in range(1, 19)}
    matrix = np.ones((20, 20), np.int8)
    for i in range(1, 20):
        matrix[i, 0] = -1
        for j in range(1, 20):
            if i != j:
                matrix[i, j] = 1 if (j - i) % 19 in squares else -1
    return matrix


_PALEY: Final = paley20()


def forward(rotation: Rotation, x: F32) -> F32:
    """z = sqrt(dim) * P x for the rows of x, (rows, dim) float32."""
    if rotation.matrix is not None:
        product = x.astype(np.float64) @ rotation.matrix.T.astype(np.float64)
        return (product * rotation.factor).astype(np.float32)
    return _by_tiles(rotation, x, _forward_tile)


def inverse(rotation: Rotation, z: F32) -> F32:
    """P^T z / sqrt(dim) for the rows of z, (rows, dim) float32."""
    if rotation.matrix is not None:
        product = z.astype(np.float64) @ rotation.matrix.astype(np.float64)
        return (product * rotation.inverse_factor).astype(np.float32)
    return _by_tiles(rotation, z, _inverse_tile)


def _by_tiles(rotation: Rotation, x: F32, transform: Callable[[Rotation, F32], F32]) -> F32:
    out = np.empty_like(x)
    rows = max(1, TILE_VALUES // rotation.dim)
    for start in range(0, len(x), rows):
        tile = x[start : start + rows]
        out[start : start + rows] = transform(rotation, np.ascontiguousarray(tile.T)).T
    return out


def _forward_tile(rotation: Rotation, tile: F32) -> F32:
    last = rotation.rounds - 1
    for r in range(rotation.rounds):
        tile = tile * rotation.signs[r][:, None]
        tile = _transform(rotation, tile, transpose=False)
        if rotation.permutations is not None and r < last:
            tile = tile[rotation.permutations[r]]
    return tile * np.float32(rotation.factor)


def _inverse_tile(rotation: Rotation, tile: F32) -> F32:
    last = rotation.rounds - 1
    for r in range(last, -1, -1):
        if rotation.permutations is not None and r < last:
            undone = np.empty_like(tile)
            undone[rotation.permutations[r]] = tile
            tile = undone
        tile = _transform(rotation, tile, transpose=True)
        tile = tile * rotation.signs[r][:, None]
    return tile * np.float32(rotation.inverse_factor)


def _transform(rotation: Rotation, tile: F32, *, transpose: bool) -> F32:
    if rotation.order == 0:
        out = np.empty_like(tile)
        start = 0
        for size in rotation.blocks:
            block = _butterflies(tile[start : start + size], size)
            np.multiply(block, np.float32(1.0 / np.sqrt(size)), out=out[start : start + size])
            start += size
        return out
    tile = _butterflies(tile, rotation.dim // rotation.order)
    if rotation.order == 12:
        return _order12(tile, _INVERSE12 if transpose else _FORWARD12)
    if rotation.order == 20:
        return _order20(tile, _PALEY.T if transpose else _PALEY)
    return tile


def _butterflies(tile: F32, size: int) -> F32:
    """Plain Hadamard stages h = 1, 2, 4, ... below size, within groups of `size` rows; returns a new array."""
    rows = tile.shape[1]
    source, target = tile, np.empty_like(tile)
    spare = np.empty_like(tile)
    h = 1
    while h < size:
        a = source.reshape(-1, 2, h * rows)
        b = target.reshape(-1, 2, h * rows)
        np.add(a[:, 0], a[:, 1], out=b[:, 0])
        np.subtract(a[:, 0], a[:, 1], out=b[:, 1])
        source, target = target, (spare if source is tile else source)
        h *= 2
    return source


def _signed(value: F32, sign: int) -> F32:
    return value if sign > 0 else -value


def _order12(tile: F32, rows12: tuple[tuple[tuple[int, int], ...], ...]) -> F32:
    x = tile.reshape(4, 3, -1)
    s = (x[:, 0] + x[:, 1]) + x[:, 2]
    out = np.empty_like(x)
    for row, others in enumerate(rows12):
        of = dict(others)
        t = _signed(s[0], 1 if row == 0 else -of[0])
        for group in (1, 2, 3):
            t = t + s[group] if (1 if group == row else -of[group]) > 0 else t - s[group]
        (g0, s0), (g1, s1), (g2, s2) = others
        w = _signed(x[g0], s0)
        w = w + x[g1] if s1 > 0 else w - x[g1]
        w = w + x[g2] if s2 > 0 else w - x[g2]
        np.add(t[None], w + w, out=out[row])
    return out.reshape(tile.shape)


def _order20(tile: F32, matrix: NDArray[np.int8]) -> F32:
    x = tile.reshape(20, -1)
    out = np.empty_like(x)
    for row in range(20):
        total = _signed(x[0], int(matrix[row, 0]))
        for column in range(1, 20):
            total = total + x[column] if matrix[row, column] > 0 else total - x[column]
        out[row] = total
    return out.reshape(tile.shape)
