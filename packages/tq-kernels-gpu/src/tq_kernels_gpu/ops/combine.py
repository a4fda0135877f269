"""Weighted sums of packed rows that lie on a device."""

import math
from typing import Final

import numpy as np

from tq_core.errors import ShapeMismatch
from tq_core.registry import Plan
from tq_kernels_gpu.device import Array, Device
from tq_kernels_gpu.layout import MOST_ACROSS, dtype_number
from tq_kernels_gpu.ops.parts import Part, sketch_part, stage_part
from tq_kernels_gpu.ops.rotate import unrotate
from tq_kernels_gpu.ops.sketch import unproject

THREADS: Final = 256
MOST_SUMS: Final = 8  # of one block: TQ_MOST_SUMS of kernels/combine.cu
ROWS_A_BLOCK: Final = 256  # at the least: a block that adds fewer does little but write its sums
BLOCKS_A_PROCESSOR: Final = 4
GROUPS: Final = {
    9: 4,
    10: 2,
    11: 4,
    12: 2,
}  # coordinates that a thread decodes at once, 8 but for these formats: tq_group


def combine(device: Device, plan: Plan, packed: Array, scales: Array, gammas: Array, weights: Array) -> Array:
    """Weighted sums of the decoded rows, (sums, dim) float32; added in the rotated domain, rotated back once.

    packed (rows, plan.row_bytes) uint8; scales, and with a sketch gammas, (rows,) float32 or float16; weights
    (sums, rows) float32. Raises ShapeMismatch, InvalidDtype, and BackendUnavailable for plans that have no kernels.
    """
    stage = stage_part(device, plan, packed, scales)
    if weights.ndim != 2 or weights.shape[1] != len(packed):
        raise ShapeMismatch(f"weights must be (sums, {len(packed)}), got {weights.shape}")
    dtype_number(weights, ("float32",), "weights")
    total = _sums(device, stage, weights)
    if plan.sketch is not None and gammas is not None:
        part = sketch_part(device, plan.sketch, packed, plan.stage_bytes, gammas, math.sqrt(plan.dim))
        # signs are added before they are projected back, once a sum
        total += unproject(device, plan.sketch, _sums(device, part, weights))
    return unrotate(device, plan.rotation, total)


def _sums(device: Device, part: Part, weights: Array) -> Array:
    """Weighted sums of a part's centroids times its row factors, (sums, part.dim) float32."""
    xp, (sums, rows) = device.xp, weights.shape
    if not sums or not rows:
        return xp.zeros((sums, part.dim), np.float32)
    most = MOST_SUMS * MOST_ACROSS
    if sums > most:
        return xp.concatenate([_sums(device, part, weights[first : first + most]) for first in range(0, sums, most)])
    groups = math.ceil(part.dim / GROUPS.get(part.format, 8))
    across = min(THREADS, 1 << (groups - 1).bit_length())
    kernel, together = ("tq_combine_one", 1) if sums == 1 else ("tq_combine_many", MOST_SUMS)
    tiles = (math.ceil(groups / across), math.ceil(sums / together))
    wanted = max(1, BLOCKS_A_PROCESSOR * device.processors // (tiles[0] * tiles[1]))
    splits = min(math.ceil(rows / ROWS_A_BLOCK), wanted)
    out = xp.empty((splits, sums, part.dim), np.float32)
    arguments = (
        *(part.packed, np.int64(rows), np.int32(part.packed.shape[1]), *part.layout()),
        *(xp.ascontiguousarray(weights), np.int32(sums), np.float32(part.factor), *part.factors()),
        *(np.int32(across), out),
    )
    device.module("combine").launch(kernel, (splits, *tiles), THREADS, arguments, shared=4 * len(part.centroids))
    return out[0] if splits == 1 else out.sum(axis=0)
