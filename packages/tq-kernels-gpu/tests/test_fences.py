"""No kernel reads or writes outside the arrays that it is given, or at an address that its loads cannot have.

Pages without access lie on either side of the arrays, and a sanitizer looks at addresses.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
SCRIPT = TESTS / "shim" / "run_fenced.py"
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="pages are protected by Linux's mprotect")


def _run(side, what):
    command = [sys.executable, str(SCRIPT), side, what]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS / "shim")])}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.mark.parametrize("side", ["behind", "before"])
def test_every_operation_stays_within_its_arrays(shim, side):
    done = _run(side, "run")
    assert done.returncode == 0, f"{done.stdout[-300:]}\n{done.stderr}"
    assert done.stdout.endswith("all operations\n")


@pytest.mark.parametrize("side", ["behind", "before"])
def test_what_touches_a_fence_ends(shim, side):
    done = _run(side, "touch")
    assert done.returncode < 0
    assert "Segmentation fault" in done.stderr


def test_a_load_from_a_misaligned_address_ends(shim):
    done = _run("behind", "misalign")
    assert done.returncode != 0
    assert "load of misaligned address" in done.stderr
