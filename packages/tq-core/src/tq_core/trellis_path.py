"""The best path through a trellis, many rows at once, and rows of bits from it (docs/format.md, section 10).

Everything is integer: metrics of 16 bits, added with saturation, so that every backend finds the same path.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from tq_core.trellis_table import Trellis

I16 = NDArray[np.int16]
I32 = NDArray[np.int32]
U8 = NDArray[np.uint8]
U16 = NDArray[np.uint16]

LARGEST: Final = 65535  # a metric saturates here
ROWS: Final = 32  # walked at once: the costs of all windows of these rows stay in the second-level cache
HISTORY: Final = 1 << 24  # metrics remembered at once at most, unless one row has more


def tail_biting(code: Trellis, v: I16) -> U8:
    """Symbols (rows, dim), each below 2**bits, of int16 coordinates: the circular path of two passes."""
    rows, dim = v.shape
    out = np.empty((rows, dim), np.uint8)
    together = max(1, min(ROWS, HISTORY // (code.nodes * dim)))
    for start in range(0, rows, together):
        part = slice(start, min(start + together, rows))
        x = doubled(v[part])[:, ::-1]  # the format's time runs from the last coordinate to the first
        half = dim // 2
        turned = np.concatenate([x[:, half:], x[:, :half]], axis=1)
        history = forward(code, turned, None)
        _, seam = backward(code, turned, history, history[-1].argmin(axis=1), dim - half)
        history = forward(code, x, seam)
        symbols, _ = backward(code, x, history, seam, 0)
        out[part] = symbols[:, ::-1]
    return out


def doubled(v: I16) -> I32:
    """Coordinates in units of 1/8192, clamped to int16: what branch metrics are made of."""
    return np.clip(2 * v.astype(np.int32), -32768, 32767)


def forward(code: Trellis, x: I32, start: NDArray[np.int64] | None) -> list[U16]:
    """Metrics of every node before the first, after the first, ... after the last column of x: (rows, nodes) each.

    `start`: the only node of each row to start from, or None for any.
    """
    rows, steps = x.shape
    nodes, branches = code.nodes, 1 << code.bits
    values = doubled(code.levels)
    metrics = np.zeros((rows, nodes), np.uint16)
    if start is not None:
        metrics[:] = LARGEST
        metrics[np.arange(rows), start] = 0
    history = [metrics]
    for step in range(steps):
        least = metrics.min(axis=1, keepdims=True)
        cost = _branch_metrics(x[:, step, None] - values)
        cost += np.repeat(metrics, branches, axis=1)
        best = cost.reshape(rows, branches, nodes).min(axis=1)
        metrics = (np.minimum(best, LARGEST) - least).astype(np.uint16)
        history.append(metrics)
    return history


def backward(
    code: Trellis, x: I32, history: list[U16], end: NDArray[np.int64], stop: int
) -> tuple[U8, NDArray[np.int64]]:
    """Symbols (rows, steps) of the best path into node `end` of each row, and the node before column `stop`.

    Columns before `stop` are not walked. Among equal costs the window with the smallest oldest bits wins.
    """
    rows, steps = x.shape
    branches = code.nodes * np.arange(1 << code.bits)
    values = doubled(code.levels)
    symbols = np.zeros((rows, steps), np.uint8)
    node, row = end.astype(np.int64), np.arange(rows)[:, None]
    for step in range(steps - 1, stop - 1, -1):
        windows = node[:, None] + branches
        cost = _branch_metrics(x[:, step, None] - values[windows]) + history[step][row, windows >> code.bits]
        chosen = windows[row[:, 0], np.minimum(cost, LARGEST).argmin(axis=1)]
        symbols[:, step] = chosen & ((1 << code.bits) - 1)
        node = chosen >> code.bits
    return symbols, node


def _branch_metrics(difference: I32) -> I32:
    """The squared difference in units of 1/2048, rounded, of differences clamped to int16; at most 32768."""
    clamped = np.clip(difference, -32768, 32767)
    squares: I32 = (clamped * clamped + 16384) >> 15
    return squares


def windows(code: Trellis, symbols: U8) -> I32:
    """The window of every coordinate, (rows, dim): its own symbol lowest, then those of the coordinates behind it."""
    found = symbols.astype(np.int32)
    for away in range(1, -(-code.window // code.bits)):
        found |= np.roll(symbols, -away, axis=1).astype(np.int32) << (code.bits * away)
    found &= (1 << code.window) - 1
    return found


def centroids(code: Trellis, packed: U8, dim: int) -> NDArray[np.float32]:
    """The centroids of packed rows, (rows, dim) float32; scratch beside them is that of a few rows."""
    out = np.empty((len(packed), dim), np.float32)
    for start in range(0, len(packed), ROWS):
        part = packed[start : start + ROWS]
        np.take(code.centroids, windows(code, unpack(part, dim, code.bits)), out=out[start : start + ROWS])
    return out


def pack(symbols: U8, bits: int) -> U8:
    """Rows of `dim * bits` bits, coordinate 0 lowest, (rows, ceil(dim * bits / 8)) uint8."""
    planes = symbols[:, :, None] >> np.arange(bits, dtype=np.uint8) & np.uint8(1)
    return np.packbits(planes.reshape(len(symbols), symbols.shape[1] * bits), axis=1, bitorder="little")


def unpack(packed: U8, dim: int, bits: int) -> U8:
    """The symbols of packed rows, (rows, dim) uint8."""
    flags = np.unpackbits(packed, axis=1, bitorder="little", count=dim * bits).reshape(len(packed), dim, bits)
    symbols = flags[:, :, 0].copy()
    for place in range(1, bits):
        symbols |= flags[:, :, place] << np.uint8(place)
    return symbols
