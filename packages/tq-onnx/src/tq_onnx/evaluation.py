"""Measures what each policy does to a model's predictions on a text, step by step, against the exact cache."""

import hashlib
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tq_cache import CachePolicy
from tq_core import InvalidSpec, NotFinite
from tq_onnx.bundle import Bundle
from tq_onnx.errors import InvalidText
from tq_onnx.inputs import Signature
from tq_onnx.packed import policies_of, refuse_mixed_forms
from tq_onnx.report import Report, Row, figures_of, versions
from tq_onnx.runner import DecoderRunner
from tq_onnx.scores import Scores, summary
from tq_onnx.windows import cut_windows

F32 = NDArray[np.float32]
Progress = Callable[[int, int, str], None]  # steps done, steps in all, what runs now

DEFAULT_POLICIES: Final = (
    "k=mse8,v=mse8",
    "k=mse8,v=mse4",
    "k=mse4,v=mse4",
    "k=mse3,v=mse3",
    "k=mse2,v=mse2",
    "k=prod4,v=mse4",
    "balanced",
    "k=int8,v=int8",
    "k=int4,v=int4",
    "k=absmax8,v=absmax8",
    "k=absmax4,v=absmax4",
)

TOKENS: Final = 448
SCORE_FROM: Final = 64

# Logits of the exact run are kept for all rows; a group of windows takes at most this much, if one window does.
LARGEST_REFERENCE_BYTES: Final = 256 << 20


@dataclass
class Run:
    """One policy under one seed: scores of each group of windows, bytes and times of the first group."""

    scores: list[Scores] = field(default_factory=list)
    held: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """What is run: windows (count, length) in groups of `group`, scored from position `score_from` on."""

    windows: NDArray[np.int64]
    group: int
    score_from: int

    @property
    def scored(self) -> int:
        """Scored positions of one window."""
        return int(self.windows.shape[1]) - self.score_from

    @property
    def steps(self) -> int:
        """Steps of one window: its last token is a target only."""
        return int(self.windows.shape[1]) - 1

    def groups(self) -> Iterator[NDArray[np.int64]]:
        """Windows that run as one batch; the last group may be smaller."""
        for start in range(0, len(self.windows), self.group):
            yield self.windows[start : start + self.group]


