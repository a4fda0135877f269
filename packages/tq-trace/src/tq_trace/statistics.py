"""What about keys and values matters for compressing them: norms, outlier channels, a shared mean, sinks."""

from dataclasses import dataclass
from math import isfinite
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tq_trace.trace import KvTrace

# A channel this many times louder than the median one is what breaks quantizers that do not rotate.
OUTLIER_RATIO: Final = 3.0
LARGEST: Final = 4


@dataclass(frozen=True)
class NormSummary:
    """Euclidean norms of all vectors of all samples; None where float64 cannot hold one."""

    minimum: float | None
    median: float | None
    maximum: float | None


@dataclass(frozen=True)
class Peak:
    """A channel or position that stands out: its size over the median one (None: the median is zero)."""

    index: int
    ratio: float | None


@dataclass(frozen=True)
class VectorStatistics:
    """Statistics of keys or of values, over all samples and tokens.

    `outlier_channels`: RMS above 3 times the median channel's, loudest first. `mean_share`: squared norm of the mean
    vector over the mean squared norm, in 0..1: the energy that mean removal saves (None if all are zero).
    `largest`: the 4 positions of largest norm (averaged over samples), largest first, as ratios to the median position.
    `first_token`: the norm at position 0 as such a ratio; attention sinks show here, often by small values.
    """

    norms: NormSummary
    outlier_channels: tuple[Peak, ...]
    mean_share: float | None
    largest: tuple[Peak, ...]
    first_token: float | None


@dataclass(frozen=True)
class TraceStatistics:
    """Statistics of a trace; `norm_ratio` is the median key norm over the median value norm."""

    keys: VectorStatistics
    values: VectorStatistics
    norm_ratio: float | None


def measure(trace: KvTrace) -> TraceStatistics:
    """Statistics of a trace, computed in float64 one sample at a time."""
    keys = _vectors(trace, "keys")
    values = _vectors(trace, "values")
    return TraceStatistics(keys, values, _ratio(keys.norms.median, values.norms.median))


def _vectors(trace: KvTrace, name: str) -> VectorStatistics:
    scale = max(_largest_magnitude(getattr(sample, name)) for sample in trace)
    # Dividing by a power of two is exact and keeps squares of float64 extremes inside float64.
    _, exponent = np.frexp(scale)
    norms, squares, total = [], np.float64(0), np.float64(0)
    for sample in trace:
        rows = np.ldexp(getattr(sample, name).astype(np.float64), -exponent)
        square = rows * rows
        norms.append(np.sqrt(square.sum(axis=1)))
        squares = squares + square.sum(axis=0)
        total = total + rows.sum(axis=0)
    count = len(trace) * trace.tokens
    table = np.stack(norms)
    with np.errstate(over="ignore"):
        summary = [_number(np.ldexp(f(table), exponent)) for f in (np.min, np.median, np.max)]
    energy = float(np.sum(squares)) / count
    mean = np.asarray(total) / count
    by_position = table.mean(axis=0)
    typical = float(np.median(by_position))
    return VectorStatistics(
        norms=NormSummary(*summary),
        outlier_channels=_outliers(np.sqrt(np.asarray(squares) / count)),
        mean_share=min(1.0, float(mean @ mean) / energy) if energy else None,
        largest=tuple(Peak(int(i), _ratio(by_position[i], typical)) for i in _descending(by_position)[:LARGEST]),
        first_token=_ratio(by_position[0], typical),
    )


def _outliers(loudness: NDArray[np.float64]) -> tuple[Peak, ...]:
    """Channels whose RMS exceeds OUTLIER_RATIO times the median; where that is zero, all that are not silent."""
    typical = float(np.median(loudness))
    loud = [i for i in _descending(loudness) if loudness[i] > OUTLIER_RATIO * typical]
    return tuple(Peak(int(i), _ratio(loudness[i], typical)) for i in loud)


def _descending(numbers: NDArray[np.float64]) -> NDArray[np.intp]:
    """Indices by falling number; the lower index first where they tie."""
    return np.argsort(-numbers, kind="stable")


def _largest_magnitude(rows: NDArray[np.floating]) -> float:
    return max(float(rows.max()), -float(rows.min()))


def _number(value: np.floating) -> float | None:
    return float(value) if isfinite(value) else None


def _ratio(upper: float | None, lower: float | None) -> float | None:
    if upper is None or not lower:
        return None
    with np.errstate(over="ignore"):
        return _number(np.float64(upper) / np.float64(lower))
