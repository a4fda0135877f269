"""The synthetic benchmark: speed and distortion of every quantizer, width, dim and backend on random unit vectors."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

import tq_core
from tq_core import BackendUnavailable, InvalidBitWidth, InvalidDimension
from tq_trace.document import Column, Document, Sheet, plain, signed, small, whole
from tq_trace.provenance import machine, versions

F32 = NDArray[np.float32]

QUANTIZERS: Final = ("TurboQuantMSE", "TurboQuantProd", "PolarQuant", "TrellisQuant")
"""Those that tq_core has are measured."""


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    dims: Sequence[int]
    bits: Sequence[int | float]
    rows: int
    turns: int


QUICK: Final = Size((128,), (2, 4, 8), 1024, 3)
FULL: Final = Size((64, 80, 96, 128, 256, 768), (1, 2, 2.25, 2.5, 3, 3.25, 3.5, 4, 5, 6, 7, 8), 4096, 5)
SCALAR_ROWS: Final = 64  # the oracle is interpreted or compiled Python: a few rows tell its speed
QUERIES: Final = 16

COLUMNS: Final = (
    Column("quantizer", "quantizer", str, True),
    Column("dim", "dim", whole),
    Column("bits", "bits", str),
    Column("backend", "backend", str, True),
    Column("bits_per_vector", "bits/vector", whole),
    Column("mse", "distortion", small),
    Column("theory", "theory", small),
    Column("mse_excess", "above", signed),
    Column("product_bias", "bias of q.x", signed),
    Column("encode_ns", "encode ns", plain(2)),
    Column("decode_ns", "decode ns", plain(2)),
    Column("score_ns", "score ns", plain(3)),
    Column("vectors_per_second", "vectors/s", whole),
)


@dataclass(frozen=True)
class Surface:
    """Cells of the benchmark; figures that are times are in `times` alone."""

    cells: Sequence[dict[str, Any]]
    times: Sequence[dict[str, Any]]
    skipped: Sequence[str]
    size: Size
    seed: int
    versions: dict[str, str] = field(default_factory=versions)
    machine: dict[str, Any] = field(default_factory=machine)

    def to_dict(self) -> dict[str, Any]:
        """Plain data; all but `times` and `machine` is the same in every run."""
        return {
            "kind": "synthetic benchmark",
            "protocol": {
                "rows": self.size.rows,
                "scalar_rows": SCALAR_ROWS,
                "queries": QUERIES,
                "turns": self.size.turns,
                "seed": self.seed,
                "unit": "CPU ns a coordinate; score: a coordinate of each pair of query and row; medians",
            },
            "versions": self.versions,
            "skipped": list(self.skipped),
            "cells": [dict(cell) for cell in self.cells],
            "times": [dict(cell) for cell in self.times],
            "machine": self.machine,
        }

    def view(self) -> Document:
        """The surface as a document of one table."""
        rows = [cell | time for cell, time in zip(self.cells, self.times, strict=True)]
        heading = f"synthetic benchmark: random unit vectors, {self.size.rows:,} rows, seed {self.seed}; no real data"
        notes = [
            "distortion: mean squared error of a unit vector; theory: what the quantizer's own law predicts for it; "
            "above: measured over predicted, less 1. bias: slope of estimated on exact inner products, less 1.",
            "ns: CPU nanoseconds a coordinate (score: of each pair of query and row), medians; vectors/s: encoding.",
            *(f"Not measured: {reason}." for reason in self.skipped),
        ]
        return Document("tq-trace bench", heading, [Sheet("", COLUMNS, rows)], self.to_dict(), notes)


def bench(
    size: Size = QUICK,
    *,
    backends: Sequence[str] = (),
    seed: int = 0,
    progress: Callable[[int, int, str], None] | None = None,
) -> Surface:
    """Measure; `backends` defaults to all that run here. Raises BackendUnavailable for one that does not."""
    chosen = list(backends) or _running()
    plan = list(_plan(size, chosen, seed))
    cells, times, skipped = [], [], []
    for done, (name, dim, bits, backend) in enumerate(plan):
        if progress:
            progress(done, len(plan), f"{name} {dim}x{bits} {backend}")
        try:
            quantizer = getattr(tq_core, name)(dim, bits, seed=seed, backend=backend)
        except (InvalidBitWidth, InvalidDimension, TypeError) as error:
            skipped.append(f"{name} of dim {dim} and {bits} bits: {str(error).splitlines()[0]}")
            continue
        rows = min(size.rows, SCALAR_ROWS) if backend == "scalar" else size.rows
        figures, taken = _cell(quantizer, _unit_rows(rows, dim, seed), _unit_rows(QUERIES, dim, seed + 1), size.turns)
        place = {"quantizer": name, "dim": dim, "bits": bits, "backend": backend, "rows": rows}
        cells.append(place | figures)
        times.append(taken)
    return Surface(cells, times, list(dict.fromkeys(skipped)), size, seed)


def _running() -> list[str]:
    return sorted(name for name, trouble in tq_core.backends().items() if trouble == "ok")


def _plan(size: Size, backends: Sequence[str], seed: int) -> Iterator[tuple[str, int, int | float, str]]:
    for backend in backends:
        if backend not in tq_core.backends():
            raise BackendUnavailable(backend, "there is no such backend", f"known: {', '.join(tq_core.backends())}")
        tq_core.TurboQuantMSE(size.dims[0], 4, seed=seed, backend=backend)  # raises where it cannot run
    for name in QUANTIZERS:
        if hasattr(tq_core, name):
            for dim in size.dims:
                for bits in size.bits:
                    for backend in backends:
                        yield name, dim, bits, backend


def _cell(quantizer: Any, rows: F32, queries: F32, turns: int) -> tuple[dict[str, Any], dict[str, Any]]:
    codes = quantizer.quantize(rows)
    decoded = quantizer.dequantize(codes).astype(np.float64)
    scores = quantizer.scores(codes, queries).astype(np.float64)
    exact = queries.astype(np.float64) @ rows.astype(np.float64).T
    mse = float(np.square(decoded - rows).sum(axis=1).mean())
    theory = float(quantizer.expected_mse)
    calls: dict[str, tuple[Callable[[], Any], int]] = {
        "encode_ns": (lambda: quantizer.quantize(rows), rows.size),
        "decode_ns": (lambda: quantizer.dequantize(codes), rows.size),
        "score_ns": (lambda: quantizer.scores(codes, queries), rows.size * len(queries)),
    }
    taken = {name: _nanoseconds(call, turns) / size for name, (call, size) in calls.items()}
    figures = {
        "bits_per_vector": float(quantizer.bits_per_vector),
        "mse": mse,
        "theory": theory,
        "mse_excess": mse / theory - 1,
        "product_bias": float((scores * exact).sum() / (exact * exact).sum()) - 1,
    }
    return figures, taken | {"vectors_per_second": 1e9 / (taken["encode_ns"] * rows.shape[1])}


def _nanoseconds(call: Callable[[], Any], turns: int) -> float:
    """Median CPU time of a call that has run once before; short ones are repeated until a clock can see them."""
    repeats, spent = 1, 0.0
    while True:
        started = time.process_time()
        for _ in range(repeats):
            call()
        spent = time.process_time() - started
        if spent >= 0.002 or repeats >= 256:
            break
        repeats *= 4
    runs = [spent / repeats]
    for _ in range(turns - 1):
        started = time.process_time()
        for _ in range(repeats):
            call()
        runs.append((time.process_time() - started) / repeats)
    return statistics.median(runs) * 1e9


def _unit_rows(rows: int, dim: int, seed: int) -> F32:
    x = np.random.default_rng(seed).standard_normal((rows, dim))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return x.astype(np.float32)
