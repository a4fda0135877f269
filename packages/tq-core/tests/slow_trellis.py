"""A trellis encoder and decoder written from docs/format.md, section 10, alone: one number at a time.

The tables are data here; rotation, norm, scale rules and rounding are those of slow_format.py, handed over by the
fixture `slow_trellis` of conftest.py.
"""

import math

import numpy as np

F32 = np.float32


def clamp(value):
    return max(-32768, min(32767, value))


def metric(x, level):
    e = clamp(x - 2 * level)
    return (e * e + 16384) >> 15


def step(metrics, x, levels, bits, nodes):
    least = min(metrics)
    after = []
    for n in range(nodes):
        entered = [metrics[(n + i * nodes) >> bits] + metric(x, levels[n + i * nodes]) for i in range(1 << bits)]
        after.append(min(65535, *entered) - least)
    return after


def window_into(node, metrics, x, levels, bits, nodes):
    best, found = None, None
    for i in range(1 << bits):
        s = node + i * nodes
        cost = min(65535, metrics[s >> bits] + metric(x, levels[s]))
        if best is None or cost < best:
            best, found = cost, s
    return found


def walk(xs, levels, bits, nodes, start):
    history = [[0 if start in (None, n) else 65535 for n in range(nodes)]]
    for x in xs:
        history.append(step(history[-1], x, levels, bits, nodes))
    return history


def symbols(v, levels, bits):
    nodes, dim = len(levels) >> bits, len(v)
    xs = [clamp(2 * v[dim - 1 - j]) for j in range(dim)]
    half = dim // 2
    turned = xs[half:] + xs[:half]
    history = walk(turned, levels, bits, nodes, None)
    node = history[-1].index(min(history[-1]))
    for j in range(dim - 1, dim - half - 1, -1):
        node = window_into(node, history[j], turned[j], levels, bits, nodes) >> bits
    history = walk(xs, levels, bits, nodes, node)
    found = []
    for j in range(dim - 1, -1, -1):
        s = window_into(node, history[j], xs[j], levels, bits, nodes)
        found.append(s & ((1 << bits) - 1))
        node = s >> bits
    return found  # of coordinate 0 first


def row_of(found, bits):
    stream = 0
    for j, symbol in enumerate(found):
        stream |= symbol << (j * bits)
    return stream.to_bytes((len(found) * bits + 7) // 8, "little")


def row_levels(packed, dim, levels, bits):
    """The levels of a packed row, read as a circle of bits."""
    total, window = dim * bits, len(levels).bit_length() - 1
    stream = int.from_bytes(packed, "little")
    circle = stream | stream << total
    return [levels[circle >> (j * bits) & ((1 << window) - 1)] for j in range(dim)]


def candidates(dim, search):
    if search == 0:
        return [F32(1)]
    p = min(0.25, 1.8 / math.sqrt(dim) * (search - 1) / (search + 1))
    exponents = [-p + 2 * p * i / (search - 1) for i in range(search)]
    middle = exponents[search // 2]
    others = sorted((e for e in exponents if e is not middle), key=lambda e: (round(abs(e), 12), e))
    return [F32(1), *(F32(math.exp(e)) for e in others)]


def encode(slow, x, levels, bits, *, seed, rule, search):
    """(packed row, scale in float64) of one row; `slow`: the module slow_format."""
    dim = len(x)
    length = slow.norm(x)
    inverse = 1 / length if length else 0.0
    scaled = [F32(4096) * z for z in slow.rotate([F32(float(value) * inverse) for value in x], seed)]
    v = [slow.clamped(value) for value in scaled]
    best = None
    for t in candidates(dim, 0 if rule == "plain" else search):
        packed = row_of(symbols([slow.clamped(F32(t) * value) for value in scaled], levels, bits), bits)
        chosen = row_levels(packed, dim, levels, bits)
        dot = sum(a * b for a, b in zip(v, chosen, strict=True))
        square = sum(b * b for b in chosen)
        merit = math.copysign(float(dot) * float(dot) / float(square), dot)
        if best is None or merit > best[0]:
            best = (merit, packed, dot, square)
    _, packed, dot, square = best
    return packed, length * slow.scale_factor(rule, dim, max(dot, square // 256), square)
