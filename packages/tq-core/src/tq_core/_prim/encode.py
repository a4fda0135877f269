"""One row to codes, scale and sketch (docs/format.md, sections 3, 4 and 6).

The rotation is float64 and rounded to float32 once; from there on every rule is the format's, integer for integer.
"""

import math
from typing import Final

from librt.strings import BytesWriter, read_f32_le, write_f32_le
from librt.vecs import append, vec
from mypy_extensions import i64, u8

from tq_core._prim import hadamard, pack, sketch
from tq_core._prim.hadamard import Transform
from tq_core._prim.sketch import ROUNDER, Signs

UNIT: Final = 4096.0  # v = 4096 z
SQUARE: Final = 16777216.0  # UNIT squared
LARGEST: Final = 32767.0

PLAIN: Final = 0
MSE: Final = 1
NORM: Final = 2
UNBIASED: Final = 3
RULES: Final = ("plain", "mse", "norm", "unbiased")  # a rule's number is its index


class Encoder:
    """What decides a code: rotation, codebook, scale rule, candidate scales, sketch. Immutable by convention.

    `half`: the positive centroids, ascending, unit variance. `candidates`: float32 values in the order of trial, the
    first 1. `strict`: rows are taken as unit vectors, their norm as 1. `thresholds`, `levels`: in units of 1/4096.
    """

    def __init__(
        self,
        transform: Transform,
        half: list[float],
        rule: i64 = UNBIASED,
        candidates: list[float] | None = None,
        signs: Signs | None = None,
        strict: bool = False,
    ) -> None:
        self.transform: Transform = transform
        self.dim: i64 = transform.dim
        self.bits: i64 = code_bits(len(half))
        self.rule: i64 = rule
        self.candidates: vec[float] = vec[float](candidates if candidates is not None else [1.0])
        self.signs: Signs | None = signs
        self.strict: bool = strict
        thresholds: vec[i64] = vec[i64]()
        levels: vec[i64] = vec[i64]()
        both: vec[float] = vec[float]()
        for i in range(len(half)):
            levels = append(levels, nearest(UNIT * half[i]))
            both = append(both, -half[len(half) - 1 - i])
            if i > 0:
                thresholds = append(thresholds, nearest(UNIT * (0.5 * (half[i - 1] + half[i]))))
        for centroid in half:
            both = append(both, centroid)
        round_to_float32(both)
        self.thresholds: vec[i64] = thresholds
        self.levels: vec[i64] = levels
        self.centroids: vec[float] = both  # ascending, indexed by code
        self.stage_bytes: i64 = pack.row_bytes(self.dim, self.bits)


def code_bits(half_size: int) -> i64:
    """Bits of a code whose codebook has `half_size` positive centroids, a power of two."""
    bits: i64 = 1
    while 1 << (bits - 1) < half_size:
        bits += 1
    return bits


def nearest(value: float) -> i64:
    """value rounded to an integer, half to even; |value| < 2^51."""
    return i64((value + ROUNDER) - ROUNDER)


def coordinate(value: float) -> i64:
    """value rounded and clamped to the int16 range without -32768."""
    if value >= LARGEST:
        return 32767
    if value <= -LARGEST:
        return -32767
    return nearest(value)


def round_to_float32(x: vec[float]) -> None:
    """Round each number to float32 in place; infinite beyond its range, as numpy rounds."""
    writer = BytesWriter()
    for value in x:
        write_f32_le(writer, value)
    data = writer.getvalue()
    for j in range(len(x)):
        x[j] = read_f32_le(data, 4 * j)


def row_norm(x: vec[float]) -> float:
    """The Euclidean norm, its squares added by the halving tree of section 3."""
    squares: vec[float] = vec[float](capacity=len(x))
    for value in x:
        squares = append(squares, value * value)
    left = len(x)
    while left > 1:
        half = (left + 1) >> 1
        for i in range(left - half):
            squares[i] += squares[i + half]
        left = half
    return math.sqrt(squares[0])


def magnitude(thresholds: vec[i64], value: i64) -> i64:
    """The number of thresholds below |value|, by bisection: thresholds ascend."""
    if value < 0:
        value = -value
    low: i64 = 0
    high = len(thresholds)
    while low < high:
        middle = (low + high) >> 1
        if value > thresholds[middle]:
            low = middle + 1
        else:
            high = middle
    return low


