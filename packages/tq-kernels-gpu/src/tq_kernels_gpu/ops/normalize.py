"""Norms and unit rows on a device, for rotations that are applied elsewhere than in the kernel that encodes."""

import numpy as np

from tq_kernels_gpu.device import Array, Device
from tq_kernels_gpu.layout import dtype_number, row_launch

INPUTS = ("float32", "float16", "uint16", "float64")


def normalize(device: Device, x: Array, *, strict: bool = False) -> tuple[Array, Array]:
    """Unit rows (rows, dim) float32 and norms (rows,) float64; with `strict` rows as they are and norms of 1."""
    rows, dim = x.shape
    dtype = dtype_number(x, INPUTS, "rows to normalize")
    units, norms = device.xp.empty((rows, dim), np.float32), device.xp.empty(rows, np.float64)
    if rows:
        launch = row_launch(device, rows, dim)
        x = device.xp.ascontiguousarray(x)
        arguments = (x, dtype, np.int64(rows), np.int32(dim), np.int32(strict), units, norms, launch.scratch)
        device.module("encode").launch("tq_normalize", launch.grid, launch.block, arguments, shared=launch.shared)
    return units, norms
