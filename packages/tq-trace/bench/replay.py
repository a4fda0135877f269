"""Seconds and memory of a whole replay: 8 layers of 8 heads, 4,096 tokens, 64 queries a head, 7 policies.

The trace is written to a file first and mapped, as a user's is. `seconds` is wall time of `replay`, `cpu_seconds` that
of all its threads, `peak_mib` the largest resident size of the process, mapped pages of the trace included. The bars
are 60 s on two cores with the backend simd, and 2,000 MiB. BLAS is left as it comes: a replay limits it itself. With
`--baselines` the yardsticks are replayed as well.

Example:  uv run --all-packages python packages/tq-trace/bench/replay.py
          uv run --all-packages python packages/tq-trace/bench/replay.py --layers 2 --tokens 1024 --json small.json
"""

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parents[1] / "tq-core" / "bench"))  # `machine`, which says where a result came from

# E402: imports come after the path that the first of them needs.
from machine import describe  # noqa: E402
from rich.console import Console  # noqa: E402

from tq_trace import TraceSet, replay, synthetic  # noqa: E402
from tq_trace.catalogue import POLICIES  # noqa: E402

BARS = {"seconds": 60.0, "peak_mib": 2000.0}


def run(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """One replay, timed."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.safetensors"
        synthetic(
            "llama-3-8b",
            layers=options.layers,
            kv_heads=options.heads,
            query_groups=1,
            tokens=options.tokens,
            query_count=options.queries,
        ).save(path)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        traces = TraceSet.open(path)
        started, cpu = time.perf_counter(), time.process_time()
        report = replay(
            traces,
            (*POLICIES, "k=trellis4,v=trellis4"),
            baselines=None if options.baselines else (),
            backend=options.backend,
            progress=lambda done, total, label: console.print(f"{done}/{total} {label}", highlight=False),
        )
        found = {
            "seconds": time.perf_counter() - started,
            "cpu_seconds": time.process_time() - cpu,
            "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "peak_before_mib": before,
            "load": os.getloadavg()[0],
        }
    return {
        "describe": describe(),
        "shape": {name: getattr(options, name) for name in ("layers", "heads", "tokens", "queries")},
        "policies": [row.policy for row in report.rows],
        "backends": report.protocol["backends"],
        "bars": BARS,
        "result": found,
        "figures": {
            row.policy: {"kl_mean": row["kl_mean"], "output_error": row["output_error"]} for row in report.rows
        },
    }


def main() -> None:
    """Parse, run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--queries", type=int, default=64)
    parser.add_argument("--backend", default="simd")
    parser.add_argument("--baselines", action="store_true")
    parser.add_argument("--json", type=Path, default=HERE / "results" / "replay.json")
    options = parser.parse_args()
    console = Console(stderr=True)
    found = run(options, console)
    for name, value in found["result"].items():
        print(f"{name:>16} {value:10.1f}" + (f"   bar {BARS[name]:g}" if name in BARS else ""))
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
