"""The sign sketch of a residual, one row at a time (docs/format.md, section 6; paper definition 1)."""

import math
from typing import Final

from librt.strings import BytesWriter
from librt.vecs import append, vec
from mypy_extensions import i16, i64, u8

from tq_core._prim import bits, hadamard
from tq_core._prim.hadamard import Transform

UNIT: Final = 2048.0  # the Gaussian matrix is kept in units of 1/2048
LARGEST: Final = 32767.0
ROUNDER: Final = 6755399441055744.0  # 1.5 * 2^52: adding and subtracting it rounds |x| < 2^51 half to even


class Signs:
    """A random projection to signs; immutable by convention. `matrix` (projections * dim, row-major) or `transform`.

    `constant` turns a sum of signed projections into an inner product with the unit residual.
    """

    def __init__(
        self, dim: i64, projections: i64, matrix: vec[i16], transform: Transform | None, constant: float
    ) -> None:
        self.dim: i64 = dim
        self.projections: i64 = projections
        self.matrix: vec[i16] = matrix
        self.transform: Transform | None = transform
        self.constant: float = constant


def gaussian(dim: i64, projections: i64, seed: int) -> Signs:
    """The Gaussian sketch of a seed."""
    matrix: vec[i16] = vec[i16](capacity=projections * dim)
    for g in bits.gaussians(bits.stream_key(seed, bits.SKETCH), projections * dim):
        level = min(max(UNIT * g, -LARGEST), LARGEST)
        matrix = append(matrix, i16((level + ROUNDER) - ROUNDER))
    return Signs(dim, projections, matrix, None, math.sqrt(0.5 * math.pi) / float(projections))


def structured(dim: i64, seed: int) -> Signs:
    """The Hadamard sketch of a seed, with as many projections as dimensions."""
    transform = hadamard.hadamard(dim, seed, bits.SKETCH_SIGNS, bits.SKETCH_PERMUTATION)
    log_mean = math.lgamma(0.5 * float(dim)) - math.lgamma(0.5 * float(dim + 1))  # of sqrt(pi) E|u_1|
    constant: float = math.sqrt(math.pi) / (math.pow(float(dim), 1.5) * math.exp(log_mean))
    return Signs(dim, dim, vec[i16](), transform, constant)


def residual_bits(plan: Signs, residual: vec[i64]) -> bytes:
    """The sign bits of the projected integer residual, `ceil(projections / 8)` bytes; 1 where the sum is >= 0."""
    packed = BytesWriter()
    held: i64 = 0
    transform = plan.transform
    turned: vec[float] = vec[float]()
    if transform is not None:
        for r in residual:
            turned = append(turned, float(r))
        turned = hadamard.forward(transform, turned)
    matrix = plan.matrix
    for i in range(plan.projections):
        if transform is not None:
            is_set = turned[i] >= 0.0
        else:
            total: i64 = 0
            row = i * plan.dim
            for j in range(plan.dim):
                total += i64(matrix[row + j]) * residual[j]
            is_set = total >= 0
        if is_set:
            held |= i64(1) << (i & 7)
        if i & 7 == 7:
            packed.append(u8(held))
            held = 0
    if plan.projections & 7:
        packed.append(u8(held))
    return packed.getvalue()


def sign(packed: bytes, start: i64, index: i64) -> float:
    """+1 or -1: the sign of projection `index` in the plane that begins at byte `start`."""
    held: i64 = packed[start + (index >> 3)]
    return 1.0 if (held >> (index & 7)) & 1 else -1.0


def reconstruct(plan: Signs, packed: bytes, start: i64) -> vec[float]:
    """The estimate of the unit residual, `constant * sum_i sign_i S_i`, dim numbers."""
    transform = plan.transform
    result: vec[float] = vec[float](capacity=plan.dim)
    if transform is not None:
        for i in range(plan.projections):
            result = append(result, sign(packed, start, i))
        result = hadamard.inverse(transform, result)
        # the inverse divides by sqrt(dim) once; the rows of S are sqrt(dim) times orthonormal
        hadamard.scale(result, plan.constant * float(plan.dim))
        return result
    matrix = plan.matrix
    for _ in range(plan.dim):
        result = append(result, 0.0)
    for i in range(plan.projections):
        s = sign(packed, start, i)
        row = i * plan.dim
        for j in range(plan.dim):
            result[j] += s * float(i64(matrix[row + j]))
    hadamard.scale(result, plan.constant / UNIT)
    return result


def project(plan: Signs, query: vec[float]) -> vec[float]:
    """`constant * S query`, one number a projection: done once a query, then `score` per row."""
    transform = plan.transform
    if transform is not None:
        result = hadamard.forward(transform, query)
        hadamard.scale(result, plan.constant)
        return result
    result = vec[float](capacity=plan.projections)
    matrix = plan.matrix
    for i in range(plan.projections):
        total = 0.0
        row = i * plan.dim
        for j in range(plan.dim):
            total += float(i64(matrix[row + j])) * query[j]
        result = append(result, total * (plan.constant / UNIT))
    return result


def score(projected: vec[float], packed: bytes, start: i64) -> float:
    """The estimated inner product of a projected query with the unit residual behind the bits at byte `start`."""
    total = 0.0
    for i in range(len(projected)):
        total += projected[i] * sign(packed, start, i)
    return total
