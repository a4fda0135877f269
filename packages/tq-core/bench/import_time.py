"""What `import tq_core` costs beyond `import numpy`: CPU time over child processes, in turns.

Example:  uv run --all-packages python packages/tq-core/bench/import_time.py --turns 15
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

from machine import describe

HERE = Path(__file__).resolve().parent
BAR_MS = 150.0
# children measure themselves: starting the interpreter is nobody's import
CHILD = "import time; s = time.process_time_ns(); import numpy; {extra}print(time.process_time_ns() - s)"
STATEMENTS = {"numpy": "", "numpy and tq_core": "import tq_core; "}


def child_ms(extra: str) -> float:
    """CPU milliseconds of the imports in one fresh interpreter."""
    command = [sys.executable, "-c", CHILD.format(extra=extra)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout) / 1e6


def main() -> int:
    """0 when the bar is met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=15, help="child processes of each kind (default 15)")
    parser.add_argument("--json", type=Path, default=HERE / "results" / "import_time.json", metavar="FILE")
    options = parser.parse_args()
    for extra in STATEMENTS.values():  # compiled bytecode and the file cache are warm from here on
        child_ms(extra)
    times: dict[str, list[float]] = {name: [] for name in STATEMENTS}
    for _ in range(options.turns):
        for name, extra in STATEMENTS.items():
            times[name].append(child_ms(extra))
    medians = {name: statistics.median(found) for name, found in times.items()}
    beyond = statistics.median(
        both - alone for alone, both in zip(times["numpy"], times["numpy and tq_core"], strict=True)
    )
    for name, found in times.items():
        print(f"{name:<18} {medians[name]:7.1f} ms   ({min(found):.1f} .. {max(found):.1f})")
    print(f"{'beyond numpy':<18} {beyond:7.1f} ms   bar {BAR_MS:g} ms: {'met' if beyond <= BAR_MS else 'MISSED'}")
    document = {
        **describe(),
        "turns": options.turns,
        "unit": "milliseconds of CPU, median",
        "times": {name: round(value, 2) for name, value in medians.items()},
        "beyond_numpy": round(beyond, 2),
        "bar": BAR_MS,
    }
    options.json.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    return 0 if beyond <= BAR_MS else 1


if __name__ == "__main__":
    sys.exit(main())
