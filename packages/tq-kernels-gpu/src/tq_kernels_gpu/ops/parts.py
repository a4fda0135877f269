"""The parts of packed rows that scores and sums are made of: a first stage, and the signs of a sketch."""

import math
from typing import Final, NamedTuple

import numpy as np

from tq_core.errors import ShapeMismatch
from tq_core.registry import Plan
from tq_core.sketch import Sketch
from tq_core.trellis_plan import TrellisPlan
from tq_kernels_gpu.codes import centroid_tables
from tq_kernels_gpu.device import Argument, Array, Device
from tq_kernels_gpu.layout import dtype_number
from tq_kernels_gpu.tables import kept

SCALES: Final = ("float32", "float16")


class Part(NamedTuple):
    """Codes of one codebook in packed rows. A row's score is `factor * row factor * <query, centroids>`."""

    packed: Array  # (rows, row bytes) uint8, C-contiguous
    offset: int  # of this part in a row
    bytes: int
    dim: int  # coordinates, or projections of a sketch
    format: int  # of kernels/codes.cuh
    centroids: Array  # float32: of all places, or of all windows
    levels: tuple[float, ...]  # the centroids of the first place, ascending; none of a trellis
    factor: float
    row_factors: Array  # (rows,) float32 or float16, or None: 1

    @property
    def magnitude(self) -> float:
        """The largest centroid; of one bit, that of both."""
        return self.levels[-1]

    def rows(self, tile: slice) -> "Part":
        """The same of some rows."""
        factors = None if self.row_factors is None else self.row_factors[tile]
        return self._replace(packed=self.packed[tile], row_factors=factors)

    def chosen(self, rows: Array) -> "Part":
        """A copy of some rows, in the order of their numbers (int64)."""
        factors = None if self.row_factors is None else self.row_factors[rows]
        return self._replace(packed=self.packed[rows], row_factors=factors)

    def factors(self) -> tuple[Argument, ...]:
        """The kernel parameters `factors, factor_dtype`."""
        if self.row_factors is None:
            return (None, np.int32(0))
        return (self.row_factors, dtype_number(self.row_factors, SCALES, "scales"))

    def layout(self) -> tuple[Argument, ...]:
        """The kernel parameters `offset, bytes, dim, format, centroids, table`."""
        numbers = np.int32(self.offset), np.int32(self.bytes), np.int32(self.dim), np.int32(self.format)
        return (*numbers, self.centroids, np.int32(len(self.centroids)))


def stage_part(device: Device, plan: Plan, packed: Array, scales: Array, factor: float = 1.0) -> Part:
    """The first stage of packed rows (rows, plan.row_bytes) with scales (rows,), or ShapeMismatch or InvalidDtype."""
    _require_rows(packed, plan.row_bytes, scales, "scales")
    book = centroid_tables(device, plan.codebook)
    return Part(
        packed=device.xp.ascontiguousarray(packed),
        offset=0,
        bytes=plan.stage_bytes,
        dim=plan.dim,
        format=book.format,
        centroids=book.centroids,
        levels=() if isinstance(plan, TrellisPlan) else tuple(plan.codebook.books[0].centroids.tolist()),
        factor=factor,
        row_factors=device.xp.ascontiguousarray(scales),
    )


def sketch_part(device: Device, sketch: Sketch, packed: Array, offset: int, gammas: Array, factor: float = 1.0) -> Part:
    """The signs from byte `offset` on of packed rows, with gammas (rows,) or None; errors as `stage_part`."""
    size = (sketch.projections + 7) // 8
    _require_rows(packed, offset + size, gammas, "gammas")
    signs = np.array([-1, 1], np.float32)
    return Part(
        packed=device.xp.ascontiguousarray(packed),
        offset=offset,
        bytes=size,
        dim=sketch.projections,
        format=1,
        centroids=kept(device).get(sketch, "signs", lambda: device.asarray(signs)),
        levels=(-1.0, 1.0),
        factor=factor,
        row_factors=None if gammas is None else device.xp.ascontiguousarray(gammas),
    )


def parts_of_scores(
    device: Device, plan: Plan, packed: Array, scales: Array, gammas: Array
) -> tuple[Part, Part | None]:
    """First stage and sketch (or None) whose products with rotated and with projected queries add up to scores."""
    stage = stage_part(device, plan, packed, scales, 1.0 / plan.dim)
    if plan.sketch is None or gammas is None:
        return stage, None
    factor = plan.sketch.constant / math.sqrt(plan.dim)
    return stage, sketch_part(device, plan.sketch, packed, plan.stage_bytes, gammas, factor)


def _require_rows(packed: Array, row_bytes: int, factors: Array, what: str) -> None:
    if packed.ndim != 2 or packed.shape[1] != row_bytes:
        raise ShapeMismatch(f"packed rows must be (rows, {row_bytes}), got {packed.shape}")
    dtype_number(packed, ("uint8",), "packed rows")
    if factors is None:
        return
    if factors.shape != (len(packed),):
        raise ShapeMismatch(f"{what} must be ({len(packed)},), one a packed row, got {factors.shape}")
    dtype_number(factors, SCALES, what)
