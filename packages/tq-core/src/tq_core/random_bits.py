"""The project's own counter-based random stream, vectorised (docs/format.md, section 1).

Codes never change with a library version, because nothing here comes from a library's generator.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

GOLDEN: Final = 0x9E3779B97F4A7C15
MASK: Final = (1 << 64) - 1

# Streams: one purpose each, so that rotation and sketch stay independent under one seed.
SIGNS: Final = 16
PERMUTATION: Final = 32
HAAR: Final = 48
SKETCH: Final = 64
SKETCH_SIGNS: Final = 80
SKETCH_PERMUTATION: Final = 96


def mix(z: int) -> int:
    """The splitmix64 finaliser: a bijection on 64-bit integers."""
    z ^= z >> 30
    z = z * 0xBF58476D1CE4E5B9 & MASK
    z ^= z >> 27
    z = z * 0x94D049BB133111EB & MASK
    return z ^ z >> 31


def stream_key(seed: int, stream: int) -> int:
    """Key of one stream of a seed, `0 <= seed < 2**64`."""
    return mix(mix((seed + GOLDEN) & MASK) + stream * GOLDEN & MASK)


def words(key: int, start: int, count: int) -> NDArray[np.uint64]:
    """Words `start .. start+count-1` of a stream, (count,) uint64; any of them without the ones before."""
    counter = np.arange(start + 1, start + count + 1, dtype=np.uint64)
    z = np.uint64(key) + counter * np.uint64(GOLDEN)
    z ^= z >> np.uint64(30)
    z *= np.uint64(0xBF58476D1CE4E5B9)
    z ^= z >> np.uint64(27)
    z *= np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return z


def signs(key: int, count: int) -> NDArray[np.float32]:
    """(count,) float32 of +1 and -1; bit j of the stream set means -1."""
    packed = words(key, 0, (count + 63) // 64).astype("<u8").view(np.uint8)
    bits = np.unpackbits(packed, bitorder="little", count=count)
    return np.where(bits, np.float32(-1), np.float32(1))


def permutation(key: int, count: int) -> NDArray[np.int64]:
    """A uniform permutation of `range(count)` by Fisher-Yates, (count,) int64."""
    draws = words(key, 0, count).tolist()
    order = list(range(count))
    for i in range(count - 1, 0, -1):
        j = draws[i] * (i + 1) >> 64
        order[i], order[j] = order[j], order[i]
    return np.array(order, dtype=np.int64)


LN2: Final = 0.6931471805599453
SQRT_HALF: Final = 0.7071067811865476


def _ln(s: NDArray[np.float64]) -> NDArray[np.float64]:
    """Natural logarithm by a fixed series: the same bits with every math library."""
    m, e = np.frexp(s)
    low = m < SQRT_HALF
    m = np.where(low, m + m, m)
    e = np.where(low, e - 1, e).astype(np.float64)
    t = (m - 1.0) / (m + 1.0)
    w = t * t
    series = np.full_like(w, 1.0 / 27.0)
    for odd in range(25, 0, -2):
        series = series * w + 1.0 / odd
    return e * LN2 + (t + t) * series


def gaussians(key: int, count: int) -> NDArray[np.float64]:
    """(count,) float64 standard normals by the polar method, in stream order."""
    found: list[NDArray[np.float64]] = []
    have, position = 0, 0
    while have < count:
        pairs = int((count - have) * 0.65) + 16
        uniform = ((words(key, position, 2 * pairs) >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
        position += 2 * pairs
        both = (2.0 * uniform - 1.0).reshape(pairs, 2)
        s = both[:, 0] * both[:, 0] + both[:, 1] * both[:, 1]
        keep = (s > 0.0) & (s < 1.0)
        both, s = both[keep], s[keep]
        found.append((both * np.sqrt(-2.0 * _ln(s) / s)[:, None]).ravel())
        have += found[-1].size
    return np.concatenate(found)[:count]
