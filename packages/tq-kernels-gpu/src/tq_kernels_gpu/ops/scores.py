"""Scores of packed rows that lie on a device."""

import math
from typing import Final

import numpy as np

from tq_core.errors import ShapeMismatch
from tq_core.plan import ScalarPlan
from tq_core.registry import Plan
from tq_core.sketch import Sketch
from tq_kernels_gpu.codes import scalar_plan
from tq_kernels_gpu.device import Array, Device
from tq_kernels_gpu.layout import dtype_number
from tq_kernels_gpu.ops.parts import Part, parts_of_scores, sketch_part
from tq_kernels_gpu.ops.rotate import rotate
from tq_kernels_gpu.ops.scan import fits, scan_scores
from tq_kernels_gpu.ops.sketch import project

TILE: Final = 64  # rows and queries of a block: TQ_TILE of kernels/products.cu


def scores(
    device: Device,
    plan: Plan,
    packed: Array,
    scales: Array,
    gammas: Array,
    queries: Array,
    *,
    accuracy: str = "exact",
) -> Array:
    """Estimated inner products, (queries, rows) float32; queries are rotated once, no row is rotated back.

    packed (rows, plan.row_bytes) uint8; scales, and with a sketch gammas, (rows,) float32 or float16; queries
    (queries, dim) float32. Raises ShapeMismatch, InvalidDtype, and BackendUnavailable for plans that have no kernels.
    Sums are float32; up to `scan.FEW` queries take one pass over the rows.
    """
    plan = scalar_plan(plan)
    stage, sketch = parts_of_scores(device, plan, packed, scales, gammas)
    rotated, projected = turned_queries(device, plan, queries)
    one_pass = fits(device, stage, sketch, len(queries))
    return score_parts(device, stage, sketch, rotated, projected, one_pass=one_pass)


def sketch_scores(device: Device, sketch: Sketch, bits: Array, queries: Array) -> Array:
    """Estimated inner products of queries (queries, dim) float32 with unit residuals, (queries, rows) float32.

    bits (rows, ceil(projections / 8)) uint8. Raises ShapeMismatch and InvalidDtype.
    """
    require_queries(queries, sketch.dim)
    part = sketch_part(device, sketch, bits, 0, None, sketch.constant)
    projected, one_pass = project(device, sketch, queries), fits(device, part, None, len(queries))
    return score_parts(device, part, None, projected, None, one_pass=one_pass)


def turned_queries(device: Device, plan: ScalarPlan, queries: Array) -> tuple[Array, Array]:
    """Queries as the first stage takes them, and as the sketch does (None without one)."""
    require_queries(queries, plan.dim)
    rotated = rotate(device, plan.rotation, queries)
    return rotated, None if plan.sketch is None else project(device, plan.sketch, rotated)


def require_queries(queries: Array, dim: int) -> None:
    """ShapeMismatch or InvalidDtype unless they are (queries, dim) float32."""
    if queries.ndim != 2 or queries.shape[1] != dim:
        raise ShapeMismatch(f"queries must be (queries, {dim}), got {queries.shape}")
    dtype_number(queries, ("float32",), "queries")


def score_parts(
    device: Device, stage: Part, sketch: Part | None, rotated: Array, projected: Array, *, one_pass: bool
) -> Array:
    """The scores of both parts together, (queries, rows) float32; by tiles unless in `one_pass`, which sums otherwise."""
    if one_pass:
        return scan_scores(device, stage, sketch, rotated, projected)
    out = device.xp.empty((len(rotated), len(stage.packed)), np.float32)
    if out.size:
        _products(device, stage, rotated, out, add=False)
        if sketch is not None:
            _products(device, sketch, projected, out, add=True)
    return out


def _products(device: Device, part: Part, queries: Array, out: Array, *, add: bool) -> None:
    count, rows = out.shape
    arguments = (
        *(part.packed, np.int64(rows), np.int32(part.packed.shape[1]), *part.layout()),
        *(device.xp.ascontiguousarray(queries), np.int64(count), np.float32(part.factor), *part.factors()),
        *(np.int32(add), out),
    )
    grid = (math.ceil(rows / TILE), math.ceil(count / TILE))
    device.module("products").launch("tq_products", grid, 256, arguments)
