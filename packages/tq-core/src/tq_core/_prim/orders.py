"""Unnormalised Hadamard transforms in place on float64: powers of two, and the small orders 12 and 20.

The matrices are those of docs/format.md, section 2. A transform of order `m * 2**k` is the Kronecker product
`H_m (x) H_2^k`: the coordinate of index `g * 2**k + i` belongs to group g.
"""

from typing import Final

from librt.vecs import append, vec
from mypy_extensions import i64

SMALL_ORDERS: Final = (1, 12, 20)
PALEY_PRIME: Final = 19

# Sign of 2x - s (s the group's sum) in output group row, input group column; 0 where the group's own sum enters.
WILLIAMSON: Final = vec[i64]([0, 1, 1, 1, -1, 0, -1, 1, -1, 1, 0, -1, -1, -1, 1, 0])


def kronecker_order(dim: i64) -> i64:
    """The first of 1, 12, 20 with `dim = order * 2**k`, or 0 when there is none."""
    for order in SMALL_ORDERS:
        small: i64 = order
        while small < dim:
            small *= 2
        if small == dim:
            return order
    return 0


def paley() -> vec[float]:
    """The Hadamard matrix of order 20, row-major: quadratic residues mod 19, bordered."""
    residues = {i * i % PALEY_PRIME for i in range(1, PALEY_PRIME)}
    matrix: vec[float] = vec[float](capacity=400)
    for i in range(20):
        for j in range(20):
            positive = i == 0 or (j > 0 and (i == j or (j - i) % PALEY_PRIME in residues))
            matrix = append(matrix, 1.0 if positive else -1.0)
    return matrix


PALEY: Final = paley()


def butterflies(x: vec[float], start: i64, size: i64) -> None:
    """The plain stages h = 1, 2, 4, ... on `x[start : start + size]`, size a power of two."""
    h: i64 = 1
    while h < size:
        for group in range(start, start + size, 2 * h):
            for i in range(group, group + h):
                a = x[i]
                b = x[i + h]
                x[i] = a + b
                x[i + h] = a - b
        h *= 2


def williamson(x: vec[float], offset: i64, stride: i64, transpose: bool) -> None:
    """Order 12 on the coordinates offset, offset + stride, ...; four groups of three share their sums."""
    table = WILLIAMSON
    held: vec[float] = vec[float](capacity=12)
    for g in range(i64(12)):
        held = append(held, x[offset + g * stride])
    sums: vec[float] = vec[float](capacity=4)
    for g in range(i64(4)):
        sums = append(sums, (held[3 * g] + held[3 * g + 1]) + held[3 * g + 2])
    for row in range(i64(4)):
        for j in range(i64(3)):
            t = 0.0
            w = 0.0
            for g in range(i64(4)):
                sign = table[4 * g + row] if transpose else table[4 * row + g]
                if sign > 0:
                    w += held[3 * g + j]
                    t -= sums[g]
                elif sign < 0:
                    w -= held[3 * g + j]
                    t += sums[g]
                else:
                    t += sums[g]
            x[offset + (3 * row + j) * stride] = t + (w + w)


def paley_product(x: vec[float], offset: i64, stride: i64, transpose: bool) -> None:
    """Order 20 on the coordinates offset, offset + stride, ...; signed sums in ascending order."""
    table = PALEY
    held: vec[float] = vec[float](capacity=20)
    for g in range(i64(20)):
        held = append(held, x[offset + g * stride])
    for row in range(i64(20)):
        total = 0.0
        for g in range(i64(20)):
            total += held[g] * (table[20 * g + row] if transpose else table[20 * row + g])
        x[offset + row * stride] = total


def transform(x: vec[float], order: i64, transpose: bool) -> None:
    """`H_order (x) H_2^k` or its transpose on all of x, in place; the two factors act on different indices."""
    dim = len(x)
    size = dim // order
    for g in range(order):
        butterflies(x, g * size, size)
    if order == 12:
        for i in range(size):
            williamson(x, i, size, transpose)
    elif order == 20:
        for i in range(size):
            paley_product(x, i, size, transpose)
