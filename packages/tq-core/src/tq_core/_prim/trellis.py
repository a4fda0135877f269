"""One row to a trellis code and back: the executable specification of docs/format.md, section 10."""

from typing import Final

from librt.strings import BytesWriter
from librt.vecs import append, vec
from mypy_extensions import i64, u8

from tq_core._prim import hadamard
from tq_core._prim.encode import (
    UNBIASED,
    UNIT,
    candidate_coordinates,
    coordinates,
    rotate,
    row_norm,
    scale_factor,
)
from tq_core._prim.hadamard import Transform

LARGEST: Final = 65535


class TrellisEncoder:
    """What decides a trellis code: rotation, levels, scale rule, candidate scales. Immutable by convention.

    `levels`: one integer in units of 1/4096 for every window, none 0. The rest as in `encode.Encoder`.
    """

    def __init__(
        self,
        transform: Transform,
        bits: i64,
        levels: list[int],
        rule: i64 = UNBIASED,
        candidates: list[float] | None = None,
        strict: bool = False,
    ) -> None:
        self.transform: Transform = transform
        self.dim: i64 = transform.dim
        self.bits: i64 = bits
        self.rule: i64 = rule
        self.candidates: vec[float] = vec[float](candidates if candidates is not None else [1.0])
        self.strict: bool = strict
        self.levels: vec[i64] = vec[i64](capacity=len(levels))
        self.doubled: vec[i64] = vec[i64](capacity=len(levels))
        for level in levels:
            self.levels = append(self.levels, i64(level))
            self.doubled = append(self.doubled, clamped(2 * i64(level)))
        self.nodes: i64 = len(levels) >> bits
        self.stage_bytes: i64 = (self.dim * bits + 7) >> 3


def clamped(value: i64) -> i64:
    """value clamped to int16."""
    if value > 32767:
        return 32767
    if value < -32768:
        return -32768
    return value


def branch_metric(x: i64, level: i64) -> i64:
    """The squared difference of doubled numbers, clamped to int16 first, in units of 1/2048, rounded."""
    difference = clamped(x - level)
    return (difference * difference + 16384) >> 15


def forward(plan: TrellisEncoder, x: vec[i64], start: i64) -> vec[i64]:
    """Metrics of all nodes before the first, after the first, ... after the last number; `start` -1 for any node."""
    nodes = plan.nodes
    size: i64 = len(plan.doubled)
    metrics: vec[i64] = vec[i64](capacity=(len(x) + 1) * nodes)
    for node in range(nodes):
        metrics = append(metrics, 0 if start < 0 or node == start else LARGEST)
    for step in range(len(x)):
        base = step * nodes
        least: i64 = LARGEST
        for node in range(nodes):
            if metrics[base + node] < least:
                least = metrics[base + node]
        value = x[step]
        for node in range(nodes):
            best: i64 = LARGEST
            window = node
            while window < size:
                cost = metrics[base + (window >> plan.bits)] + branch_metric(value, plan.doubled[window])
                if cost < best:
                    best = cost
                window += nodes
            metrics = append(metrics, best - least)
    return metrics


def backward(plan: TrellisEncoder, x: vec[i64], metrics: vec[i64], end: i64, stop: i64, path: vec[i64]) -> i64:
    """The node before number `stop` on the best path into `end`; its windows from there on are written to `path`."""
    nodes = plan.nodes
    size: i64 = len(plan.doubled)
    node = end
    for step in range(i64(len(x)) - 1, stop - 1, -1):
        base = step * nodes
        best: i64 = LARGEST + 1
        chosen = node
        window = node
        while window < size:
            cost = metrics[base + (window >> plan.bits)] + branch_metric(x[step], plan.doubled[window])
            if cost > LARGEST:
                cost = LARGEST
            if cost < best:
                best = cost
                chosen = window
            window += nodes
        path[step] = chosen
        node = chosen >> plan.bits
    return node


