"""Greedy text of a compressed cache beside that of the exact one: each goes on from its own tokens."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tq_onnx import metrics
from tq_onnx.generation import generate_batch
from tq_onnx.runner import DecoderRunner

Ids = NDArray[np.int64]


def continued(runner: DecoderRunner, prompts: Ids, count: int) -> Ids:
    """(rows, count): the tokens that greedy decoding puts behind prompts (rows, length), read one token a step.

    End tokens do not end it, so that all rows have `count` tokens.
    """
    rows = generate_batch(runner, prompts.tolist(), max_tokens=count, end_tokens=(), chunk=1)
    return np.array(list(rows), np.int64).T


def agreement(exact: NDArray[Any], measured: NDArray[Any]) -> dict[str, float | None]:
    """`token_match`: share of equal tokens, place by place; `free_divergence`: median first place that differs."""
    same = exact == measured
    return {"token_match": float(same.mean()), "free_divergence": metrics.first_divergence(same)}