def best_codes(plan: Encoder, scaled: vec[float], v: vec[i64]) -> tuple[bytes, i64, i64]:
    """Codes (one a byte) of the winning candidate, with `A = <v, Q>` and `B = <Q, Q>` of its levels Q."""
    best = b""
    best_dot: i64 = 0
    best_square: i64 = 1
    best_merit = -1.0
    middle: i64 = i64(1) << (plan.bits - 1)
    thresholds = plan.thresholds
    levels = plan.levels
    candidates = plan.candidates
    for trial in range(len(candidates)):
        tried = v if trial == 0 else candidate_coordinates(scaled, candidates[trial])
        codes = BytesWriter()
        dot: i64 = 0
        square: i64 = 0
        for j in range(plan.dim):
            value = tried[j]
            m = magnitude(thresholds, value)
            level = levels[m]
            square += level * level
            if value < 0:
                dot -= v[j] * level
                codes.append(u8(middle - 1 - m))
            else:
                dot += v[j] * level
                codes.append(u8(middle + m))
        merit = float(dot) * float(dot) / float(square)
        if merit > best_merit:
            best = codes.getvalue()
            best_dot = dot
            best_square = square
            best_merit = merit
    return best, best_dot, best_square


def candidate_coordinates(scaled: vec[float], candidate: float) -> vec[i64]:
    """The coordinates v(t) of a candidate scale t; the product is rounded to float32 first, as the format says."""
    products: vec[float] = vec[float](capacity=len(scaled))
    for value in scaled:
        products = append(products, candidate * value)
    round_to_float32(products)
    return coordinates(products)


def coordinates(scaled: vec[float]) -> vec[i64]:
    """`clamp(round_half_even(.))` of each number."""
    v: vec[i64] = vec[i64](capacity=len(scaled))
    for value in scaled:
        v = append(v, coordinate(value))
    return v


def scale_factor(rule: i64, dim: i64, dot: i64, square: i64) -> float:
    """`scale / norm` by the rule; 0 for a zero row, which alone has dot 0, except under `plain`."""
    if rule == PLAIN:
        return 1.0
    if dot <= 0:
        return 0.0
    if rule == MSE:
        return float(dot) / float(square)
    if rule == NORM:
        return math.sqrt(float(dim) * SQUARE / float(square))
    return float(dim) * SQUARE / float(dot)


def encode_vector(plan: Encoder, x: vec[float]) -> tuple[bytes, float, float]:
    """Packed row (codes, then sketch bits), scale and residual norm (0 without a sketch) of dim float64 numbers.

    The last two are float64, to be rounded to float32 and then to what is stored. ValueError on a wrong length.
    """
    dim = plan.dim
    if len(x) != dim:
        raise ValueError(f"expected a row of {dim} numbers, got {len(x)}")
    norm = 1.0
    u: vec[float] = vec[float](x, capacity=dim)
    if not plan.strict:
        norm = row_norm(x)
        hadamard.scale(u, 1.0 / norm if norm > 0.0 else 0.0)
    round_to_float32(u)
    scaled = hadamard.forward(plan.transform, u)
    round_to_float32(scaled)
    hadamard.scale(scaled, UNIT)  # a power of two: exact
    v = coordinates(scaled)
    codes, dot, square = best_codes(plan, scaled, v)
    factor = scale_factor(plan.rule, dim, dot, square)
    packed = pack.pack(codes, plan.bits)
    gamma = 0.0
    signs = plan.signs
    if signs is not None:
        residual = stage_residual(plan, codes, v, factor)
        packed += sketch.residual_bits(signs, residual)
        gamma = residual_norm(residual, norm)
    return packed, norm * factor, gamma


def encode_row(plan: Encoder, row: bytes) -> tuple[bytes, float, float]:
    """`encode_vector` of dim little-endian float32 numbers given as bytes."""
    dim = plan.dim
    if len(row) != 4 * dim:
        raise ValueError(f"expected {4 * dim} bytes of float32, got {len(row)}")
    x: vec[float] = vec[float](capacity=dim)
    for j in range(dim):
        x = append(x, read_f32_le(row, 4 * j))
    return encode_vector(plan, x)


def stage_residual(plan: Encoder, codes: bytes, v: vec[i64], factor: float) -> vec[i64]:
    """`v - round_half_even(factor * Q)`, what the first stage leaves, in units of 1/4096."""
    middle: i64 = i64(1) << (plan.bits - 1)
    residual: vec[i64] = vec[i64](capacity=plan.dim)
    for j in range(plan.dim):
        code: i64 = codes[j]
        level = plan.levels[code - middle] if code >= middle else -plan.levels[middle - 1 - code]
        residual = append(residual, v[j] - nearest(factor * float(level)))
    return residual


def residual_norm(residual: vec[i64], norm: float) -> float:
    """gamma: the length of the residual in the units of the row, float64."""
    total: i64 = 0
    for r in residual:
        total += r * r
    return norm * math.sqrt(float(total)) / (UNIT * math.sqrt(float(len(residual))))
