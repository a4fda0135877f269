"""Lloyd-Max codebooks of one coordinate of a random unit vector, solved to the last digits.

Such a coordinate is `t = sin(theta)` with theta distributed as `cos(theta)^(dim - 2)`; the substitution removes the
endpoint singularities of the Beta density at small dims, so one Gauss-Legendre rule serves every `dim >= 2`.
Everything here is in units of variance one: `u = sqrt(dim) * t`.
"""

import math
from typing import Final

NODES: Final = 16
PANEL_SIGMAS: Final = 0.75  # 16 nodes on a panel this wide leave less than 1e-16 of a Gaussian-like integrand
TAIL_SIGMAS: Final = 13.0  # cos(theta)^(dim-2) <= exp(-84 (dim-2)/dim) beyond: nothing in float64
LLOYD_STEPS: Final = 12
NEWTON_STEPS: Final = 200
RESIDUAL: Final = 1e-12
RESIDUAL_PER_DIM: Final = 1e-17  # cos(theta)^(dim - 2) loses digits in proportion to dim: 3e-12 seen at dim 766156
START_GRID: Final = 4096


def legendre_rule(count: int) -> list[tuple[float, float]]:
    """Nodes and weights of the `count`-point Gauss-Legendre rule on [-1, 1], by Newton on the Legendre polynomial."""
    rule: list[tuple[float, float]] = []
    for index in range(count):
        node = math.cos(math.pi * (index + 0.75) / (count + 0.5))
        slope = 1.0
        for _ in range(8):  # quadratic convergence from Tricomi's guess: 4 steps reach float64
            before = 1.0
            value = node
            for order in range(2, count + 1):
                following = ((2 * order - 1) * node * value - (order - 1) * before) / order
                before = value
                value = following
            slope = count * (node * value - before) / (node * node - 1.0)
            node -= value / slope
        rule.append((node, 2.0 / ((1.0 - node * node) * slope * slope)))
    return rule


RULE: Final = legendre_rule(NODES)


def cell_moments(dim: int, low: float, high: float, offset: float) -> tuple[float, float, float]:
    """Integrals of 1, (u - offset) and (u - offset)^2 over angles low..high, weighted by cos(theta)^(dim-2).

    Unnormalised; the weight at theta = 0 is 1. Taking u relative to a point near the cell avoids cancellation.
    """
    root = math.sqrt(float(dim))
    power = float(dim - 2)
    high = min(high, max(low, TAIL_SIGMAS / root))
    panels = math.ceil((high - low) * root / PANEL_SIGMAS)
    mass = 0.0
    first = 0.0
    second = 0.0
    for panel in range(panels):
        start = low + (high - low) * panel / panels
        stop = low + (high - low) * (panel + 1) / panels
        half = 0.5 * (stop - start)
        middle = 0.5 * (stop + start)
        for node, weight in RULE:
            angle = middle + half * node
            density: float = half * weight * math.pow(math.cos(angle), power)
            distance = root * math.sin(angle) - offset
            mass += density
            first += density * distance
            second += density * distance * distance
    return mass, first, second


def edge_angles(dim: int, half: list[float]) -> list[float]:
    """The angles of the cell edges of a half codebook: 0, the midpoints, pi/2."""
    root = math.sqrt(float(dim))
    middles = [0.5 * (half[index] + half[index + 1]) for index in range(len(half) - 1)]
    return [0.0, *[math.asin(min(1.0, middle / root)) for middle in middles], 0.5 * math.pi]


