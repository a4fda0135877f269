"""Decoding of packed rows that lie on a device."""

import math

import numpy as np

from tq_core.errors import BackendUnavailable, ShapeMismatch
from tq_core.registry import Plan
from tq_kernels_gpu.codes import centroid_tables
from tq_kernels_gpu.device import Array, Device
from tq_kernels_gpu.layout import dtype_number, row_launch
from tq_kernels_gpu.ops.rotate import unrotate
from tq_kernels_gpu.ops.sketch import signs, unproject
from tq_kernels_gpu.tables import RotationTables, rotation_tables

OUTPUTS = ("float32", "float16", "uint16")
DELIVERED = ("float32", "float16")  # what array modules can round to
SCALES = ("float32", "float16")


def decode(device: Device, plan: Plan, packed: Array, scales: Array, gammas: Array, out: Array = None) -> Array:
    """Reconstructed rows, (rows, dim), in `out` or a new float32 array; hadamard to the bit as tq_core's `numpy`.

    packed is (rows, plan.row_bytes) uint8, scales (rows,) float32 or float16, gammas as scales with a sketch (within
    rounding of `numpy` then, in float32 and float16 alone), else None. `out` is (rows, dim)
    C-contiguous float32, float16 or bfloat16 bits as uint16. Raises ShapeMismatch, InvalidDtype, and BackendUnavailable
    for a dense rotation to bfloat16. Codes are not checked: a word of a fractional width that no encoder writes decodes
    to some centroid or to 0.
    """
    if plan.sketch is None or gammas is None:
        return first_stage(device, plan, packed, scales, out)
    return decode_sketched(device, plan, packed, scales, gammas, out)


def first_stage(device: Device, plan: Plan, packed: Array, scales: Array, out: Array = None) -> Array:
    """What the codes of rows decode to, without the sketch of a plan that has one; arrays and errors as `decode`."""
    if scales.shape != (len(packed),):
        raise ShapeMismatch(f"scales must be ({len(packed)},), one a packed row, got {scales.shape}")
    tables = rotation_tables(device, plan.rotation)
    if tables.matrix is None:
        return _run(device, plan, packed, scales, tables, out)
    rows = unrotate(device, plan.rotation, centroids(device, plan, packed)) * scales.astype(np.float32)[:, None]
    return _delivered(rows, out)


def decode_sketched(
    device: Device, plan: Plan, packed: Array, scales: Array, gammas: Array, out: Array = None
) -> Array:
    """What codes and sketch of rows decode to together; arrays and errors as `decode`."""
    xp, sketch, rows = device.xp, plan.sketch, len(packed)
    assert sketch is not None  # its callers know
    for factors, what in ((scales, "scales"), (gammas, "gammas")):
        if factors.shape != (rows,):
            raise ShapeMismatch(f"{what} must be ({rows},), one a packed row, got {factors.shape}")
        dtype_number(factors, SCALES, what)
    stage = centroids(device, plan, packed)
    scales, weights = scales.astype(np.float32), gammas.astype(np.float32) * np.float32(math.sqrt(plan.dim))
    # powers of two are exact, and keep the unnormalised stages of huge rows within float32
    exponents = xp.frexp(xp.maximum(scales, weights))[1][:, None]
    stage *= xp.ldexp(scales[:, None], -exponents)
    residuals = unproject(device, sketch, signs(device, sketch, packed, plan.stage_bytes))
    stage += xp.ldexp(weights[:, None], -exponents) * residuals
    return _delivered(xp.ldexp(unrotate(device, plan.rotation, stage), exponents), out)


def _delivered(rows: Array, out: Array) -> Array:
    if out is None:
        return rows
    if out.shape != rows.shape:
        raise ShapeMismatch(f"out must be {rows.shape}, got {out.shape}")
    if str(out.dtype) not in DELIVERED:
        raise BackendUnavailable(
            "gpu", f"dense rotations and sketches decode to float32 and float16 alone, got {out.dtype}"
        )
    out[...] = rows.astype(out.dtype)
    return out


def centroids(device: Device, plan: Plan, packed: Array) -> Array:
    """The first stage of packed rows as it is before it is rotated back and scaled, (rows, dim) float32."""
    return _run(device, plan, packed, None, None, None)


def _run(device: Device, plan: Plan, packed: Array, scales: Array, tables: RotationTables | None, out: Array) -> Array:
    xp, rows, dim = device.xp, len(packed), plan.dim
    if packed.shape != (rows, plan.row_bytes):
        raise ShapeMismatch(f"packed rows must be (rows, {plan.row_bytes}), got {packed.shape}")
    dtype_number(packed, ("uint8",), "packed rows")
    scale_dtype = np.int32(0) if scales is None else dtype_number(scales, SCALES, "scales")
    if out is None:
        out = xp.empty((rows, dim), np.float32)
    elif out.shape != (rows, dim) or not out.flags.c_contiguous:
        raise ShapeMismatch(f"out must be ({rows}, {dim}) and C-contiguous, got {out.shape}")
    out_dtype = dtype_number(out, OUTPUTS, "out")
    if not rows:
        return out
    book = centroid_tables(device, plan.codebook)
    beside = -(-4 * len(book.centroids) // 16) * 16
    launch = row_launch(device, rows, dim, buffers=1 if tables is None else tables.buffers, beside=beside)
    unturned = (None, None, np.int32(dim), np.int32(0), np.int32(1), np.float32(1))
    arguments = (
        *(xp.ascontiguousarray(packed), np.int64(rows), np.int32(plan.row_bytes), np.int32(plan.stage_bytes)),
        *(None if scales is None else xp.ascontiguousarray(scales), scale_dtype, out, out_dtype),
        *book.for_decoding(),
        *(unturned if tables is None else tables.arguments(inverse=True)),
        launch.scratch,
    )
    device.module("decode").launch("tq_decode", launch.grid, launch.block, arguments, shared=launch.shared)
    return out
