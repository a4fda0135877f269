"""KL of every cache on real text at the length that the fixture was trained for: windows, one token a step."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from decoders import held_after
from grouped import GroupedDecoder, Held, channel_scales
from numpy.typing import NDArray

from tq_onnx import Bundle, DecoderRunner
from tq_onnx.scores import Scores, summary
from tq_onnx.windows import cut_windows

Ids = NDArray[np.int64]
F32 = NDArray[np.float32]

FIGURES = ("kl_mean", "kl_p99", "top1_agreement", "perplexity")


def of_windows(
    bundle: Bundle,
    ids: Sequence[int],
    policies: Sequence[str],
    kinds: Sequence[str],
    seeds: Sequence[int],
    windows: int,
    length: int,
    score_from: int,
    folder: Path,
) -> dict[str, Any]:
    """Figures by decoder, means over seeds; scales of integer caches come from as many windows that are not scored."""
    cut = cut_windows(ids, 2 * windows, length, bundle.start_token)
    scored, calibration = cut[::2], cut[1::2]
    scales = _calibrated(bundle, calibration)
    exact = _logits(_batch(DecoderRunner(bundle, batch=windows)), scored)
    found = {"exact": _figures([_scores(exact, exact, scored, score_from)])}
    for policy in policies:
        runs = []
        for seed in seeds:
            runner = DecoderRunner(bundle, policy, "fused", batch=windows, seed=seed)
            runs.append(_scores(exact, _logits(_batch(runner), scored), scored, score_from))
        found[f"fused {policy}"] = _figures(runs)
    empty = [(keys[:, :0], values[:, :0]) for keys, values in scales]
    for kind in kinds:
        grouped = GroupedDecoder(bundle, kind, channel_scales(scales, kind), empty, length, folder)
        rows = []
        for window in scored:
            grouped.tokens = 0  # what lies behind is written over
            rows.append(np.array([grouped.step(token).copy() for token in window[:-1]]))
        found[f"GroupQueryAttention {kind}"] = _figures([_scores(exact, np.array(rows), scored, score_from)])
    return found


def _calibrated(bundle: Bundle, windows: Ids) -> Held:
    """Keys and values of all windows, one behind the other."""
    parts = [held_after(bundle, window) for window in windows]
    layers = [[part[layer] for part in parts] for layer in range(len(parts[0]))]
    return [
        (np.concatenate([keys for keys, _ in pairs], axis=1), np.concatenate([values for _, values in pairs], axis=1))
        for pairs in layers
    ]


def _batch(runner: DecoderRunner) -> Callable[[Ids], F32]:
    return lambda tokens: runner.step(tokens[:, None])[:, 0]


def _logits(step: Callable[[Ids], F32], windows: Ids) -> F32:
    """(windows, length - 1, vocabulary), one token a step."""
    return np.stack([step(windows[:, position]) for position in range(windows.shape[1] - 1)], axis=1)


def _scores(exact: F32, measured: F32, windows: Ids, score_from: int) -> Scores:
    scores = Scores()
    for position in range(score_from - 1, windows.shape[1] - 1):
        scores.compare(exact[:, position], measured[:, position], windows[:, position + 1])
    return scores.joined()


def _figures(runs: list[Scores]) -> dict[str, Any]:
    each = [summary([run]) for run in runs]
    found: dict[str, Any] = {name: float(np.mean([one[name] for one in each])) for name in FIGURES}
    found["kl_mean_of_seeds"] = [one["kl_mean"] for one in each]
    found["scored_tokens"] = each[0]["scored_tokens"]
    return found
