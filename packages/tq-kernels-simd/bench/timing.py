"""Interleaved CPU times in one process, with what is needed to read them: median, spread, machine, level, commit."""

import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tq_kernels_simd import _simd


class Times(dict[str, list[int]]):
    """Nanoseconds of CPU (all threads of the process) of each call, by case."""

    def median(self, name: str) -> float:
        """The middle one, in ns."""
        return statistics.median(self[name])

    def spread(self, name: str) -> float:
        """Distance of the quartiles relative to the median."""
        low, _, high = statistics.quantiles(self[name], n=4)
        return (high - low) / self.median(name)


def interleaved(cases: Mapping[str, Callable[[], Any]], repeats: int) -> Times:
    """Each case once to warm up, then `repeats` rounds of all in turn, so that a busy machine slows all alike."""
    for run in cases.values():
        run()
    times = Times({name: [] for name in cases})
    for _ in range(repeats):
        for name, run in cases.items():
            start = time.process_time_ns()
            run()
            times[name].append(time.process_time_ns() - start)
    return times


def environment() -> dict[str, str]:
    """Machine, level, versions and commit of a run."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "machine": _processor(),
        "level": _simd.level(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "commit": commit.stdout.strip() or "unknown",
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    named = {line.split(":")[0].strip(): line.split(":")[1].strip() for line in lines if ":" in line}
    return f"{named.get('model name', platform.machine())} family {named.get('cpu family')} model {named.get('model')}"


def save(rows: list[dict[str, Any]], path: str | None) -> None:
    """Print rows as a table and write them, with the environment, as JSON."""
    facts = environment()
    print(*(f"{key}: {value}" for key, value in facts.items()), sep="\n", file=sys.stderr)
    for row in rows:
        print(
            "  ".join(
                f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}" for key, value in row.items()
            )
        )
    if path:
        Path(path).write_text(json.dumps({"environment": facts, "rows": rows}, indent=1) + "\n")
