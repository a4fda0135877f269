"""Rotation of rows that lie on a device."""

import numpy as np

from tq_core.errors import InvalidDtype, ShapeMismatch
from tq_core.rotation import Rotation
from tq_kernels_gpu.device import Array, Device
from tq_kernels_gpu.layout import row_launch
from tq_kernels_gpu.tables import rotation_tables


def rotate(device: Device, rotation: Rotation, x: Array) -> Array:
    """z = sqrt(dim) P x, (rows, dim) float32; hadamard to the bit as tq_core's `numpy`.

    Raises ShapeMismatch unless x is (rows, dim), InvalidDtype unless it is float32.
    """
    return _turn(device, rotation, x, inverse=False)


def unrotate(device: Device, rotation: Rotation, z: Array) -> Array:
    """P^T z / sqrt(dim), (rows, dim) float32; errors as `rotate`."""
    return _turn(device, rotation, z, inverse=True)


def _turn(device: Device, rotation: Rotation, x: Array, *, inverse: bool) -> Array:
    if x.ndim != 2 or x.shape[1] != rotation.dim:
        raise ShapeMismatch(f"rows to rotate must be (rows, {rotation.dim}), got {x.shape}")
    if x.dtype != np.float32:
        raise InvalidDtype(f"rows to rotate must be float32, got {x.dtype}")
    tables = rotation_tables(device, rotation)
    if tables.matrix is not None:
        matrix, factor = (tables.matrix, tables.inverse_factor) if inverse else (tables.matrix.T, tables.factor)
        return (device.xp.matmul(x.astype(np.float64), matrix) * factor).astype(np.float32)
    x = device.xp.ascontiguousarray(x)
    out = device.xp.empty(x.shape, np.float32)
    rows = len(x)
    if rows:
        launch = row_launch(device, rows, rotation.dim, buffers=tables.buffers)
        arguments = (x, out, np.int64(rows), *tables.arguments(inverse=inverse), np.int32(inverse), launch.scratch)
        device.module("rotate").launch("tq_rotate", launch.grid, launch.block, arguments, shared=launch.shared)
    return out