def tail_biting(plan: TrellisEncoder, v: vec[i64]) -> bytes:
    """The packed row of int16 coordinates: the circular path of two passes."""
    dim = plan.dim
    half = dim >> 1
    x: vec[i64] = vec[i64](capacity=dim)
    for j in range(dim):
        x = append(x, clamped(2 * v[dim - 1 - j]))
    turned: vec[i64] = vec[i64](capacity=dim)
    path: vec[i64] = vec[i64](capacity=dim)
    for j in range(dim):
        turned = append(turned, x[(j + half) % dim])
        path = append(path, 0)
    metrics = forward(plan, turned, -1)
    last: i64 = i64(len(metrics)) - plan.nodes
    end: i64 = 0
    for node in range(plan.nodes):
        if metrics[last + node] < metrics[last + end]:
            end = node
    seam = backward(plan, turned, metrics, end, dim - half, path)
    metrics = forward(plan, x, seam)
    backward(plan, x, metrics, seam, 0, path)
    packed = BytesWriter()
    held: i64 = 0
    place: i64 = 0
    mask = (i64(1) << plan.bits) - 1
    for j in range(dim):
        held |= (path[dim - 1 - j] & mask) << place
        place += plan.bits
        if place >= 8:
            packed.append(u8(held & 255))
            held >>= 8
            place -= 8
    if place > 0:
        packed.append(u8(held))
    return packed.getvalue()


def window_at(packed: bytes, start: i64, total: i64, at: i64, window: i64) -> i64:
    """The `window` bits from bit `at` of the row of `total` bits at byte `start`, circular."""
    found: i64 = 0
    for place in range(window):
        bit = at + place
        if bit >= total:
            bit -= total
        byte: i64 = packed[start + (bit >> 3)]
        found |= ((byte >> (bit & 7)) & 1) << place
    return found


def row_levels(plan: TrellisEncoder, packed: bytes, start: i64) -> vec[i64]:
    """The levels of the packed row at byte `start`."""
    total = plan.dim * plan.bits
    window: i64 = plan.bits
    while (plan.nodes << plan.bits) > (i64(1) << window):
        window += 1
    result: vec[i64] = vec[i64](capacity=plan.dim)
    for j in range(plan.dim):
        result = append(result, plan.levels[window_at(packed, start, total, j * plan.bits, window)])
    return result


def encode_vector(plan: TrellisEncoder, x: vec[float]) -> tuple[bytes, float]:
    """Packed row and scale of dim float64 numbers. ValueError on a wrong length."""
    dim = plan.dim
    if len(x) != dim:
        raise ValueError(f"expected a row of {dim} numbers, got {len(x)}")
    norm = 1.0 if plan.strict else row_norm(x)
    scaled = rotate(plan.transform, x, norm)
    v = coordinates(scaled)
    best = b""
    best_dot: i64 = 0
    best_square: i64 = 1
    best_merit = 0.0
    for trial in range(len(plan.candidates)):
        tried = v if trial == 0 else candidate_coordinates(scaled, plan.candidates[trial])
        packed = tail_biting(plan, tried)
        dot: i64 = 0
        square: i64 = 0
        levels = row_levels(plan, packed, 0)
        for j in range(dim):
            dot += v[j] * levels[j]
            square += levels[j] * levels[j]
        merit = float(dot) * float(dot) / float(square)
        if dot < 0:
            merit = -merit
        if trial == 0 or merit > best_merit:
            best = packed
            best_dot = dot
            best_square = square
            best_merit = merit
    if best_dot < best_square >> 8:
        best_dot = best_square >> 8
    return best, norm * scale_factor(plan.rule, dim, best_dot, best_square)


def stage(plan: TrellisEncoder, packed: bytes, start: i64) -> vec[float]:
    """The rotated coordinates of unit variance of the packed row at byte `start`, without scale."""
    result: vec[float] = vec[float](capacity=plan.dim)
    for level in row_levels(plan, packed, start):
        result = append(result, float(level) / UNIT)
    return result


def decode_row(plan: TrellisEncoder, packed: bytes, start: i64, scale: float) -> vec[float]:
    """The reconstructed row at byte `start`, dim float64 numbers."""
    z = stage(plan, packed, start)
    hadamard.scale(z, scale)
    return hadamard.inverse(plan.transform, z)


def score_row(plan: TrellisEncoder, rotated: vec[float], packed: bytes, start: i64) -> float:
    """The inner product at scale 1 of the row at byte `start` with a query rotated by `forward`."""
    total = 0.0
    levels = stage(plan, packed, start)
    for j in range(plan.dim):
        total += rotated[j] * levels[j]
    return total / float(plan.dim)
