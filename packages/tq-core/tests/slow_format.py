"""A second encoder, written from docs/format.md alone: one number at a time, nothing of tq_core.

The centroids are data here (their solver has tests of its own); everything that follows from them is computed anew.
Loaded by conftest.py as the fixture `slow`, so that the tests also run outside the repository.
"""

import math
from functools import lru_cache
from itertools import pairwise

import numpy as np

F32 = np.float32
GOLDEN = 0x9E3779B97F4A7C15
MASK = (1 << 64) - 1


# section 1: random bits


def mix(z):
    z ^= z >> 30
    z = z * 0xBF58476D1CE4E5B9 & MASK
    z ^= z >> 27
    z = z * 0x94D049BB133111EB & MASK
    return z ^ (z >> 31)


def key(seed, stream):
    return mix((mix((seed + GOLDEN) & MASK) + stream * GOLDEN) & MASK)


def word(stream_key, i):
    return mix((stream_key + (i + 1) * GOLDEN) & MASK)


def is_negated(stream_key, j):
    return word(stream_key, j >> 6) >> (j & 63) & 1 == 1


@lru_cache(maxsize=64)
def permutation(stream_key, count):
    p = list(range(count))
    for i in range(count - 1, 0, -1):
        j = word(stream_key, i) * (i + 1) >> 64
        p[i], p[j] = p[j], p[i]
    return tuple(p)


def series_ln(s):
    m, e = math.frexp(s)
    if m < math.sqrt(0.5):
        m, e = m + m, e - 1
    t = (m - 1) / (m + 1)
    w = t * t
    total = 1 / 27
    for odd in range(25, 0, -2):
        total = total * w + 1 / odd
    return e * 0.6931471805599453 + 2 * t * total


@lru_cache(maxsize=16)
def gaussians(stream_key, count):
    found, c = [], 0
    while len(found) < count:
        a, b = (2 * (((word(stream_key, 2 * c + i) >> 11) + 0.5) * 2.0**-53) - 1 for i in (0, 1))
        s, c = a * a + b * b, c + 1
        if 0 < s < 1:
            f = math.sqrt(-2 * series_ln(s) / s)
            found += [a * f, b * f]
    return tuple(found[:count])


# section 2: rotation, float32 after every operation


def small_order(dim):
    for m in (1, 12, 20):
        size = m
        while size < dim:
            size *= 2
        if size == dim:
            return m
    return 0


def stages(x):
    h = 1
    while h < len(x):
        for i in range(len(x)):
            if i // h % 2 == 0:
                x[i], x[i + h] = x[i] + x[i + h], x[i] - x[i + h]
        h *= 2
    return x


SIGNS12 = {False: ("+++", "--+", "-+-", "--+"), True: ("---", "++-", "+-+", "++-")}


def order12(x, is_inverse):
    s = [(x[3 * g] + x[3 * g + 1]) + x[3 * g + 2] for g in range(4)]
    out = []
    for r in range(4):
        others = [g for g in range(4) if g != r]
        sign = dict(zip(others, SIGNS12[is_inverse][r], strict=True))
        t = None
        for g in range(4):
            term = s[g] if g == r or sign[g] == "-" else -s[g]
            t = term if t is None else t + term
        for j in range(3):
            w = None
            for g in others:
                term = x[3 * g + j] if sign[g] == "+" else -x[3 * g + j]
                w = term if w is None else w + term
            out.append(t + (w + w))
    return out


def paley(i, j):
    if i == 0:
        return 1
    if j == 0:
        return -1
    if i == j:
        return 1
    return 1 if pow(j - i, 9, 19) == 1 else -1  # Euler's criterion


def order20(x, is_inverse):
    out = []
    for i in range(20):
        total = None
        for j in range(20):
            term = x[j] if (paley(j, i) if is_inverse else paley(i, j)) > 0 else -x[j]
            total = term if total is None else total + term
        out.append(total)
    return out


def transform(x, dim, is_inverse):
    m = small_order(dim)
    if m == 0:
        out, start = [], 0
        for bit in reversed(range(dim.bit_length())):
            size = dim & 1 << bit
            if size:
                out += [value * F32(1 / math.sqrt(size)) for value in stages(x[start : start + size])]
                start += size
        return out
    size = dim // m
    groups = [stages(x[g * size : (g + 1) * size]) for g in range(m)]
    if m == 1:
        return groups[0]
    mixed = [(order12 if m == 12 else order20)([groups[g][i] for g in range(m)], is_inverse) for i in range(size)]
    return [mixed[i][g] for g in range(m) for i in range(size)]


def rotate(x, seed, streams=(16, 32)):
    x, dim = [F32(value) for value in x], len(x)
    rounds = 3 if dim >= 64 else 5 if dim >= 32 else 8
    is_blocks = small_order(dim) == 0
    for r in range(rounds):
        signs = key(seed, streams[0] + r)
        x = [-value if is_negated(signs, j) else value for j, value in enumerate(x)]
        x = transform(x, dim, False)
        if is_blocks and r < rounds - 1:
            p = permutation(key(seed, streams[1] + r), dim)
            x = [x[p[i]] for i in range(dim)]
    factor = F32(math.sqrt(dim)) if is_blocks else F32(float(dim) ** ((1 - rounds) / 2))
    return [value * factor for value in x]


