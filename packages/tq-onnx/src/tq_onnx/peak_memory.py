"""Peak memory of a decode in each mode, in a process of its own: `python -m tq_onnx.peak_child`."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tq_core import InvalidSpec
from tq_onnx.bundle import Bundle
from tq_onnx.errors import StepFailed, one_line

Ids = NDArray[np.int64]

STATUS: Final = Path("/proc/self/status")


def require_measurable() -> None:
    """InvalidSpec where the system does not tell peaks of memory."""
    if not STATUS.exists():
        raise InvalidSpec(f"peak memory is read from Linux's {STATUS}, which {sys.platform} lacks; leave it out")


def peak_memory(
    bundle: Bundle,
    tokens: Ids,
    policy: str | None,
    mode: str,
    *,
    seed: int = 0,
    threads: int | None = None,
    backend: str = "auto",
) -> dict[str, int]:
    """Decodes tokens (rows, length) one a step in a fresh process: bytes of resident memory.

    `peak_bytes`: the most while it decoded; `growth_bytes`: that beyond what the loaded model held before its first
    token. Memory of a Python process moves by a few hundred kilobytes from run to run.
    """
    require_measurable()
    task = {
        "folder": str(bundle.folder),
        "variant": bundle.variant,
        "tokens": tokens.tolist(),
        "policy": policy,
        "mode": mode,
        "seed": seed,
        "threads": bundle.threads if threads is None else threads,
        "backend": backend,
    }
    # -P: modules must not come from the working directory, which may be a bundle of a stranger
    child = subprocess.run(
        [sys.executable, "-P", "-m", "tq_onnx.peak_child"],
        input=json.dumps(task),
        capture_output=True,
        text=True,
        check=False,
    )
    if child.returncode:
        last = (child.stderr.strip() or f"exit status {child.returncode}").splitlines()[-1]
        raise StepFailed(f"the process that measures memory failed: {one_line(RuntimeError(last))}")
    found: dict[str, int] = json.loads(child.stdout)
    return found