def evaluate(
    bundle: Bundle,
    policies: Sequence[str | CachePolicy] = DEFAULT_POLICIES,
    *,
    text: str,
    tokens: int | None = None,
    windows: int = 8,
    batch: int = 8,
    score_from: int | None = None,
    seeds: Sequence[int] = (0,),
    mode: str = "reconstruct",
    backend: str = "auto",
    threads: int | None = None,
    progress: Progress | None = None,
) -> Report:
    """A report with the exact row and one row for each policy, all fed the same tokens, one a step.

    `text` is cut into `windows` windows of `tokens` tokens (448, or the model's context where that is less), evenly
    over its length; positions `score_from` on are scored (64, or a quarter of shorter windows). `batch` windows run
    together, fewer where the exact logits would take more than LARGEST_REFERENCE_BYTES.
    Several `seeds` are averaged. Everything that can be refused is refused before the first step.
    """
    if mode not in ("reconstruct", "fused"):
        raise InvalidSpec(f"evaluate measures policies in mode 'reconstruct' or 'fused', got {mode!r}")
    if not seeds or len(set(seeds)) != len(seeds):
        raise InvalidSpec(f"seeds must be one or more different numbers, got {list(seeds)}")
    refuse_mixed_forms(bundle.signature)
    tokens = min(TOKENS, bundle.context or TOKENS) if tokens is None else tokens
    score_from = max(1, min(SCORE_FROM, tokens // 4)) if score_from is None else score_from
    resolved = [CachePolicy.parse(policy).resolve(len(bundle.signature.layers)) for policy in policies]
    plan = _plan(bundle, text, tokens, windows, batch, score_from, threads)
    for seed in seeds:  # what the model's dims or this machine cannot do fails here
        for policy in resolved:
            DecoderRunner(bundle, policy, mode, seed=seed, threads=threads, backend=backend, batch=plan.group)

    exact, seeded = Run(), [_is_seeded(policy, bundle.signature) for policy in resolved]
    runs = {(index, seed): Run() for index in range(len(resolved)) for seed in (seeds if seeded[index] else [0])}
    total, done = (1 + len(runs)) * plan.steps * len(list(plan.groups())), 0

    def tick(label: str) -> Callable[[int], None]:
        return lambda step: progress(done + step, total, label) if progress else None

    for group in plan.groups():
        runner = DecoderRunner(bundle, batch=len(group), capacity=plan.steps, threads=threads)
        reference = np.empty((plan.scored, len(group), _vocabulary(bundle, threads)), np.float32)
        _run(runner, group, plan, exact, reference, tick("exact"), is_reference=True)
        done += plan.steps
        for (index, seed), run in runs.items():
            policy = resolved[index]
            runner = DecoderRunner(
                bundle, policy, mode, batch=len(group), capacity=plan.steps, seed=seed, threads=threads, backend=backend
            )
            _run(runner, group, plan, run, reference, tick(str(policy)))
            done += plan.steps

    rows = [_row("exact", "exact", "exact", [exact], [])]
    for index, policy in enumerate(resolved):
        used = [seed for row, seed in runs if row == index]
        measured = [runs[index, seed] for seed in used]
        rows.append(_row(str(policies[index]), str(policy), mode, measured, used if seeded[index] else []))
    return Report(
        rows=rows,
        bundle=bundle.facts(),
        versions=versions(),
        machine={"architecture": platform.machine(), "logical_cpus": os.cpu_count()},
        text={"sha256": hashlib.sha256(text.encode()).hexdigest(), "characters": len(text)},
        protocol={
            "windows": windows,
            "tokens": tokens,
            "scored_from": score_from,
            "scored_tokens": windows * plan.scored,
            "batch": plan.group,
            "seeds": list(seeds),
            "schedule": "teacher-forced, one token a step; the same steps for every row",
            "cut": "the text in equal stretches, a window from the start of each",
            "starts_with": bundle.start_token,
        },
    )


def _is_seeded(policy: CachePolicy, signature: Signature) -> bool:
    """Whether random bits enter the codes of any layer or head; floats and plain rounding have none."""
    sides = (side for one in policies_of(policy, signature) for side in (one.keys, one.values))
    return any(store.kind not in ("int", "absmax", "float") for side in sides for store in side.parts)


def _plan(
    bundle: Bundle, text: str, tokens: int, windows: int, batch: int, score_from: int, threads: int | None
) -> Plan:
    for name, value, low in (("windows", windows, 1), ("batch", batch, 1), ("score_from", score_from, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise InvalidSpec(f"{name} must be a whole number of {low} or more, got {value!r}")
    if isinstance(tokens, bool) or not isinstance(tokens, int) or tokens <= score_from:
        raise InvalidSpec(f"windows of {tokens} tokens leave nothing to score from position {score_from} on")
    if bundle.context is not None and tokens > bundle.context:
        raise InvalidSpec(
            f"windows of {tokens} tokens exceed the model's context of {bundle.context}; ask for fewer tokens"
        )
    cut = cut_windows(bundle.encode(text), windows, tokens, bundle.start_token)
    vocabulary = _vocabulary(bundle, threads)
    if cut.max() >= vocabulary:
        raise InvalidText(
            f"the tokenizer of {bundle.folder.name} gives token {cut.max()}, its model knows {vocabulary} tokens only; "
            "the two do not belong together"
        )
    window_bytes = (tokens - score_from) * vocabulary * 4
    fitting = max(1, LARGEST_REFERENCE_BYTES // window_bytes)
    group = bundle.signature.fixed_batch or min(batch, windows, fitting)
    if windows % group and bundle.signature.fixed_batch:
        raise InvalidSpec(f"the graph runs a batch of {group} only; windows must be a multiple of it, got {windows}")
    return Plan(cut, group, score_from)


def _vocabulary(bundle: Bundle, threads: int | None) -> int:
    """Size of the logits; where the graph leaves it open, a step tells."""
    if bundle.signature.vocabulary is not None:
        return bundle.signature.vocabulary
    batch = bundle.signature.fixed_batch or 1
    logits = DecoderRunner(bundle, batch=batch, threads=threads).step(np.zeros((batch, 1), np.int64))
    return int(logits.shape[2])


def _run(
    runner: DecoderRunner,
    group: NDArray[np.int64],
    plan: Plan,
    run: Run,
    reference: F32,
    tick: Callable[[int], None],
    *,
    is_reference: bool = False,
) -> None:
    """Feed a group of windows token by token; fills `reference` with exact logits, or compares with it."""
    scores, elapsed = Scores(), []
    for position in range(plan.steps):
        started = time.perf_counter()
        logits = runner.step(group[:, position : position + 1])[:, 0]
        elapsed.append(time.perf_counter() - started)
        scored = position + 1 - plan.score_from  # these logits predict the next position
        if scored >= 0:
            if not np.isfinite(logits).all():
                raise NotFinite(
                    f"logits at position {position} have NaN or infinity ({runner.mode}); nothing to compare"
                )
            if is_reference:
                reference[scored] = logits
            scores.compare(reference[scored], logits, group[:, position + 1])
        tick(position + 1)
    run.scores.append(scores.joined())
    if not run.held:
        run.held = _held(runner) | {"ms_per_token": 1e3 * statistics.median(elapsed) / runner.batch}


def _held(runner: DecoderRunner) -> dict[str, Any]:
    """Bytes of a runner's cache at the length reached."""
    items: dict[str, int] = {} if runner.cache is None else dict(runner.cache.ledger().items)
    total, values = runner.cache_bytes, runner.cached_values
    coded = runner.quantized_tokens * values // (len(runner.bundle.signature.layers) * runner.tokens)
    codes = items.get("codes", 0) + items.get("norms", 0)
    return {
        "cache_bytes": total,
        "exact_bytes": runner.exact_bytes("float16"),
        "state_bytes": runner.state_bytes,
        "bits_per_value": 8 * (total - items.get("tables", 0) - runner.state_bytes) / values,
        "nominal_bits_per_value": 8 * codes / coded if coded else None,
        "float_buffer_bytes": runner.float_bytes,
        "ledger": items,
    }


def _row(asked: str, policy: str, mode: str, runs: Sequence[Run], seeds: list[int]) -> Row:
    figures = [{name: value for name, value in run.held.items() if name != "ledger"} for run in runs]
    measured = [held | summary(run.scores) for held, run in zip(figures, runs, strict=True)]
    return Row(asked, policy, mode, figures_of(measured), dict(runs[0].held["ledger"]), seeds, measured)
