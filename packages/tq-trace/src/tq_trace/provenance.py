"""Versions and machine of a report."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

MEASURED_WITH: Final = ("numpy", "tq-core", "tq-cache", "tq-trace", "tq-kernels-simd", "faiss-cpu")


def versions() -> dict[str, str]:
    """Versions of everything that the figures depend on, where installed."""
    found = {"python": platform.python_version()}
    for name in MEASURED_WITH:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """What the times were measured on."""
    return {"processor": processor(), "cores": os.cpu_count(), "system": f"{platform.system()} {platform.machine()}"}


def processor() -> str:
    """The processor's name as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"
