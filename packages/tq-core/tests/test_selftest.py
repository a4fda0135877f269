"""`python -m tq_core`: what it prints and how it exits, in a child process as a user runs it."""

import os
import subprocess
import sys

import pytest

BROKEN_DIGEST = """
import runpy, sys, tq_core
from tq_core import golden
tq_core.backends = lambda: {"numpy": "ok"}
shipped = golden.digests()
golden.digests = lambda: {**shipped, "mse-64-4": "0" * 64}
sys.argv = ["tq_core", "selftest"]
runpy.run_module("tq_core", run_name="__main__")
"""

BROKEN_BACKEND = """
import runpy, sys, tq_core
from tq_core import numpy_backend
tq_core.backends = lambda: {"numpy": "ok"}
from tq_core.numpy_backend import NumpyBackend
class Wrong(NumpyBackend):
    def scores(self, *arguments):
        return super().scores(*arguments) * 2
numpy_backend.load = Wrong
sys.argv = ["tq_core", "selftest"]
runpy.run_module("tq_core", run_name="__main__")
"""


def run(*arguments, **environment):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TQ_")}
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={**kept, **environment},
        check=False,
    )


def test_selftest_passes_here():
    done = run("-m", "tq_core", "selftest")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("tq-core 0.")
    assert "format 1" in lines[0]
    assert any(line.startswith("  numpy    ok") for line in lines)
    assert any(line.startswith("  scalar   ok") for line in lines)
    assert lines[-1] == "all checks passed"
    assert done.stderr == ""


def test_a_wrong_digest_fails_the_selftest():
    done = run("-c", BROKEN_DIGEST)
    assert done.returncode == 1
    assert "numpy    golden codes differ: mse-64-4" in done.stdout
    assert done.stdout.splitlines()[-1] == "FAILED"
    assert done.stderr == ""


def test_a_wrong_backend_fails_the_selftest_even_without_asserts():
    done = run("-O", "-c", BROKEN_BACKEND)
    assert done.returncode == 1
    assert "numpy    disagrees with the reference: scores: off by" in done.stdout
    assert done.stdout.splitlines()[-1] == "FAILED"


def test_report_prints_who_runs_what():
    done = run("-m", "tq_core", "report", TQ_BACKEND="numpy")
    assert done.returncode == 0
    assert done.stdout.startswith("auto resolves to 'numpy': TQ_BACKEND=numpy says so\n")
    assert "  encode         numpy" in done.stdout


@pytest.mark.parametrize("arguments", [(), ("unknown",), ("selftest", "--fast")])
def test_bad_arguments_exit_2_with_usage(arguments):
    done = run("-m", "tq_core", *arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "usage: python -m tq_core" in done.stderr
    assert "Traceback" not in done.stderr
