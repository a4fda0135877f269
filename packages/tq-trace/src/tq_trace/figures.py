"""Errors of queries gathered into the figures of a head, of a policy, and of stretches of positions."""

from dataclasses import asdict, dataclass
from math import sqrt
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tq_trace.metrics import Errors

F64 = NDArray[np.float64]

STRETCHES: Final = 32
"""How many equal stretches of positions the error along tokens is averaged over."""

SUMS: Final = ("square", "cross", "signal", "shift", "tokens", "output", "output_keys", "output_values", "power")


@dataclass(frozen=True)
class Figures:
    """What one method does to attention, over some queries; None where nothing was there to measure against.

    `kl_mean`, `kl_p99`, `kl_max`: KL(exact || measured) of attention weights in nats, over queries. `top_k`, `top_1`:
    agreement on the tokens of largest weight. `first_divergence`: the lowest position whose top token differs.
    `score_rmse`: error of logits in nats, each query's mean error removed, since softmax does not see it;
    `score_shift`: that mean error. `score_bias`: slope of measured on exact logits, less 1. `score_correlation`:
    of both. `output_error`: norm of the error of attention outputs over their norm, and `output_error_keys`,
    `output_error_values`: the parts that keys and values alone would cause. `key_error`, `value_error`: squared error
    of decoded vectors over their squared norm.
    """

    kl_mean: float
    kl_p99: float
    kl_max: float
    top_k: float
    top_1: float
    first_divergence: int | None
    score_rmse: float
    score_shift: float
    score_bias: float | None
    score_correlation: float | None
    output_error: float | None
    output_error_keys: float | None
    output_error_values: float | None
    key_error: float | None
    value_error: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


class Gathered:
    """Errors of one head's queries, in the order in which they came."""

    def __init__(self) -> None:
        self.kl: list[F64] = []
        self.top: list[F64] = []
        self.same_best: list[NDArray[np.bool_]] = []
        self.positions: list[NDArray[np.int64]] = []
        self.sums = dict.fromkeys(SUMS, 0.0)
        self.by_query: dict[str, list[F64]] = {"output": [], "power": []}
        self.vectors = {"key": [0.0, 0.0], "value": [0.0, 0.0]}  # squared error, squared norm

    def add(self, errors: Errors, head: int, positions: NDArray[np.int64]) -> None:
        """Take in the queries of one head of a block."""
        self.kl.append(errors.kl[head])
        self.top.append(errors.top[head])
        self.same_best.append(errors.same_best[head])
        self.positions.append(positions)
        for name in SUMS:
            self.sums[name] += float(getattr(errors, name)[head].sum())
        for name, held in self.by_query.items():
            held.append(getattr(errors, name)[head])

    def add_vectors(self, side: str, error: float, power: float) -> None:
        """Take in the squared error of decoded keys or values, and their squared norm."""
        self.vectors[side][0] += error
        self.vectors[side][1] += power


def figures_of(gathered: list[Gathered]) -> Figures:
    """Figures over all queries of these heads; means weigh each query alike, errors of scores each visible token."""
    kl = np.concatenate([part for one in gathered for part in one.kl])
    top = np.concatenate([part for one in gathered for part in one.top])
    same = np.concatenate([part for one in gathered for part in one.same_best])
    positions = np.concatenate([part for one in gathered for part in one.positions])
    sums = {name: sum(one.sums[name] for one in gathered) for name in SUMS}
    measured_signal = sums["signal"] + 2 * sums["cross"] + sums["square"]
    both = sums["signal"] * measured_signal
    return Figures(
        kl_mean=float(kl.mean()),
        kl_p99=float(np.quantile(kl, 0.99)),
        kl_max=float(kl.max()),
        top_k=float(top.mean()),
        top_1=float(same.mean()),
        first_divergence=None if same.all() else int(positions[~same].min()),
        score_rmse=sqrt(sums["square"] / sums["tokens"]),
        score_shift=sums["shift"] / len(kl),
        score_bias=_ratio(sums["cross"], sums["signal"]),
        score_correlation=_ratio(sums["signal"] + sums["cross"], sqrt(both) if both > 0 else 0.0),
        output_error=_root(sums["output"], sums["power"]),
        output_error_keys=_root(sums["output_keys"], sums["power"]),
        output_error_values=_root(sums["output_values"], sums["power"]),
        key_error=_ratio(*(sum(one.vectors["key"][i] for one in gathered) for i in (0, 1))),
        value_error=_ratio(*(sum(one.vectors["value"][i] for one in gathered) for i in (0, 1))),
    )


def along_positions(gathered: list[Gathered], tokens: int) -> list[dict[str, Any]]:
    """Mean KL and output error in equal stretches of positions; stretches without a query are left out."""
    positions = np.concatenate([part for one in gathered for part in one.positions])
    kl = np.concatenate([part for one in gathered for part in one.kl])
    output = np.concatenate([part for one in gathered for part in one.by_query["output"]])
    power = np.concatenate([part for one in gathered for part in one.by_query["power"]])
    stretches = min(STRETCHES, tokens)
    stretch = positions * stretches // tokens
    found = []
    for number in np.unique(stretch):
        here = stretch == number
        found.append(
            {
                "from": int(-(-number * tokens // stretches)),
                "queries": int(here.sum()),
                "kl_mean": float(kl[here].mean()),
                "output_error": _root(float(output[here].sum()), float(power[here].sum())),
            }
        )
    return found


def _ratio(upper: float, lower: float) -> float | None:
    return upper / lower if lower > 0 else None


def _root(upper: float, lower: float) -> float | None:
    return sqrt(upper / lower) if lower > 0 else None
