"""What every result file says about where it came from."""

import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


def describe() -> dict[str, Any]:
    """Command, commit, versions and processor, as the first keys of a result file."""
    return {
        "command": command_line(),
        "commit": commit(),
        "tq_core": version("tq-core"),
        "python": platform.python_version(),
        "numpy": version("numpy"),
        "processor": processor(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def command_line() -> str:
    """The command as typed from the root of the repository, without the interpreter's place."""
    script = Path(sys.argv[0]).resolve()
    root = HERE.parents[2]
    name = script.relative_to(root) if script.is_relative_to(root) else Path(script.name)
    return " ".join(["uv run --all-packages python", name.as_posix(), *sys.argv[1:]])


def commit() -> str:
    """The checked-out commit, with "+" when files of this package differ from it."""
    try:
        found = subprocess.run(
            ["git", "rev-parse", "--short=12", "HEAD"], cwd=HERE, capture_output=True, text=True, check=True
        ).stdout.strip()
        changed = subprocess.run(
            ["git", "status", "--porcelain", "--", "../src"], cwd=HERE, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found + ("+" if changed else "")


def processor() -> str:
    """The processor's name as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"
