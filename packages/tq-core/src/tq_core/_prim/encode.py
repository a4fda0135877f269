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


class Book:
    """One codebook. `half`: the centroids that are not negative, ascending, unit variance; an odd number begins with 0.

    `thresholds`, `levels`: in units of 1/4096. Code `above + m` has level m of a coordinate that is not negative,
    `below - m` that of a negative one.
    """

    def __init__(self, half: list[float]) -> None:
        has_zero: i64 = 1 if half[0] == 0.0 else 0
        thresholds: vec[i64] = vec[i64]()
        levels: vec[i64] = vec[i64]()
        both: vec[float] = vec[float]()
        for i in range(len(half)):
            levels = append(levels, nearest(UNIT * half[i]))
            if i < len(half) - has_zero:
                both = append(both, -half[len(half) - 1 - i])
            if i > 0:
                thresholds = append(thresholds, nearest(UNIT * (0.5 * (half[i - 1] + half[i]))))
        for centroid in half:
            both = append(both, centroid)
        round_to_float32(both)
        self.thresholds: vec[i64] = thresholds
        self.levels: vec[i64] = levels
        self.centroids: vec[float] = both  # ascending, indexed by code
        self.size: i64 = i64(len(both))
        self.above: i64 = self.size >> 1
        self.below: i64 = (self.size - 1) >> 1

    def level(self, code: i64) -> i64:
        """The signed level of a code."""
        if code >= self.above:
            return self.levels[code - self.above]
        return -self.levels[self.below - code]


class Encoder:
    """What decides a code: rotation, codebooks, scale rule, candidate scales, sketch. Immutable by convention.

    `halves`: the half of each codebook, see Book, that coordinates take in turn. One book of a power of two levels
    makes codes that are packed as planes, several make mixed-radix words. `candidates`: float32 values in the order of
    trial, the first 1. `strict`: rows are taken as unit vectors, their norm as 1.
    """

    def __init__(
        self,
        transform: Transform,
        halves: list[list[float]],
        rule: i64 = UNBIASED,
        candidates: list[float] | None = None,
        signs: Signs | None = None,
        strict: bool = False,
    ) -> None:
        self.transform: Transform = transform
        self.dim: i64 = transform.dim
        self.books: list[Book] = [Book(half) for half in halves]
        self.period: i64 = i64(len(halves))
        self.bits: i64 = pack.digit_bits(self.books[0].size)
        radices: vec[i64] = vec[i64]()
        for book in self.books:
            radices = append(radices, book.size)
        self.radices: vec[i64] = radices
        self.rule: i64 = rule
        self.candidates: vec[float] = vec[float](candidates if candidates is not None else [1.0])
        self.signs: Signs | None = signs
        self.strict: bool = strict
        self.stage_bytes: i64 = (
            pack.row_bytes(self.dim, self.bits) if self.period == 1 else pack.word_row_bytes(self.dim, radices)
        )

    def packed(self, codes: bytes) -> bytes:
        """The packed row of codes, one a byte."""
        return pack.pack(codes, self.bits) if self.period == 1 else pack.pack_words(codes, self.radices)

    def codes(self, packed: bytes, start: i64) -> bytes:
        """The codes, one a byte, of the packed row at byte `start`."""
        if self.period == 1:
            return pack.unpack(packed, start, self.dim, self.bits)
        return pack.unpack_words(packed, start, self.dim, self.radices)


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
    books = plan.books
    candidates = plan.candidates
    for trial in range(len(candidates)):
        tried = v if trial == 0 else candidate_coordinates(scaled, candidates[trial])
        codes = BytesWriter()
        dot: i64 = 0
        square: i64 = 0
        for j in range(plan.dim):
            value = tried[j]
            book = books[j % plan.period]
            m = magnitude(book.thresholds, value)
            level = book.levels[m]
            square += level * level
            if value < 0:
                dot -= v[j] * level
                codes.append(u8(book.below - m))
            else:
                dot += v[j] * level
                codes.append(u8(book.above + m))
        if square == 0:  # a zero row, where no number of levels is even
            square = 1
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


def rotate(transform: Transform, x: vec[float], norm: float) -> vec[float]:
    """The rotated coordinates of `x / norm` in units of 1/4096, rounded to float32 before and after; 0 for norm 0."""
    u: vec[float] = vec[float](x, capacity=transform.dim)
    hadamard.scale(u, 1.0 / norm if norm > 0.0 else 0.0)
    round_to_float32(u)
    scaled = hadamard.forward(transform, u)
    round_to_float32(scaled)
    hadamard.scale(scaled, UNIT)  # a power of two: exact
    return scaled


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
    norm = 1.0 if plan.strict else row_norm(x)
    scaled = rotate(plan.transform, x, norm)
    v = coordinates(scaled)
    codes, dot, square = best_codes(plan, scaled, v)
    factor = scale_factor(plan.rule, dim, dot, square)
    packed = plan.packed(codes)
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
    residual: vec[i64] = vec[i64](capacity=plan.dim)
    for j in range(plan.dim):
        code: i64 = codes[j]
        level = plan.books[j % plan.period].level(code)
        residual = append(residual, v[j] - nearest(factor * float(level)))
    return residual


def residual_norm(residual: vec[i64], norm: float) -> float:
    """gamma: the length of the residual in the units of the row, float64."""
    total: i64 = 0
    for r in residual:
        total += r * r
    return norm * math.sqrt(float(total)) / (UNIT * math.sqrt(float(len(residual))))