def unrotate(z, seed, streams=(16, 32)):
    x, dim = [F32(value) for value in z], len(z)
    rounds = 3 if dim >= 64 else 5 if dim >= 32 else 8
    is_blocks = small_order(dim) == 0
    for r in reversed(range(rounds)):
        if is_blocks and r < rounds - 1:
            p = permutation(key(seed, streams[1] + r), dim)
            undone = [F32(0)] * dim
            for i in range(dim):
                undone[p[i]] = x[i]
            x = undone
        x = transform(x, dim, True)
        signs = key(seed, streams[0] + r)
        x = [-value if is_negated(signs, j) else value for j, value in enumerate(x)]
    factor = F32(1 / math.sqrt(dim)) if is_blocks else F32(float(dim) ** (-(1 + rounds) / 2))
    return [value * factor for value in x]


# sections 3 to 6: norm, codes, scale, packing, sketch


def norm(x):
    squares = [float(value) * float(value) for value in x]
    while len(squares) > 1:
        half = (len(squares) + 1) // 2
        for i in range(len(squares) - half):
            squares[i] += squares[i + half]
        squares = squares[:half]
    return math.sqrt(squares[0])


def candidates(dim, search):
    if search == 0:
        return [F32(1)]
    p = 0.25 if dim < 96 else 0.20
    exponents = [-p + 2 * p * i / (search - 1) for i in range(search)]
    middle = exponents[search // 2]
    others = sorted((e for e in exponents if e is not middle), key=lambda e: (round(abs(e), 12), e))
    return [F32(1), *(F32(math.exp(e)) for e in others)]


def clamped(value):
    return max(-32767, min(32767, round(float(value))))


def best_codes(scaled, halves, tried):
    thresholds = [[round(4096 * ((a + b) / 2)) for a, b in pairwise(half)] for half in halves]
    levels = [[round(4096 * c) for c in half] for half in halves]
    sizes = [2 * len(half) - (half[0] == 0) for half in halves]
    v = [clamped(value) for value in scaled]
    best = None
    for t in tried:
        codes, dot, square = [], 0, 0
        for j, value in enumerate(scaled):
            w, place = clamped(F32(t) * value), j % len(halves)
            m = sum(abs(w) > threshold for threshold in thresholds[place])
            codes.append(sizes[place] // 2 + m if w >= 0 else (sizes[place] - 1) // 2 - m)
            signed = levels[place][m] if w >= 0 else -levels[place][m]
            dot += v[j] * signed
            square += signed * signed
        square = max(square, 1)
        merit = float(dot) * float(dot) / float(square)
        if best is None or merit > best[0]:
            best = (merit, codes, dot, square)
    return v, levels, *best[1:]


def scale_factor(rule, dim, dot, square):
    if rule == "plain":
        return 1.0
    if dot == 0:
        return 0.0
    return {
        "mse": dot / square,
        "norm": math.sqrt(dim * 2.0**24 / square),
        "unbiased": dim * 2.0**24 / dot,
    }[rule]


RADICES = {2.25: (5, 5, 5, 4), 2.5: (5, 6), 3.25: (9, 9, 10, 10), 3.5: (11, 11)}


def pack_words(codes, radices):
    stream = width = 0
    for first in range(0, len(codes), len(radices)):
        word, values = 0, 1
        for code, radix in zip(codes[first:], radices, strict=False):
            word, values = word + code * values, values * radix
        stream, width = stream | word << width, width + math.ceil(math.log2(values))
    return stream.to_bytes((width + 7) // 8, "little")


def pack(codes, bits):
    if bits in RADICES:
        return pack_words(codes, RADICES[bits])
    planes = {1: (1,), 2: (2,), 3: (2, 1), 4: (4,), 5: (4, 1), 6: (4, 2), 7: (4, 2, 1), 8: (8,)}
    out, shift = b"", 0
    for width in planes[bits]:
        plane = 0
        for j, code in enumerate(codes):
            plane |= (code >> shift & (1 << width) - 1) << j * width
        out += plane.to_bytes((len(codes) * width + 7) // 8, "little")
        shift += width
    return out


def sketch_bits(residual, kind, projections, seed):
    if kind == "hadamard":
        return [bool(value >= 0) for value in rotate(residual, seed, (80, 96))]
    dim = len(residual)
    drawn = gaussians(key(seed, 64), projections * dim)
    matrix = [clamped(2048 * g) for g in drawn]
    return [sum(matrix[i * dim + j] * residual[j] for j in range(dim)) >= 0 for i in range(projections)]


def encode(x, halves, bits, *, seed, rule="unbiased", search=0, sketch=None, is_strict=False):
    """(packed row, scale, gamma or None) of one row; scale and gamma in float64, before they are stored."""
    dim = len(x)
    length = 1.0 if is_strict else norm(x)
    inverse = 1 / length if length else 0.0
    unit = [F32(value) if is_strict else F32(float(value) * inverse) for value in x]
    scaled = [F32(4096) * z for z in rotate(unit, seed)]
    tried = candidates(dim, 0 if rule == "plain" else search)
    v, levels, codes, dot, square = best_codes(scaled, halves, tried)
    factor = scale_factor(rule, dim, dot, square)
    row = pack(codes, bits)
    if sketch is None:
        return row, length * factor, None
    middle = 1 << (bits - 1)
    signed = [levels[0][c - middle] if c >= middle else -levels[0][middle - 1 - c] for c in codes]
    residual = [value - round(factor * level) for value, level in zip(v, signed, strict=True)]
    gamma = length * math.sqrt(float(sum(r * r for r in residual))) / (4096 * math.sqrt(dim))
    return row + pack(sketch_bits(residual, sketch, dim, seed), 1), length * factor, gamma


def qjl(x, projections, *, seed, sketch):
    """(sign bits, norm) of one row."""
    length = norm(x)
    unit = [float(F32(float(value) * (1 / length))) if length else 0.0 for value in x]
    peak = max(map(abs, unit)) or 1.0
    return pack(sketch_bits([round(value * (32767 / peak)) for value in unit], sketch, projections, seed), 1), length
