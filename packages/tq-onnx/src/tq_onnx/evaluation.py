"""Measures what each policy does to a model's predictions on a text, step by step, against the exact cache."""

import hashlib
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

from tq_cache import CachePolicy
from tq_core import InvalidSpec
from tq_onnx import peak_memory
from tq_onnx.bundle import Bundle
from tq_onnx.free_running import agreement
from tq_onnx.inputs import Signature
from tq_onnx.intervals import half_width
from tq_onnx.packed import policies_of, refuse_mixed_forms
from tq_onnx.plan import Plan, plan_of
from tq_onnx.report import Report, versions
from tq_onnx.rows import Row, figures_of
from tq_onnx.runners import Runners
from tq_onnx.scores import joined_windows, summary
from tq_onnx.survey import survey
from tq_onnx.tasks import windows_of
from tq_onnx.teacher_forced import Run, run_group

Progress = Callable[[int, int, str], None]  # steps done, steps in all, what runs now

CUTS: Final = {
    "text": "the text in equal stretches, a window from the start of each",
    "copy": "a stretch of text twice; scored is the second time, from its second token on",
    "needle": "a stretch of another place, hidden in text and begun again at the end; scored is how it goes on",
}


def evaluate(
    bundle: Bundle,
    policies: Sequence[str | CachePolicy] | None = None,
    *,
    text: str | Mapping[str, str],
    task: str = "text",
    tokens: int | None = None,
    windows: int = 8,
    batch: int = 8,
    score_from: int | None = None,
    free_tokens: int = 0,
    seeds: Sequence[int] = (0,),
    mode: str = "reconstruct",
    memory: bool = False,
    backend: str = "auto",
    threads: int | None = None,
    progress: Progress | None = None,
) -> Report:
    """A report with the exact row and one row for each policy, all fed the same tokens, one a step.

    Without policies: those of DEFAULT_POLICIES that the model's dims allow; the report names what was left out.

    `text`, or each of several by name, is cut into `windows` windows of `tokens` tokens (448, or the model's context
    where that is less), evenly over its length; positions `score_from` on are scored (64, or a quarter of shorter
    windows). Task `copy` repeats a stretch of text and `needle` hides one and asks for it at the end: both score what
    is to be recalled, and the report's protocol tells how much of it the exact model gets right without
    (`control_accuracy`). `batch` windows run together, fewer where the exact logits would take too much memory.

    With `free_tokens` every row also goes on by itself for so many tokens from the first `score_from` of each window.
    With `memory` a fresh process for each row tells its peak. Several `seeds` are averaged, each figure with its 95 %
    interval. Everything that can be refused is refused before the first step.
    """
    if mode not in ("reconstruct", "fused"):
        raise InvalidSpec(f"evaluate measures policies in mode 'reconstruct' or 'fused', got {mode!r}")
    if not seeds or len(set(seeds)) != len(seeds):
        raise InvalidSpec(f"seeds must be one or more different numbers, got {list(seeds)}")
    if memory:
        peak_memory.require_measurable()
    refuse_mixed_forms(bundle.signature)
    left_out: dict[str, str] = {}
    if policies is None:
        policies, left_out = survey(bundle.signature)
    texts = {"text": text} if isinstance(text, str) else dict(text)
    cut = windows_of(bundle, texts, task, windows, tokens, score_from)
    resolved = [CachePolicy.parse(policy).resolve(len(bundle.signature.layers)) for policy in policies]
    plan = plan_of(bundle, cut, batch, free_tokens, threads)
    runners = Runners(bundle, resolved, mode, backend, threads, max(plan.steps, plan.score_from + free_tokens))
    for seed in seeds:  # what the model's dims or this machine cannot do fails here
        for index in range(len(resolved)):
            replace(runners, capacity=0).of(index, seed, plan.group)

    exact, seeded = Run(), [_is_seeded(policy, bundle.signature) for policy in resolved]
    runs = {(index, seed): Run() for index in range(len(resolved)) for seed in (seeds if seeded[index] else [0])}
    _measure(runners, plan, exact, runs, progress)
    if memory:
        _weigh(runners, plan, exact, runs)

    rows = [_row("exact", "exact", "exact", [exact], [], exact, plan)]
    for index, policy in enumerate(resolved):
        used = [seed for row, seed in runs if row == index]
        measured = [runs[index, seed] for seed in used]
        rows.append(_row(str(policies[index]), str(policy), mode, measured, used if seeded[index] else [], exact, plan))
    return Report(
        rows=rows,
        bundle=bundle.facts(),
        versions=versions(),
        machine={"architecture": platform.machine(), "logical_cpus": os.cpu_count()},
        text=_told(texts),
        protocol={
            "task": task,
            "windows": len(cut.ids),
            "tokens": int(cut.ids.shape[1]),
            "scored_from": plan.score_from,
            "scored_tokens": len(cut.ids) * plan.scored,
            "batch": plan.group,
            "seeds": list(seeds),
            "free_tokens": free_tokens,
            "left_out": left_out,
            "control_accuracy": _control_accuracy(runners, plan),
            "schedule": "teacher-forced, one token a step; the same steps for every row",
            "cut": CUTS[task],
            "starts_with": bundle.start_token,
        },
    )


