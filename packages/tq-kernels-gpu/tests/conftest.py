"""`device`: every test that takes it runs twice, its logic on the CPU and, where there is one, on the GPU."""

import importlib
import sys
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
    """The device that runs kernels on the CPU."""
    return shim.ShimDevice()


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
    """What test_compiles found out about each kernel, as a table."""
    reports = [report for group in terminalreporter.stats.values() for report in group if hasattr(report, "when")]
    lines = sorted({value for report in reports for name, value in report.user_properties if name == "compiled"})
    if lines:
        terminalreporter.section("kernels (label: compiles)")
        for line in lines:
            terminalreporter.write_line(line)


@pytest.fixture(params=["cpu", pytest.param("gpu", marks=pytest.mark.gpu)])
def device(request):
    """Each device in turn."""
    return request.getfixturevalue(request.param)
