"""What the README says of itself: its Python block runs, and its tables have what the package has."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import tq_kernels_gpu
from tq_kernels_gpu.backend import GpuBackend

README = Path(__file__).parents[1] / "README.md"


@pytest.fixture(scope="module")
def text():
    if not README.exists():
        pytest.skip("the tests were copied away from their README")
    return README.read_text()


def test_the_python_block_runs_with_or_without_a_device(text):
    [block] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    done = subprocess.run([sys.executable, "-c", block], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_every_operation_of_the_backend_has_a_row(text):
    table = text.split("| operation | plans |")[1].split("\n\n")[0]
    listed = set(re.findall(r"`(\w+)`", " ".join(line.split("|")[1] for line in table.splitlines()[2:])))
    operations = {name for name in vars(GpuBackend) if not name.startswith("_")} - {"name", "api_version", "on_device"}
    assert listed == operations


def test_the_package_exports_its_loader_alone():
    assert tq_kernels_gpu.__all__ == ["load"]
