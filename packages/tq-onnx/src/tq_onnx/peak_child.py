"""The process whose memory `peak_memory` tells: a task as JSON in, bytes as JSON out."""

import json
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np

from tq_onnx.bundle import Bundle
from tq_onnx.peak_memory import STATUS
from tq_onnx.runner import DecoderRunner

CLEAR: Final = Path("/proc/self/clear_refs")


def decode(task: dict[str, Any]) -> dict[str, int]:
    """The child's work."""
    bundle = Bundle.open(Path(task["folder"]), variant=task["variant"], threads=task["threads"])
    ids = np.array(task["tokens"], np.int64)
    runner = DecoderRunner(
        bundle,
        task["policy"],
        task["mode"],
        batch=len(ids),
        capacity=ids.shape[1],
        seed=task["seed"],
        threads=task["threads"],
        backend=task["backend"],
    )
    CLEAR.write_text("5")  # the peak from here on: loading a model takes more than it needs afterwards
    before = resident("VmRSS")
    for position in range(ids.shape[1]):
        runner.step(ids[:, position : position + 1])
    peak = resident("VmHWM")
    return {"peak_bytes": peak, "growth_bytes": peak - before}


def resident(name: str) -> int:
    """Bytes under that name in this process's status."""
    (line,) = (line for line in STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    json.dump(decode(json.load(sys.stdin)), sys.stdout)
