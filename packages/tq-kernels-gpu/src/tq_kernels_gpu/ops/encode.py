"""Encoding of rows that lie on a device."""

from typing import Any, NamedTuple

import numpy as np

from tq_core.errors import ShapeMismatch
from tq_core.plan import ScalarPlan
from tq_core.registry import Plan
from tq_core.trellis_plan import TrellisPlan
from tq_kernels_gpu.codes import book_tables, search_arguments
from tq_kernels_gpu.device import Argument, Array, Device
from tq_kernels_gpu.layout import dtype_number, row_launch
from tq_kernels_gpu.ops.normalize import INPUTS, normalize
from tq_kernels_gpu.ops.rotate import rotate
from tq_kernels_gpu.ops.sketch import write_sketch
from tq_kernels_gpu.ops.walk import walk
from tq_kernels_gpu.tables import rotation_tables


class Stage(NamedTuple):
    """The first stage of encoded rows; what belongs to a sketch is None for a plan without one."""

    packed: Array  # (rows, plan.row_bytes) uint8; what lies behind plan.stage_bytes is not written yet
    scales: Array  # (rows,) float32
    gammas: Array  # (rows,) float32
    residuals: Array  # (rows, dim) int32, rotated, in units of 1 / 4096


def encode(device: Device, plan: Plan, x: Array, keep: list[Any] | None = None) -> tuple[Array, Array, Array]:
    """Packed rows (rows, plan.row_bytes) uint8, scales (rows,) and residual norms (rows,), None without a sketch.

    To the bit as tq_core's `numpy`.

    x is (rows, dim) float16, float32, float64 or the bits of bfloat16 as uint16. Raises ShapeMismatch and InvalidDtype
    for other arrays, BackendUnavailable for plans that have no kernels. Rows are not checked: a scale that float32
    cannot hold comes out infinite or NaN. `keep`: takes the scratch arrays of a plan without a sketch, which a graph
    that is being captured needs as long as it lives.
    """
    if isinstance(plan, TrellisPlan):
        return (*walk(device, plan, x, keep), None)
    stage = first_stage(device, plan, x, keep)
    if plan.sketch is not None:
        write_sketch(device, plan.sketch, stage.residuals, stage.packed, plan.stage_bytes)
    return stage.packed, stage.scales, stage.gammas


def first_stage(device: Device, plan: ScalarPlan, x: Array, keep: list[Any] | None = None) -> Stage:
    """Codes and scales of rows, and what the sketch of a plan that has one is made of; input and errors as `encode`."""
    if x.ndim != 2 or x.shape[1] != plan.dim:
        raise ShapeMismatch(f"rows to encode must be (rows, {plan.dim}), got {x.shape}")
    dtype = dtype_number(x, INPUTS, "rows to encode")
    xp, rows = device.xp, len(x)
    x = xp.ascontiguousarray(x)
    sketched = plan.sketch is not None
    stage = Stage(
        packed=xp.empty((rows, plan.row_bytes), np.uint8),
        scales=xp.empty(rows, np.float32),
        gammas=xp.empty(rows, np.float32) if sketched else None,
        residuals=xp.empty((rows, plan.dim), np.int32) if sketched else None,
    )
    if not rows:
        return stage
    tables = rotation_tables(device, plan.rotation)
    norms = None
    if tables.matrix is not None:
        units, norms = normalize(device, x, strict=plan.strict)
        x, dtype = rotate(device, plan.rotation, units), np.int32(0)
    launch = row_launch(device, rows, plan.dim, buffers=tables.buffers)
    arguments: tuple[Argument, ...] = (
        *(x, dtype, np.int64(rows), norms, np.int32(plan.strict)),
        *(stage.packed, np.int32(plan.row_bytes), np.int32(plan.stage_bytes)),
        *(stage.scales, stage.residuals, stage.gammas),
        *book_tables(device, plan.codebook).for_encoding(),
        *search_arguments(device, plan),
        *tables.arguments(inverse=False),
        launch.scratch,
    )
    if keep is not None:
        keep += [x, norms, launch.scratch]
    device.module("encode").launch("tq_encode", launch.grid, launch.block, arguments, shared=launch.shared)
    return stage
