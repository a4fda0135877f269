"""Random words, signs, permutations and Gaussians from one counter (docs/format.md, section 1).

Words are i64 holding the bits of an unsigned 64-bit integer: compiled arithmetic wraps by itself, interpreted integers
are brought back by `wrap`, and every logical right shift is an arithmetic one followed by a mask.
"""

import math
from typing import Final

from librt.vecs import append, vec
from mypy_extensions import i64

# 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB of splitmix64, as signed integers
GOLDEN: Final = -7046029254386353131
FIRST: Final = -4658895280553007687
SECOND: Final = -7723592293110705685

SIGNS: Final = 16
PERMUTATION: Final = 32
HAAR: Final = 48
SKETCH: Final = 64
SKETCH_SIGNS: Final = 80
SKETCH_PERMUTATION: Final = 96

LN2: Final = 0.6931471805599453
SQRT_HALF: Final = 0.7071067811865476
ULP: Final = 1.1102230246251565e-16  # 2^-53


def wrap(value: i64) -> i64:
    """The signed 64-bit integer congruent to value modulo 2^64; the identity when compiled."""
    low = value & 0xFFFFFFFF
    high = (value >> 32) & 0xFFFFFFFF
    if high >= 0x80000000:
        high -= 0x100000000
    return (high << 32) | low


def mix(z: i64) -> i64:
    """The splitmix64 finaliser: a bijection on 64-bit integers."""
    z ^= (z >> 30) & 0x3FFFFFFFF
    z = wrap(z * FIRST)
    z ^= (z >> 27) & 0x1FFFFFFFFF
    z = wrap(z * SECOND)
    return z ^ ((z >> 31) & 0x1FFFFFFFF)


def stream_key(seed: int, stream: i64) -> i64:
    """Key of one stream of a seed; ValueError unless `0 <= seed < 2**64`."""
    if seed < 0 or seed >= 1 << 64:
        raise ValueError(f"a seed lies in 0 .. 2**64 - 1, got {seed}")
    signed: i64 = seed - (1 << 64) if seed >= 1 << 63 else seed
    return mix(wrap(mix(wrap(signed + GOLDEN)) + stream * GOLDEN))


def word(key: i64, index: i64) -> i64:
    """Word `index` of a stream, as signed; any of them without the ones before."""
    return mix(wrap(key + wrap((index + 1) * GOLDEN)))


def signs(key: i64, count: i64) -> vec[float]:
    """`count` numbers +1 or -1; bit j of the stream set means -1."""
    result: vec[float] = vec[float](capacity=count)
    current: i64 = 0
    for j in range(count):
        if j & 63 == 0:
            current = word(key, j >> 6)
        result = append(result, -1.0 if (current >> (j & 63)) & 1 else 1.0)
    return result


def permutation(key: i64, count: i64) -> vec[i64]:
    """A uniform permutation of `range(count)`, `count < 2**31`, by Fisher-Yates from the top."""
    order: vec[i64] = vec[i64](capacity=count)
    for i in range(count):
        order = append(order, i)
    for i in range(count - 1, 0, -1):
        current = word(key, i)
        # the high half of word * (i + 1), without a 128-bit product
        low = ((current & 0xFFFFFFFF) * (i + 1)) >> 32
        j = (((current >> 32) & 0xFFFFFFFF) * (i + 1) + low) >> 32
        held = order[i]
        order[i] = order[j]
        order[j] = held
    return order


def uniform(key: i64, index: i64) -> float:
    """A float64 strictly between 0 and 1, from the top 53 bits of a word."""
    return (float((word(key, index) >> 11) & 0x1FFFFFFFFFFFFF) + 0.5) * ULP


def natural_log(s: float) -> float:
    """ln(s) for 0 < s < 1 by a fixed series: the same bits with every math library."""
    m = s
    e = 0.0
    while m < 0.5:
        m += m
        e -= 1.0
    if m < SQRT_HALF:
        m += m
        e -= 1.0
    t = (m - 1.0) / (m + 1.0)
    w = t * t
    series = 1.0 / 27.0
    odd = 25.0
    while odd > 0.0:
        series = series * w + 1.0 / odd
        odd -= 2.0
    return e * LN2 + (t + t) * series


def gaussians(key: i64, count: i64) -> vec[float]:
    """`count` standard normals in float64 by the polar method, in stream order."""
    result: vec[float] = vec[float](capacity=count + 1)
    pair: i64 = 0
    while len(result) < count:
        a = 2.0 * uniform(key, 2 * pair) - 1.0
        b = 2.0 * uniform(key, 2 * pair + 1) - 1.0
        pair += 1
        s = a * a + b * b
        if 0.0 < s < 1.0:
            f = math.sqrt(-2.0 * natural_log(s) / s)
            result = append(result, a * f)
            if len(result) < count:
                result = append(result, b * f)
    return result
