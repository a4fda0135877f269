"""Encoding of rows that lie on a device to a trellis code."""

from typing import Any, Final

import numpy as np

from tq_core.errors import ShapeMismatch
from tq_core.trellis_plan import TrellisPlan
from tq_kernels_gpu.codes import search_arguments
from tq_kernels_gpu.device import Array, Device
from tq_kernels_gpu.layout import dtype_number
from tq_kernels_gpu.ops.normalize import INPUTS, normalize
from tq_kernels_gpu.ops.rotate import rotate
from tq_kernels_gpu.trellis_tables import trellis_tables, walk_launch

TILE_VALUES: Final = 1 << 26  # coordinates encoded at once: what lies rotated beside the rows takes 512 MiB at most


def walk(device: Device, plan: TrellisPlan, x: Array, keep: list[Any] | None = None) -> tuple[Array, Array]:
    """Packed rows (rows, plan.row_bytes) uint8 and scales (rows,) float32; to the bit as tq_core's `numpy`.

    Input, errors and `keep` are those of ops.encode.encode. Norm and rotation are launches of their own: the walk is
    far longer than both, and what registers they need would leave it fewer blocks a processor.
    """
    if x.ndim != 2 or x.shape[1] != plan.dim:
        raise ShapeMismatch(f"rows to encode must be (rows, {plan.dim}), got {x.shape}")
    dtype_number(x, INPUTS, "rows to encode")
    packed = device.xp.empty((len(x), plan.row_bytes), np.uint8)
    scales = device.xp.empty(len(x), np.float32)
    step = max(1, TILE_VALUES // plan.dim)
    for start in range(0, len(x), step):
        tile = slice(start, min(start + step, len(x)))
        units, norms = normalize(device, x[tile], strict=plan.strict)
        z = rotate(device, plan.rotation, units)
        scratch = _walk_rotated(device, plan, z, norms, packed[tile], scales[tile])
        if keep is not None:
            keep += [units, norms, z, scratch]
    return packed, scales


def _walk_rotated(device: Device, plan: TrellisPlan, z: Array, norms: Array, packed: Array, scales: Array) -> Array:
    tables = trellis_tables(device, plan.codebook)
    launch = walk_launch(device, tables, len(z), plan.dim)
    arguments = (
        *(z, norms, np.int64(len(z)), np.int32(plan.dim), packed, np.int32(plan.row_bytes), scales),
        *tables.for_encoding(),
        *search_arguments(device, plan),
        launch.scratch,
    )
    module = device.module("trellis_encode")
    module.launch("tq_trellis_encode", launch.grid, launch.block, arguments, shared=launch.shared)
    return launch.scratch
