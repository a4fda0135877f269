"""Replay: every method answers the queries of a trace as a decoder would have asked them, beside the exact answers."""

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final

import numpy as np
from threadpoolctl import threadpool_limits

from tq_cache import CachePolicy
from tq_core import InvalidSpec
from tq_trace import catalogue, timing
from tq_trace.answers import Answers, answer
from tq_trace.figures import Figures, Gathered, along_positions, figures_of
from tq_trace.methods import Method, Setting
from tq_trace.provenance import machine, versions
from tq_trace.report import Report, Row
from tq_trace.task import Task, count, tasks
from tq_trace.trace import KvTrace
from tq_trace.trace_set import TraceSet

Progress = Callable[[int, int, str], None]
"""Called with (done, total, label)."""

WORKERS: Final = min(2, os.cpu_count() or 1)
"""Layers answered at a time; each holds a layer's arrays several times over."""

TOP_K: Final = 5


def replay(
    trace: KvTrace | TraceSet,
    policies: Sequence[str | CachePolicy] = catalogue.POLICIES,
    *,
    baselines: Sequence[str] | None = None,
    top_k: int = TOP_K,
    queries: int = 0,
    from_position: int = 0,
    seed: int = 0,
    backend: str = "auto",
    times: bool = True,
    progress: Progress | None = None,
) -> Report:
    """Errors, bytes and times of each policy on a trace, beside exact attention and the baselines, in one report.

    `policies`: strings or presets of tq_cache, or names of baselines. `baselines`: what else to show, by default plain
    integers, KIVI and, where installed, faiss. `queries` > 0 takes so many of each sample's queries, evenly;
    `from_position` leaves earlier ones out, where there are later ones. `backend` is that of tq_core.
    Nothing but `times` and `machine` differs between two runs.
    Raises InvalidPolicy or PolicyMismatch for policies, BackendUnavailable for backends, InvalidSpec for the rest, and
    NotFinite where the trace holds what is not.
    """
    traces = trace if isinstance(trace, TraceSet) else TraceSet([trace])
    for name, value, least in (("top_k", top_k, 1), ("queries", queries, 0), ("from_position", from_position, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InvalidSpec(f"{name} is a whole number, {least} or more, got {value!r:.40}")
    dtypes = {one.dtypes[name] for one in traces for name in ("keys", "values")}
    setting = Setting(seed, backend, traces.model_layers, "float16" if dtypes == {"float16"} else "float32")
    asked = ["exact", *map(str, policies), *(catalogue.yardsticks() if baselines is None else baselines)]
    methods: dict[str, tuple[str, Method]] = {}
    for name in asked:
        method = catalogue.method_of(name, setting)
        methods.setdefault(method.name, (name, method))
    by_name = {name: method for name, (_, method) in methods.items()}
    table = _Table(by_name)
    total = count(traces)
    names_heads = any(".head" in name for name in by_name)  # then a cache has to hold all heads of its layer
    chosen = tasks(traces, queries, from_position, is_divided=not names_heads)
    for done, answers in enumerate(_in_turn(lambda task: answer(by_name, task, top_k), chosen), 1):
        table.add(answers)
        if progress:
            progress(done, max(done, total), f"layer {answers.task.layer}")
    rows = tuple(table.row(method, given, traces) for given, method in methods.values())
    found: Mapping[str, Any] = {}
    if times:
        if progress:
            progress(total, total, "timing")
        found = timing.times([method for _, method in methods.values()], next(tasks(traces)))
    return Report(
        trace=facts(traces),
        protocol={
            "queries": table.queries,
            "from_position": from_position,
            "top_k": top_k,
            "seed": seed,
            "model_layers": setting.layers,
            "backends": sorted({method.backend for _, method in methods.values()}),
        },
        rows=rows,
        versions=versions(),
        times=found,
        machine=machine(),
        skipped=()
        if baselines is not None or len(catalogue.yardsticks()) > len(catalogue.BASELINES)
        else ("faiss rows: faiss-cpu is not installed",),
    )


def _in_turn(work: Callable[[Task], Answers], given: Iterator[Task]) -> Iterator[Answers]:
    """Results in the order of tasks, WORKERS of them computed at a time; no task is loaded before its turn."""
    # BLAS with threads of its own, in each of ours, spends most of its time waiting for the others
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(WORKERS) as pool:
        waiting: deque[Future[Answers]] = deque()
        try:
            for task in given:
                waiting.append(pool.submit(work, task))
                if len(waiting) > WORKERS:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def facts(traces: TraceSet) -> dict[str, Any]:
    """What a report says about a trace."""
    first = next(iter(traces))
    is_synthetic = first.suite == "synthetic"
    return {
        "kind": "synthetic trace" if is_synthetic else "trace",
        "model": traces.model,
        "benchmark": traces.benchmark,
        "suite": traces.suite,
        "layers": len(traces.layers),
        "heads": len(traces),
        "samples": max(map(len, traces)),
        "tokens": max(one.tokens for one in traces),
        "head_dim": first.head_dim,
        "value_dim": first.value_dim,
        "dtypes": sorted({one.dtypes[name] for one in traces for name in ("keys", "values")}),
        "fingerprint": traces.fingerprint(),
    }


class _Table:
    """All methods' errors so far."""

    def __init__(self, methods: Mapping[str, Method]) -> None:
        self.methods = methods
        self.gathered: dict[str, dict[tuple[int, int | None], Gathered]] = {name: {} for name in methods}
        self.ledgers: dict[str, dict[str, int]] = {name: {} for name in methods}
        self.bytes_of: dict[str, dict[tuple[int, int | None], float]] = {name: {} for name in methods}
        self.queries = 0

    def add(self, answers: Answers) -> None:
        """Take in a task; the order of tasks decides the last bits of sums."""
        task = answers.task
        places = [(task.layer, head) for head in task.heads]
        self.queries += len(task.positions) * len(places)
        for name in self.methods:
            for head, place in enumerate(places):
                gathered = self.gathered[name].setdefault(place, Gathered())
                for errors, positions in zip(answers.errors[name], answers.positions, strict=True):
                    gathered.add(errors, head, positions)
                for side, (error, power) in answers.vectors[name].items():
                    gathered.add_vectors(side, float(error[head]), float(power[head]))
            self._count(name, answers.ledgers[name], places)

    def _count(self, name: str, ledger: Mapping[str, int], places: list[tuple[int, int | None]]) -> None:
        held = self.ledgers[name]
        for item, size in ledger.items():
            # tables are those of the whole model in every task: the same ones
            held[item] = max(held.get(item, 0), size) if item == "tables" else held.get(item, 0) + size
        own = sum(size for item, size in ledger.items() if item != "tables")
        for place in places:
            self.bytes_of[name][place] = self.bytes_of[name].get(place, 0) + own / len(places)

    def row(self, method: Method, asked: str, traces: TraceSet) -> Row:
        """The finished row of a method."""
        gathered, ledger = self.gathered[method.name], self.ledgers[method.name]
        numbers = sum(len(one) * one.tokens * (one.head_dim + one.value_dim) for one in traces)
        everything = sum(ledger.values())
        return Row(
            policy=method.name,
            asked=asked,
            kind=method.kind,
            figures=_checked(figures_of(list(gathered.values()))),
            ledger=ledger,
            cache_bytes=everything,
            float16_bytes=2 * numbers,
            bits_per_value=8 * (everything - ledger.get("tables", 0)) / numbers,
            heads=[
                {"layer": place[0], "head": place[1], "bytes": self.bytes_of[method.name][place]}
                | _checked(figures_of([one]))
                for place, one in sorted(gathered.items(), key=lambda item: (item[0][0], item[0][1] or 0))
            ],
            along=along_positions(list(gathered.values()), max(one.tokens for one in traces)),
        )


def _checked(figures: Figures) -> dict[str, Any]:
    """Plain values; what float64 cannot hold is absent."""
    return {
        name: None if isinstance(value, float) and not np.isfinite(value) else value
        for name, value in figures.to_dict().items()
    }
