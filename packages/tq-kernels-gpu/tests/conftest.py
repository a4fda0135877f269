"""`device`: every test that takes it runs twice, its logic on the CPU and, where there is one, on the GPU."""

import importlib
import sys
from collections import Counter
from pathlib import Path

import pytest

from tq_core.errors import BackendUnavailable
from tq_kernels_gpu.cupy_device import CupyDevice

# --import-mode=importlib leaves sys.path alone; this also works where the tests were copied away from the repository
HERE = Path(__file__).parent
sys.path += [str(HERE), str(HERE / "shim"), str(HERE / "compiling")]


@pytest.fixture(scope="session")
def shim():
    """The module tests/shim/shim_device.py, or a skip without a C++ compiler."""
    shim_device = importlib.import_module("shim_device")
    if shim_device.compiler() is None:
        pytest.skip("g++ is not installed: kernels cannot be run on the CPU")
    return shim_device


@pytest.fixture(scope="session")
def cpu(shim):
    """The device that runs kernels on the CPU, upon arrays as strict as cupy's: no hidden transfer passes."""
    return importlib.import_module("strict_shim").StrictShim()


@pytest.fixture(scope="session")
def gpu():
    """The real device, or a skip with the reason."""
    try:
        return CupyDevice.current()
    except BackendUnavailable as error:
        pytest.skip(f"nothing ran on a GPU: {error.reason}")


@pytest.fixture(scope="session")
def compilers():
    """The module tests/compiling/compilers.py."""
    return importlib.import_module("compilers")


@pytest.fixture(scope="session")
def compiler(compilers, tmp_path_factory):
    """A compiler of kernels, which needs no device, or a skip where there is none."""
    found = compilers.find(tmp_path_factory.mktemp("cubins"))
    if found is None:
        pytest.skip("nothing was compiled for GPUs: neither the wheel nvidia-cuda-nvrtc nor nvcc is installed")
    return found


def pytest_terminal_summary(terminalreporter):
    """By label: how many tests ran where, and what test_compiles found out about each kernel."""
    calls = [r for group in terminalreporter.stats.values() for r in group if getattr(r, "when", None) == "call"]
    found = [(name, value) for report in calls for name, value in report.user_properties]
    labels = Counter(value for name, value in found if name == "label")
    lines = sorted({value for name, value in found if name == "compiled"})
    if labels or lines:
        terminalreporter.section("kernels")
    for label, count in sorted(labels.items()):
        terminalreporter.write_line(f"{label}: {count} tests")
    if lines:
        terminalreporter.write_line("compiles:")
    for line in lines:
        terminalreporter.write_line(f"  {line}")


@pytest.fixture(params=["cpu", pytest.param("gpu", marks=pytest.mark.gpu)])
def device(request, record_property):
    """Each device in turn; its label goes into the report."""
    found = request.getfixturevalue(request.param)
    record_property("label", found.label)
    return found
