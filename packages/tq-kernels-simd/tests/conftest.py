"""Child processes: the level is chosen when the module is imported, so each level needs a process of its own."""

import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def in_child():
    """in_child(code, NAME=value, ...) -> standard output; fails with the signal's name if the child was killed.

    None removes a variable. TQ_ISA, TQ_BACKEND and TQ_THREADS are unset unless given. `status` is the exit status
    that is expected.
    """

    def run(code, *arguments, status=0, timeout=120, **environment):
        settings = {"TQ_ISA": None, "TQ_BACKEND": None, "TQ_THREADS": None, **environment}
        env = {name: value for name, value in {**os.environ, **settings}.items() if value is not None}
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", code, *map(str, arguments)],
            env=env,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if done.returncode < 0:
            pytest.fail(f"the child died of {signal.Signals(-done.returncode).name} with {settings}: {done.stderr}")
        assert done.returncode == status, f"exit status {done.returncode} with {settings}: {done.stderr}"
        return done.stdout

    return run


@pytest.fixture(scope="session")
def calls():
    """The module calls.py beside this file, found by path so that the tests run anywhere."""
    path = Path(__file__).with_name("calls.py")
    spec = importlib.util.spec_from_file_location("tq_kernels_simd_calls", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