def _measure(
    runners: Runners, plan: Plan, exact: Run, runs: Mapping[tuple[int, int], Run], progress: Progress | None
) -> None:
    """Runs every group of windows under the exact cache and under each policy and seed."""
    total, done = (1 + len(runs)) * plan.steps * len(list(plan.groups())), 0

    def tick(label: str) -> Callable[[int], None]:
        return lambda step: progress(done + step, total, label) if progress else None

    for group in plan.groups():
        reference = np.empty((plan.scored, len(group), plan.vocabulary), np.float32)
        runner = runners.exact(len(group))
        run_group(runner, group, plan, exact, reference, tick("exact"), is_reference=True)
        done += plan.steps
        for (index, seed), run in runs.items():
            runner = runners.of(index, seed, len(group))
            run_group(runner, group, plan, run, reference, tick(str(runners.policies[index])))
            done += plan.steps


def _weigh(runners: Runners, plan: Plan, exact: Run, runs: Mapping[tuple[int, int], Run]) -> None:
    """Peak memory of the first group of windows, once for the exact cache and once for each policy."""
    ids = next(plan.groups())[:, :-1]
    exact.memory = runners.peak_of_exact(ids)
    weighed: set[int] = set()
    for (index, seed), run in runs.items():
        if index not in weighed:
            run.memory = runners.peak_of(index, seed, ids)
            weighed.add(index)


def _told(texts: Mapping[str, str]) -> dict[str, Any]:
    """What identifies the texts; of a single one, its own hash."""
    told = [
        {"name": name, "sha256": hashlib.sha256(text.encode()).hexdigest(), "characters": len(text)}
        for name, text in texts.items()
    ]
    return {"sha256": told[0]["sha256"], "characters": told[0]["characters"]} if len(told) == 1 else {"texts": told}


def _control_accuracy(runners: Runners, plan: Plan) -> float | None:
    """Share of the scored tokens that the exact model ranks first where nothing is there to recall them from."""
    hits: list[Any] = []
    for group in plan.controls():
        runner = runners.exact(len(group))
        for position in range(plan.steps):
            best = runner.step(group[:, position : position + 1])[:, 0].argmax(axis=-1)
            if position + 1 >= plan.score_from:
                hits.append(best == group[:, position + 1])
    return float(np.concatenate(hits).mean()) if hits else None


def _is_seeded(policy: CachePolicy, signature: Signature) -> bool:
    """Whether random bits enter the codes of any layer or head; floats and plain rounding have none."""
    sides = (side for one in policies_of(policy, signature) for side in (one.keys, one.values))
    return any(store.kind not in ("int", "absmax", "float") for side in sides for store in side.parts)


def _row(asked: str, policy: str, mode: str, runs: Sequence[Run], seeds: list[int], exact: Run, plan: Plan) -> Row:
    measured: list[dict[str, Any]] = []
    for run in runs:
        figures = {name: value for name, value in run.held.items() if name != "ledger"} | summary(run.scores)
        if plan.free_tokens:
            figures |= agreement(np.concatenate(exact.continued), np.concatenate(run.continued))
        measured.append(figures)
    means = figures_of(measured) | {"kl_ci95": half_width([figures["kl_mean"] for figures in measured])}
    means |= runs[0].memory
    names = dict.fromkeys(plan.windows.texts)
    by_text: dict[str, Mapping[str, Any]] = {}
    if len(names) > 1:
        for name in names:
            chosen = np.array([text == name for text in plan.windows.texts])
            by_text[name] = figures_of([summary([joined_windows(run.scores, chosen)]) for run in runs])
    return Row(asked, policy, mode, means, dict(runs[0].held["ledger"]), seeds, measured, by_text)
