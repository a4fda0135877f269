"""Synthetic traces: keys, values and queries made from a seed, with the structure that a workload's knobs ask for."""

from collections.abc import Callable
from dataclasses import fields
from math import sqrt
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tq_core import InvalidSpec
from tq_trace.bfloat16 import Bfloat16
from tq_trace.trace import KvTrace
from tq_trace.trace_set import MODEL_LAYERS, TraceSet
from tq_trace.workloads import WORKLOADS, Workload

F32 = NDArray[np.float32]

SUITE: Final = "synthetic"
SINK_VALUE: Final = 0.1  # norm of a sink's value over the median one
GAZE: Final = 0.5  # length of the part of every query that looks for sinks, over the length of the rest
_SLOW: Final = 4  # the mean of the keys lies in this part of the rotary pairs, the slowest, where turning keeps it


def synthetic(
    model: str | Workload = "llama-3-8b",
    *,
    seed: int = 0,
    progress: Callable[[int, int, str], None] | None = None,
    **knobs: Any,
) -> TraceSet:
    """A trace in the shape of a model, or of a Workload; knobs (see Workload) replace those of the name.

    Every head has numbers of its own, and the same seed and knobs always give the same ones, for a given numpy.
    Raises InvalidSpec for a name, knob or seed that cannot be.
    """
    if isinstance(model, str):
        if model not in WORKLOADS:
            raise InvalidSpec(f"no workload is called {model!r:.60}; known: {', '.join(WORKLOADS)}")
        name, base = model, WORKLOADS[model]
    else:
        name, base = "custom", model
    workload = base.with_knobs(**knobs)
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 1 << 64:
        raise InvalidSpec(f"seed is a whole number in 0..2**64-1, got {seed!r:.40}")
    changed = [f"{field.name}={getattr(workload, field.name)}" for field in fields(workload)]
    extra = {MODEL_LAYERS: str(workload.layers), "knobs": " ".join(changed), "seed": str(seed)}
    positions = np.linspace(workload.tokens - 1, 0, workload.query_count, endpoint=False)[::-1].round().astype(np.int64)
    asked = np.tile(np.repeat(positions, workload.query_groups), (workload.samples, 1))
    traces = []
    for layer in range(workload.layers):
        for head in range(workload.kv_heads):
            arrays = _head(workload, np.random.default_rng([seed, layer, head]), positions)
            where: dict[str, Any] = {"layer": layer, "head": head, "suite": SUITE, "extra": extra}
            traces.append(KvTrace(*arrays, asked, model=f"{name} (synthetic)", benchmark=f"seed {seed}", **where))
        if progress:
            progress(layer + 1, workload.layers, f"layer {layer}")
    return TraceSet(traces)


def _head(workload: Workload, random: np.random.Generator, positions: NDArray[np.int64]) -> tuple[Any, Any, Any]:
    """Keys, values and queries of one head, all samples, in the workload's dtype."""
    dim, tokens = workload.head_dim, workload.tokens
    loud = np.ones(dim, np.float32)
    loud[random.permutation(dim)[: workload.outlier_channels]] = workload.outlier_scale
    loud /= np.sqrt(np.mean(loud * loud))
    mean = _slow_direction(workload, random)
    gaze = _unit(random.standard_normal(dim, np.float32))
    found = []
    for _ in range(workload.samples):
        varying = random.standard_normal((tokens, dim), np.float32) * loud / sqrt(dim)
        keys = _turned(varying + workload.key_mean * mean, np.arange(tokens), workload.rope)
        keys *= np.exp(workload.norm_tail * random.standard_normal((tokens, 1), np.float32))
        keys *= workload.norm_ratio / np.median(np.linalg.norm(keys, axis=1))
        values = _unit(random.standard_normal((tokens, dim), np.float32))
        values *= np.exp(workload.norm_tail * random.standard_normal((tokens, 1), np.float32))
        queries = _queries(workload, random, keys, positions)
        _set_sinks(workload, keys, values, queries, gaze)
        found.append((keys, values, queries))
    return tuple(_as_dtype(np.stack(side), workload.dtype) for side in zip(*found, strict=True))


def _slow_direction(workload: Workload, random: np.random.Generator) -> F32:
    """A unit vector; with rotary pairs (i, i + dim/2), in the slowest of them alone."""
    dim = workload.head_dim
    direction = random.standard_normal(dim, np.float32)
    if workload.rope:
        half = dim // 2
        fast = np.arange(half) < half - max(1, half // _SLOW)
        direction[np.concatenate([fast, fast])] = 0
    return _unit(direction)


def _turned(rows: F32, positions: NDArray[np.int64], base: float) -> F32:
    """Rows turned by the rotary embedding of their positions; unchanged for base 0."""
    if not base:
        return rows
    half = rows.shape[1] // 2
    angles = positions[:, None] * base ** (-np.arange(half) / half)
    cosine, sine = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    first, second = rows[:, :half], rows[:, half:]
    return np.concatenate([first * cosine - second * sine, first * sine + second * cosine], axis=1)


def _queries(workload: Workload, random: np.random.Generator, keys: F32, positions: NDArray[np.int64]) -> F32:
    """One query for each position and query head, each drawn to a token at or before its position."""
    dim, count = workload.head_dim, len(positions) * workload.query_groups
    at = np.repeat(positions, workload.query_groups)
    noise = _turned(random.standard_normal((count, dim), np.float32), at, workload.rope)
    targets = (random.random(count) * (at + 1)).astype(np.int64)
    centre = keys.mean(axis=0, dtype=np.float64).astype(np.float32)
    pointed = _unit(keys[targets] - centre) * np.float32(sqrt(dim))
    queries: F32 = np.float32((1 - workload.focus) ** 0.5) * noise + np.float32(workload.focus**0.5) * pointed
    if workload.logit_std:
        logits = (queries @ (keys - centre).T) / np.float32(sqrt(dim))
        spread = float(logits.std())
        queries *= np.float32(workload.logit_std / spread) if spread else np.float32(1)
    return queries


def _set_sinks(workload: Workload, keys: F32, values: F32, queries: F32, gaze: F32) -> None:
    """Turn the first tokens into sinks: a part of every query that keys of sinks alone answer to."""
    if not workload.sinks:
        return
    first = slice(0, workload.sinks)
    for rows in (keys, queries):  # nothing else answers in the direction of the gaze
        rows -= (rows @ gaze)[:, None] * gaze
    attention = GAZE * np.sqrt(np.mean(np.einsum("nd,nd->n", queries, queries)))
    queries += np.float32(attention) * gaze
    keys[first] += np.float32(workload.sink_logit * sqrt(workload.head_dim) / attention) * gaze
    values[first] = SINK_VALUE * _unit(values[first])


def _unit(rows: F32) -> F32:
    norms = np.linalg.norm(rows, axis=-1, keepdims=True)
    return np.asarray(rows / np.where(norms > 0, norms, 1), np.float32)


def _as_dtype(array: F32, dtype: str) -> Any:
    assert array.dtype == np.float32, array.dtype  # a float64 scalar anywhere above would widen it
    if dtype == "float32":
        return array
    if dtype == "float16":
        with np.errstate(over="ignore"):  # a norm beyond float16 is refused by KvTrace, with its place
            return array.astype(np.float16)
    bits = array.view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))  # to nearest, ties to even
    return Bfloat16((rounded >> np.uint32(16)).astype(np.uint16))
