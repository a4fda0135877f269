"""Child processes: the level is chosen when the module is imported, so that each level needs a process of its own.

A test file with checks for every level is also the program of their children: it hands its checks to `main`.
"""

import os
import signal
import subprocess
import sys

import pytest

from tq_kernels_simd import _simd

LEVELS = [name for name, state in _simd.levels().items() if state == "ok"]  # those that run here
OTHER_LEVELS = [name for name in LEVELS if name != _simd.level()]


def python(*arguments, status=0, timeout=1200, **environment):
    """What a child Python prints; fails with the signal's name if it was killed, and unless it exits with `status`.

    None removes a variable. TQ_ISA, TQ_BACKEND and TQ_THREADS are unset unless given.
    """
    settings = {"TQ_ISA": None, "TQ_BACKEND": None, "TQ_THREADS": None, **environment}
    env = {name: value for name, value in {**os.environ, **settings}.items() if value is not None}
    command = [sys.executable, "-W", "error", *map(str, arguments)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=timeout, check=False)
    said = f"with {settings}: {done.stdout}{done.stderr}"
    if done.returncode < 0:
        pytest.fail(f"the child died of {signal.Signals(-done.returncode).name} {said}")
    assert done.returncode == status, f"exit status {done.returncode} {said}"
    return done.stdout


def in_child(code, *arguments, **options):
    """What the code prints, run by `python` with its options."""
    return python("-c", code, *arguments, **options)


def main(checks):
    """The child's part of `passes_at`: the check that the command line names, then the level."""
    checks[sys.argv[1]]()
    sys.stdout.write(_simd.level())


def passes_at(level, file, check):
    """Whether a check of the file passes in a child at the level; what it says if it does not is in the failure."""
    return python(file, check, TQ_ISA=level) == level


def rerun(file, level):
    """Run the tests of the file again in a child at the level, but those named `every`, which start children."""
    python("-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", file, "-k", "not every", TQ_ISA=level)
