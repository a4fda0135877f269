"""Without cupy or without a device: the package imports quickly, and asking for `gpu` says why it cannot run."""

import subprocess
import sys
import types

import pytest

import tq_core
import tq_kernels_gpu
from tq_core import registry
from tq_core.errors import BackendUnavailable

FAST = """
import sys, time
start = time.perf_counter()
import tq_kernels_gpu
elapsed = time.perf_counter() - start
assert "cupy" not in sys.modules and "tq_core.registry" not in sys.modules, "more was imported than needed"
print(elapsed)
"""


@pytest.fixture
def fresh():
    """No backend remembered, before and after."""
    registry._load.cache_clear()
    yield
    registry._load.cache_clear()


def _fake_cupy(monkeypatch, get_device, properties=None):
    class CUDARuntimeError(RuntimeError):
        pass

    def device():
        return get_device(CUDARuntimeError)

    runtime = types.SimpleNamespace(
        CUDARuntimeError=CUDARuntimeError, getDevice=device, getDeviceProperties=lambda number: properties
    )
    cupy = types.ModuleType("cupy")
    cupy.cuda = types.SimpleNamespace(runtime=runtime)
    monkeypatch.setitem(sys.modules, "cupy", cupy)


def test_importing_takes_less_than_two_seconds_and_no_cupy():
    done = subprocess.run([sys.executable, "-c", FAST], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 2


def test_without_cupy_the_reason_and_what_to_install(monkeypatch, fresh):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(BackendUnavailable, match="cupy is not installed") as caught:
        tq_kernels_gpu.load()
    assert caught.value.name == "gpu"
    assert "tq-kernels-gpu[cuda13]" in caught.value.hint


def test_explicit_use_never_falls_back(monkeypatch, fresh):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(BackendUnavailable, match="backend 'gpu' cannot run"):
        tq_core.TurboQuantMSE(64, 4, backend="gpu")


def test_without_a_device_the_reason_is_the_drivers(monkeypatch, fresh):
    def get_device(error):
        raise error("cudaErrorInsufficientDriver: driver version is insufficient")

    _fake_cupy(monkeypatch, get_device)
    with pytest.raises(BackendUnavailable, match="no CUDA device: cudaErrorInsufficientDriver"):
        tq_kernels_gpu.load()


def test_a_device_that_is_too_old_is_named(monkeypatch, fresh):
    _fake_cupy(monkeypatch, lambda error: 0, {"major": 7, "minor": 0, "name": b"Old One"})
    with pytest.raises(BackendUnavailable, match="Old One is sm_70, the kernels need sm_75"):
        tq_kernels_gpu.load()


def test_a_cupy_without_its_compiler_says_what_to_install(monkeypatch, fresh):
    def get_version():
        raise RuntimeError("CuPy failed to load libnvrtc.so.12")

    _fake_cupy(monkeypatch, lambda error: 0, {"major": 9, "minor": 0, "name": b"Some"})
    sys.modules["cupy"].cuda.nvrtc = types.SimpleNamespace(getVersion=get_version)
    with pytest.raises(BackendUnavailable, match="cupy finds no NVRTC: CuPy failed to load") as caught:
        tq_kernels_gpu.load()
    assert "pip install nvidia-cuda-nvrtc" in caught.value.hint


def test_a_cupy_that_does_not_import_is_told_from_none(monkeypatch, fresh):
    class Finder:
        def find_spec(self, name, path=None, target=None):
            if name == "cupy":
                raise ImportError("libnvrtc.so.13: cannot open shared object file")

    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    with pytest.raises(BackendUnavailable, match="cupy does not import: libnvrtc"):
        tq_kernels_gpu.load()


def test_the_state_of_gpu_is_listed_beside_the_others(monkeypatch, fresh):
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert "cupy is not installed" in tq_core.backends()["gpu"]
