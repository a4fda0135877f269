"""Scores of packed rows that lie on a device."""

import math
from typing import Final, NamedTuple

import numpy as np

from tq_core.errors import ShapeMismatch
from tq_core.registry import Plan
from tq_core.sketch import Sketch
from tq_kernels_gpu.device import Array, Device
from tq_kernels_gpu.layout import MOST_ACROSS, dtype_number
from tq_kernels_gpu.ops.parts import Part, parts_of_scores, sketch_part
from tq_kernels_gpu.ops.rotate import rotate
from tq_kernels_gpu.ops.scan import fits, scan_scores
from tq_kernels_gpu.ops.scan8 import can_scan8, scan8
from tq_kernels_gpu.ops.sketch import project
from tq_kernels_gpu.trellis_tables import TRELLIS

TILE: Final = 64  # rows and queries of a block: TQ_TILE of kernels/products.cu


EIGHT_BITS: Final = "8 bits"  # paths: a pass for each query, rounded;
ONE_PASS: Final = "one pass"  # a pass for up to four;
TILES: Final = "tiles"  # tiles of rows and queries


class Asked(NamedTuple):
    """What scores are made of, and how: one path for all rows and queries of a call, for they round differently."""

    stage: Part
    sketch: Part | None
    rotated: Array  # (queries, dim) float32
    projected: Array  # (queries, projections) float32, or None
    path: str

    def scores(self, device: Device, some: slice, tile: slice) -> Array:
        """The scores of some queries and rows, (queries, rows) float32."""
        stage, sketch = self.stage.rows(tile), None if self.sketch is None else self.sketch.rows(tile)
        rotated, projected = self.rotated[some], None if self.projected is None else self.projected[some]
        if self.path == EIGHT_BITS:
            return scan8(device, stage, sketch, rotated, projected, None)
        if self.path == ONE_PASS:
            return scan_scores(device, stage, sketch, rotated, projected)
        out = device.xp.empty((len(rotated), len(stage.packed)), np.float32)
        if out.size:
            _products(device, stage, rotated, out, add=False)
            if sketch is not None:
                _products(device, sketch, projected, out, add=True)
        return out


def asked_scores(
    device: Device, plan: Plan, packed: Array, scales: Array, gammas: Array, queries: Array, accuracy: str
) -> Asked:
    """Parts and turned queries of scores; arrays and errors as `scores`."""
    stage, sketch = parts_of_scores(device, plan, packed, scales, gammas)
    rotated, projected = turned_queries(device, plan, queries)
    if accuracy == "int8" and can_scan8(device, stage, sketch, len(queries)):
        path = EIGHT_BITS
    else:
        path = ONE_PASS if fits(device, stage, sketch, len(queries)) else TILES
    return Asked(stage, sketch, rotated, projected, path)


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
    Sums are float32. At the accuracy "int8" up to two queries add the error that `scan8` states, where it has kernels.
    """
    asked = asked_scores(device, plan, packed, scales, gammas, queries, accuracy)
    return asked.scores(device, slice(0, len(queries)), slice(0, len(packed)))


def sketch_scores(device: Device, sketch: Sketch, bits: Array, queries: Array) -> Array:
    """Estimated inner products of queries (queries, dim) float32 with unit residuals, (queries, rows) float32.

    bits (rows, ceil(projections / 8)) uint8. Raises ShapeMismatch and InvalidDtype.
    """
    require_queries(queries, sketch.dim)
    part = sketch_part(device, sketch, bits, 0, None, sketch.constant)
    path = ONE_PASS if fits(device, part, None, len(queries)) else TILES
    asked = Asked(part, None, project(device, sketch, queries), None, path)
    return asked.scores(device, slice(0, len(queries)), slice(0, len(bits)))


def turned_queries(device: Device, plan: Plan, queries: Array) -> tuple[Array, Array]:
    """Queries as the first stage takes them, and as the sketch does (None without one)."""
    require_queries(queries, plan.dim)
    rotated = rotate(device, plan.rotation, queries)
    return rotated, None if plan.sketch is None else project(device, plan.sketch, rotated)


def require_queries(queries: Array, dim: int) -> None:
    """ShapeMismatch or InvalidDtype unless they are (queries, dim) float32."""
    if queries.ndim != 2 or queries.shape[1] != dim:
        raise ShapeMismatch(f"queries must be (queries, {dim}), got {queries.shape}")
    dtype_number(queries, ("float32",), "queries")


def _products(device: Device, part: Part, queries: Array, out: Array, *, add: bool) -> None:
    count, rows = out.shape
    most = TILE * MOST_ACROSS
    if count > most:
        for first in range(0, count, most):
            _products(device, part, queries[first : first + most], out[first : first + most], add=add)
        return
    arguments = (
        *(part.packed, np.int64(rows), np.int32(part.packed.shape[1]), *part.layout()),
        *(device.xp.ascontiguousarray(queries), np.int64(count), np.float32(part.factor), *part.factors()),
        *(np.int32(add), out),
    )
    grid = (math.ceil(rows / TILE), math.ceil(count / TILE))
    kernel = "tq_products_trellis" if part.format >= TRELLIS else "tq_products"
    device.module("products").launch(kernel, grid, 256, arguments, shared=4 * len(part.centroids))
