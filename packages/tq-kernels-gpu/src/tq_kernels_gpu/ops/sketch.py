"""One-bit sketches of rows that lie on a device: bits, what they stand for, and queries projected for them."""

import math
from typing import Final

import numpy as np

from tq_core.errors import InvalidDtype, ShapeMismatch
from tq_core.sketch import Sketch
from tq_kernels_gpu.device import Array, Device
from tq_kernels_gpu.layout import dtype_number
from tq_kernels_gpu.ops.rotate import rotate, unrotate
from tq_kernels_gpu.tables import kept

TILE: Final = 64  # rows and projections of a block of tq_sketch
THREADS: Final = 256
INTEGERS: Final = ("int32", "int64")


def sketch_bits(device: Device, sketch: Sketch, residuals: Array) -> Array:
    """Sign bits of integer rows, (rows, ceil(projections / 8)) uint8, unused bits 0; as tq_core's `numpy` to the bit.

    residuals (rows, dim) int32 or int64, sums of whose products with the matrix int64 holds. Raises ShapeMismatch and
    InvalidDtype.
    """
    bits = device.xp.empty((len(residuals), (sketch.projections + 7) // 8), np.uint8)
    write_sketch(device, sketch, residuals, bits, 0)
    return bits


def write_sketch(device: Device, sketch: Sketch, residuals: Array, packed: Array, offset: int) -> None:
    """As `sketch_bits`, into the bytes from `offset` on of packed rows (rows, row bytes)."""
    if residuals.ndim != 2 or residuals.shape[1] != sketch.dim:
        raise ShapeMismatch(f"rows to sketch must be (rows, {sketch.dim}), got {residuals.shape}")
    if str(residuals.dtype) not in INTEGERS:
        raise InvalidDtype(f"rows to sketch must be int32 or int64, got {residuals.dtype}")
    xp, rows = device.xp, len(residuals)
    if not rows:
        return
    place = (packed, np.int32(packed.shape[1]), np.int32(offset))
    module, projections = device.module("sketch"), np.int32(sketch.projections)
    if sketch.rotation is not None:
        turned = rotate(device, sketch.rotation, residuals.astype(np.float32))
        blocks = math.ceil(rows * ((sketch.projections + 7) // 8) / THREADS)
        module.launch("tq_signs_to_bits", blocks, THREADS, (turned, np.int64(rows), projections, *place))
        return
    grid = (math.ceil(rows / TILE), math.ceil(sketch.projections / TILE))
    wide = np.int32(residuals.dtype == np.int64)
    given = (_matrix(device, sketch), projections, np.int32(sketch.dim), xp.ascontiguousarray(residuals), wide)
    module.launch("tq_sketch", grid, 128, (*given, np.int64(rows), *place))


def unsketch(device: Device, sketch: Sketch, bits: Array) -> Array:
    """Reconstruction of unit residuals from (rows, ceil(projections / 8)) uint8 bits, (rows, dim) float32.

    Raises ShapeMismatch and InvalidDtype.
    """
    size = (sketch.projections + 7) // 8
    if bits.ndim != 2 or bits.shape[1] != size:
        raise ShapeMismatch(f"sketches must be (rows, {size}), got {bits.shape}")
    return unproject(device, sketch, signs(device, sketch, bits, 0))


def signs(device: Device, sketch: Sketch, packed: Array, offset: int) -> Array:
    """1 and -1 for the bits from byte `offset` on of packed rows, (rows, projections) float32."""
    dtype_number(packed, ("uint8",), "packed rows")
    xp, rows = device.xp, len(packed)
    out = xp.empty((rows, sketch.projections), np.float32)
    if rows:
        given = (xp.ascontiguousarray(packed), np.int64(rows), np.int32(packed.shape[1]), np.int32(offset))
        arguments = (*given, np.int32(sketch.projections), out)
        device.module("sketch").launch("tq_bits_to_signs", math.ceil(out.size / THREADS), THREADS, arguments)
    return out


def unproject(device: Device, sketch: Sketch, values: Array) -> Array:
    """Signs, or weighted sums of them, (rows, projections) times the transposed sketch and its constant."""
    if sketch.rotation is not None:
        return unrotate(device, sketch.rotation, values) * np.float32(sketch.constant * sketch.dim)
    return device.xp.matmul(values, _floats(device, sketch)) * np.float32(sketch.constant / 2048)


def project(device: Device, sketch: Sketch, queries: Array) -> Array:
    """Queries (queries, dim) float32 as the bits of a sketch are scored with them, (queries, projections) float32."""
    if sketch.rotation is not None:
        return rotate(device, sketch.rotation, queries)
    return device.xp.matmul(queries, _floats(device, sketch).T) * np.float32(1 / 2048)


def _matrix(device: Device, sketch: Sketch) -> Array:
    matrix = sketch.matrix
    assert matrix is not None  # a sketch without a rotation has one
    return kept(device).get(sketch, "matrix", lambda: device.asarray(matrix))


def _floats(device: Device, sketch: Sketch) -> Array:
    """The matrix as float32, kept too: a product with it costs more than reading it."""
    return kept(device).get(sketch, "floats", lambda: _matrix(device, sketch).astype(np.float32))
