"""Collects the comparisons of a run with the exact one, and sums them up."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tq_onnx import metrics

F32 = NDArray[np.float32]


@dataclass
class Scores:
    """Comparisons of one run with the exact one: a list of (windows,) arrays, or (windows, scored) once joined."""

    surprise: Any = field(default_factory=list)
    divergence: Any = field(default_factory=list)
    same_best: Any = field(default_factory=list)
    is_right: Any = field(default_factory=list)
    top_overlap: Any = field(default_factory=list)
    mean_square: Any = field(default_factory=list)

    def compare(self, exact: F32, measured: F32, targets: NDArray[np.int64]) -> None:
        """Add one position of a group of windows: logits (windows, vocabulary), targets (windows,)."""
        reference, log_probabilities = metrics.log_softmax(exact), metrics.log_softmax(measured)
        self.surprise.append(metrics.surprise(log_probabilities, targets))
        self.divergence.append(metrics.divergence(reference, log_probabilities))
        self.same_best.append(metrics.same_best(exact, measured))
        self.is_right.append(measured.argmax(axis=-1) == targets)
        self.top_overlap.append(metrics.top_overlap(exact, measured))
        self.mean_square.append(metrics.mean_square(exact, measured))

    def joined(self) -> "Scores":
        """The same scores stacked to (windows, scored)."""
        return Scores(**{name: np.stack(values, axis=1) for name, values in vars(self).items()})


def joined_windows(groups: Sequence[Scores], chosen: NDArray[np.bool_]) -> Scores:
    """The chosen ones of all windows of all groups, as one group."""
    return Scores(**{name: np.concatenate([vars(one)[name] for one in groups])[chosen] for name in vars(groups[0])})


def summary(groups: Sequence[Scores]) -> dict[str, float | None]:
    """The figures of a run over all its windows, from the joined scores of each group of them."""

    def over(name: str) -> NDArray[Any]:
        return np.concatenate([getattr(scores, name) for scores in groups])

    divergence = over("divergence")
    return {
        "perplexity": metrics.perplexity(over("surprise")),
        "kl_mean": float(divergence.mean()),
        "kl_p99": float(np.quantile(divergence, 0.99)),
        "top1_agreement": float(over("same_best").mean()),
        "accuracy": float(over("is_right").mean()),
        "top5_agreement": float(over("top_overlap").mean()),
        "logit_rmse": float(np.sqrt(over("mean_square").mean())),
        "first_divergence": metrics.first_divergence(over("same_best")),
        "scored_tokens": int(divergence.size),
    }