def start(dim: int, levels: int) -> list[float]:
    """Companding start: the quantiles of `levels` equal parts of the density to the power 1/3, those not negative.

    In theta that density is cos(theta)^(dim/3).
    """
    root = math.sqrt(float(dim))
    power = dim / 3.0
    end = min(0.5 * math.pi, math.sqrt(3.0) * TAIL_SIGMAS / root)
    step = end / START_GRID
    cumulative = [0.0]
    for index in range(START_GRID):
        cumulative.append(cumulative[index] + math.pow(math.cos((index + 0.5) * step), power))
    half: list[float] = []
    position = 0
    is_even = levels % 2 == 0
    for index in range((levels + 1) // 2):
        target = cumulative[START_GRID] * (index + 0.5 if is_even else float(index)) / (0.5 * levels)
        while cumulative[position + 1] < target:
            position += 1
        inside = (target - cumulative[position]) / (cumulative[position + 1] - cumulative[position])
        half.append(root * math.sin((position + inside) * step))
    return half


def residuals(dim: int, half: list[float]) -> list[float]:
    """Each centroid minus the mean of its cell; all zero is the Lloyd-Max condition. A centroid 0 meets it."""
    angles = edge_angles(dim, half)
    result: list[float] = []
    for index in range(len(half)):
        mass, first, _ = cell_moments(dim, angles[index], angles[index + 1], half[index])
        result.append(-first / mass if half[index] > 0.0 else 0.0)
    return result


def newton_step(dim: int, half: list[float]) -> tuple[list[float], float]:
    """Candidate of one Newton step on the centroid residual, a centroid 0 fixed, and the largest residual before it.

    The Jacobian is tridiagonal, because moving a cell's edge by a half of each neighbour moves its mean by
    density(edge) * |edge - mean| / mass. A step that breaks the order is replaced by a Lloyd step.
    """
    size = len(half)
    root = math.sqrt(float(dim))
    angles = edge_angles(dim, half)
    diagonal: list[float] = []
    lower: list[float] = []
    upper: list[float] = []
    error: list[float] = []
    for index in range(size):
        mass, first, _ = cell_moments(dim, angles[index], angles[index + 1], half[index])
        if half[index] == 0.0:  # a middle cell is symmetric: its centroid stays where it is
            first = 0.0
        mean = half[index] + first / mass
        error.append(-first / mass)
        left = 0.0
        right = 0.0
        if index > 0:  # the edge at zero is fixed
            left = 0.5 * edge_density(dim, angles[index]) * (mean - root * math.sin(angles[index])) / mass
        if index < size - 1 and half[index] > 0.0:
            right = 0.5 * edge_density(dim, angles[index + 1]) * (root * math.sin(angles[index + 1]) - mean) / mass
        lower.append(-left)
        diagonal.append(1.0 - left - right)
        upper.append(-right)
    worst = max([abs(value) for value in error])
    lloyd = [half[index] - error[index] for index in range(size)]
    for index in range(1, size):
        if diagonal[index - 1] <= 0.0:
            return lloyd, worst
        factor = lower[index] / diagonal[index - 1]
        diagonal[index] -= factor * upper[index - 1]
        error[index] -= factor * error[index - 1]
    following = 0.0
    candidate = [0.0] * size
    for index in range(size - 1, -1, -1):
        following = (error[index] - upper[index] * following) / diagonal[index]
        candidate[index] = half[index] - following
    previous = 0.0 if half[0] > 0.0 else -1.0
    for value in candidate:
        if not previous < value < root:
            return lloyd, worst
        previous = value
    return candidate, worst


def edge_density(dim: int, angle: float) -> float:
    """The unnormalised density of u (not of theta) at an angle, matching the masses of `cell_moments`."""
    return math.pow(math.cos(angle), float(dim - 3)) / math.sqrt(float(dim))


def solve(dim: int, bits: int) -> list[float]:
    """The `2**(bits-1)` positive Lloyd-Max centroids, ascending, in units of 1/sqrt(dim); see `solve_levels`.

    Guaranteed for `dim >= 2` and `1 <= bits <= 8`; anything else raises ValueError.
    """
    if dim < 2 or not 1 <= bits <= 8:
        raise ValueError(f"a codebook needs dim >= 2 and 1 <= bits <= 8, got dim={dim}, bits={bits}")
    return solve_levels(dim, 1 << bits)


def solve_levels(dim: int, levels: int) -> list[float]:
    """The Lloyd-Max centroids of that many levels that are not negative, ascending, in units of 1/sqrt(dim).

    An odd number of levels has the centroid 0, which comes first. The centroid residual is at most 1e-12, or
    dim * 1e-17 where that is more. Guaranteed for `dim >= 2` and `2 <= levels <= 256`; anything else raises ValueError.
    Source: arXiv 2504.19874, section 3.1, with the exact marginal instead of its Gaussian limit.
    """
    if dim < 2 or not 2 <= levels <= 256:
        raise ValueError(f"a codebook needs dim >= 2 and 2 <= levels <= 256, got dim={dim}, levels={levels}")
    half = start(dim, levels)
    for _ in range(LLOYD_STEPS):
        error = residuals(dim, half)
        half = [half[index] - error[index] for index in range(len(half))]
    best = half
    best_residual = math.inf
    allowed = max(RESIDUAL, RESIDUAL_PER_DIM * dim)
    for _ in range(NEWTON_STEPS):
        candidate, worst = newton_step(dim, half)
        if worst < best_residual:
            best = half
            best_residual = worst
        elif best_residual <= allowed:
            break  # at the rounding floor: further steps only move the last digit
        half = candidate
    if best_residual > allowed:
        raise ArithmeticError(f"no Lloyd-Max codebook for dim={dim}, levels={levels}: residual {best_residual:.3g}")
    return best


def distortion(dim: int, half: list[float]) -> float:
    """E (u - nearest centroid)^2 of the symmetric codebook: the expected squared error of a rotated unit vector."""
    angles = edge_angles(dim, half)
    total = 0.0
    error = 0.0
    for index in range(len(half)):
        mass, _, second = cell_moments(dim, angles[index], angles[index + 1], half[index])
        total += mass
        error += second
    return error / total
