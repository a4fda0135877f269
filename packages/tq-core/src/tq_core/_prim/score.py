"""Rows back from packed codes, and inner products with packed rows that are never unrotated."""

from librt.vecs import append, vec
from mypy_extensions import i64

from tq_core._prim import hadamard, sketch
from tq_core._prim.encode import Encoder


def stage(plan: Encoder, packed: bytes, start: i64) -> vec[float]:
    """The centroids of the packed row at byte `start`: rotated coordinates of unit variance, without scale."""
    result: vec[float] = vec[float](capacity=plan.dim)
    codes = plan.codes(packed, start)
    for j in range(plan.dim):
        code: i64 = codes[j]
        result = append(result, plan.books[j % plan.period].centroids[code])
    return result


def decode_row(plan: Encoder, packed: bytes, start: i64, scale: float, gamma: float) -> vec[float]:
    """The reconstructed row at byte `start`, dim float64 numbers; gamma is ignored without a sketch."""
    z = stage(plan, packed, start)
    hadamard.scale(z, scale)
    signs = plan.signs
    if signs is not None:
        estimate = sketch.reconstruct(signs, packed, start + plan.stage_bytes)
        weight = gamma * float(plan.dim) ** 0.5
        for j in range(plan.dim):
            z[j] += weight * estimate[j]
    return hadamard.inverse(plan.transform, z)


def score_row(plan: Encoder, rotated: vec[float], packed: bytes, start: i64) -> float:
    """The first stage's inner product at scale 1 of the row at byte `start` with a query rotated by `forward`."""
    codes = plan.codes(packed, start)
    total = 0.0
    for j in range(plan.dim):
        code: i64 = codes[j]
        total += rotated[j] * plan.books[j % plan.period].centroids[code]
    return total / float(plan.dim)
