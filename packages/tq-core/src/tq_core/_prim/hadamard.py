"""Random rotations in float64: rounds of signs, Hadamard transform and permutation (docs/format.md, section 2).

`forward` maps a unit vector to coordinates of unit variance, `inverse` maps those back.
"""

import math

from librt.vecs import append, vec
from mypy_extensions import i64

from tq_core._prim import bits, orders


class Transform:
    """One rotation, `z = sqrt(dim) * P u` with P orthogonal; immutable by convention.

    Build it with `hadamard`, `from_rounds` or `dense`. Either `matrix` (row-major P) is filled, or `signs`
    (rounds * dim numbers +-1) with `order` > 0, or with `order` 0, `blocks` and `permutations` ((rounds-1) * dim).
    """

    def __init__(self, dim: i64, order: i64, signs: vec[float], permutations: vec[i64], matrix: vec[float]) -> None:
        self.dim: i64 = dim
        self.order: i64 = order
        self.signs: vec[float] = signs
        self.permutations: vec[i64] = permutations
        self.matrix: vec[float] = matrix
        self.rounds: i64 = len(signs) // dim
        self.blocks: vec[i64] = binary_blocks(dim) if order == 0 else vec[i64]()
        rounds = float(self.rounds)
        power = 0.5 if order == 0 else 0.5 * (1.0 - rounds)
        self.factor: float = math.pow(float(dim), power)
        self.inverse_factor: float = math.pow(float(dim), -0.5 if order == 0 else -0.5 * (1.0 + rounds))


def hadamard(
    dim: i64, seed: int, sign_stream: i64 = bits.SIGNS, permutation_stream: i64 = bits.PERMUTATION
) -> Transform:
    """The Hadamard rotation of a seed: 3 rounds from dim 64 on, 5 from 32 on, 8 below."""
    rounds: i64 = 3 if dim >= 64 else 5 if dim >= 32 else 8
    order = orders.kronecker_order(dim)
    signs: vec[float] = vec[float](capacity=rounds * dim)
    permutations: vec[i64] = vec[i64]()
    for r in range(rounds):
        for sign in bits.signs(bits.stream_key(seed, sign_stream + r), dim):
            signs = append(signs, sign)
        if order == 0 and r < rounds - 1:
            for index in bits.permutation(bits.stream_key(seed, permutation_stream + r), dim):
                permutations = append(permutations, index)
    return Transform(dim, order, signs, permutations, vec[float]())


def from_rounds(dim: i64, signs: vec[float], permutations: vec[i64]) -> Transform:
    """A Hadamard rotation with given signs (rounds * dim) and permutations (empty unless dim needs blocks)."""
    return Transform(dim, orders.kronecker_order(dim), signs, permutations, vec[float]())


def dense(dim: i64, matrix: vec[float]) -> Transform:
    """The rotation of an orthogonal matrix given row-major, dim * dim numbers."""
    return Transform(dim, 0, vec[float](), vec[i64](), matrix)


def binary_blocks(dim: i64) -> vec[i64]:
    """Decreasing powers of two that add up to dim."""
    blocks: vec[i64] = vec[i64]()
    block: i64 = 1
    while 2 * block <= dim:
        block *= 2
    while block > 0:
        if dim & block:
            blocks = append(blocks, block)
        block >>= 1
    return blocks


def block_transform(x: vec[float], blocks: vec[i64]) -> None:
    """Each block transformed and scaled to be orthonormal, hence its own inverse."""
    start: i64 = 0
    for block in blocks:
        orders.butterflies(x, start, block)
        scale = 1.0 / math.sqrt(float(block))
        for i in range(start, start + block):
            x[i] *= scale
        start += block


def forward(plan: Transform, u: vec[float]) -> vec[float]:
    """`z = sqrt(dim) * P u` as a new vector."""
    dim = plan.dim
    if len(plan.matrix) > 0:
        return product(plan.matrix, u, math.sqrt(float(dim)))
    x: vec[float] = vec[float](u, capacity=dim)
    signs = plan.signs
    for r in range(plan.rounds):
        for j in range(dim):
            x[j] *= signs[r * dim + j]
        if plan.order > 0:
            orders.transform(x, plan.order, False)
            continue
        block_transform(x, plan.blocks)
        if r < plan.rounds - 1:
            held: vec[float] = vec[float](x, capacity=dim)
            for j in range(dim):
                x[j] = held[plan.permutations[r * dim + j]]
    scale(x, plan.factor)
    return x


def inverse(plan: Transform, z: vec[float]) -> vec[float]:
    """`P^T z / sqrt(dim)` as a new vector: `inverse(forward(u)) = u` up to float64 rounding."""
    dim = plan.dim
    if len(plan.matrix) > 0:
        return transposed_product(plan.matrix, z, 1.0 / math.sqrt(float(dim)))
    x: vec[float] = vec[float](z, capacity=dim)
    signs = plan.signs
    for r in range(plan.rounds - 1, -1, -1):
        if plan.order > 0:
            orders.transform(x, plan.order, True)
        else:
            if r < plan.rounds - 1:
                held: vec[float] = vec[float](x, capacity=dim)
                for j in range(dim):
                    x[plan.permutations[r * dim + j]] = held[j]
            block_transform(x, plan.blocks)
        for j in range(dim):
            x[j] *= signs[r * dim + j]
    scale(x, plan.inverse_factor)
    return x


def scale(x: vec[float], factor: float) -> None:
    """Multiply all of x in place."""
    for j in range(len(x)):
        x[j] *= factor


def product(matrix: vec[float], x: vec[float], factor: float) -> vec[float]:
    """`factor * matrix x` for a row-major square matrix."""
    dim = len(x)
    result: vec[float] = vec[float](capacity=dim)
    for i in range(dim):
        total = 0.0
        for j in range(dim):
            total += matrix[i * dim + j] * x[j]
        result = append(result, factor * total)
    return result


def transposed_product(matrix: vec[float], x: vec[float], factor: float) -> vec[float]:
    """`factor * matrix^T x` for a row-major square matrix."""
    dim = len(x)
    result: vec[float] = vec[float](capacity=dim)
    for j in range(dim):
        total = 0.0
        for i in range(dim):
            total += matrix[i * dim + j] * x[i]
        result = append(result, factor * total)
    return result
