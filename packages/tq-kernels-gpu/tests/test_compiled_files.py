"""Modules are compiled with exactly the options that the format needs, once, into files that cupy loads."""

import os
import types
from pathlib import Path

import numpy as np
import pytest

from tq_core.errors import BackendUnavailable
from tq_kernels_gpu import compiled as compiled_module
from tq_kernels_gpu import sources
from tq_kernels_gpu.compiled import compiled, nvrtc_version, target
from tq_kernels_gpu.cupy_device import CupyDevice


class Nvrtc:
    """cupy.cuda.nvrtc, as far as it is used, that writes down what it is asked for."""

    class NVRTCError(RuntimeError):
        pass

    def __init__(self, version=(13, 0), fails=False):
        self.version, self.fails, self.programs, self.destroyed = version, fails, [], 0

    def getSupportedArchs(self):  # noqa: N802 -- cupy's names
        return (75, 80, 90, 100)

    def getVersion(self):  # noqa: N802
        return self.version

    def createProgram(self, text, name, headers, names):  # noqa: N802
        self.programs.append([text, name, None])
        return len(self.programs) - 1

    def compileProgram(self, program, options):  # noqa: N802
        self.programs[program][2] = options
        if self.fails:
            raise self.NVRTCError("NVRTC_ERROR_COMPILATION")

    def getProgramLog(self, program):  # noqa: N802
        return "rotate.cu(3): error"

    def getCUBIN(self, program):  # noqa: N802
        return b"\x7fELF"

    def getPTX(self, program):  # noqa: N802
        return ".version 9.0"

    def destroyProgram(self, program):  # noqa: N802
        self.destroyed += 1


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty folder for compiled modules."""
    monkeypatch.setenv("TQ_KERNEL_CACHE", str(tmp_path / "kernels"))
    return tmp_path / "kernels"


def test_nothing_contracts_and_nothing_is_flushed_to_zero(cache):
    nvrtc = Nvrtc()
    compiled(nvrtc, "rotate", 90)
    [[text, name, options]] = nvrtc.programs
    assert (text, name) == (sources.source("rotate"), "rotate.cu")
    assert options == ["--std=c++17", "--fmad=false", "--gpu-architecture=sm_90"]
    assert nvrtc.destroyed == 1


def test_a_module_is_compiled_once_for_each_compiler_and_processor(cache):
    nvrtc, newer = Nvrtc(), Nvrtc(version=(13, 1))
    first = compiled(nvrtc, "rotate", 80)
    assert first.read_bytes() == b"\x7fELF"
    assert compiled(nvrtc, "rotate", 80) == first
    assert len(nvrtc.programs) == 1
    others = {compiled(nvrtc, "rotate", 90), compiled(nvrtc, "decode", 80), compiled(newer, "rotate", 80)}
    assert len({first, *others}) == 4
    assert sorted(cache.iterdir()) == sorted({first, *others})


def test_another_source_is_another_file(cache, monkeypatch):
    first = compiled(Nvrtc(), "rotate", 80)
    monkeypatch.setattr(sources, "source", lambda module: "// other")
    assert compiled(Nvrtc(), "rotate", 80) != first


def test_a_processor_newer_than_the_compiler_gets_ptx(cache):
    nvrtc = Nvrtc()
    path = compiled(nvrtc, "rotate", 120)
    assert path.suffix == ".ptx"
    assert path.read_text() == ".version 9.0"
    assert nvrtc.programs[0][2][-1] == "--gpu-architecture=compute_100"


def test_a_processor_older_than_the_compiler_is_refused():
    with pytest.raises(BackendUnavailable, match="compiles for sm_80 and later, the device is sm_75"):
        target((80, 90), 75)


def test_what_does_not_compile_says_why_and_leaves_no_file(cache):
    nvrtc = Nvrtc(fails=True)
    with pytest.raises(BackendUnavailable, match=r"rotate\.cu does not compile: rotate\.cu\(3\): error"):
        compiled(nvrtc, "rotate", 80)
    assert nvrtc.destroyed == 1
    assert list(cache.iterdir()) == []


def test_a_named_folder_that_cannot_be_written_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("TQ_KERNEL_CACHE", str(tmp_path / "file"))
    with pytest.raises(BackendUnavailable, match=r"TQ_KERNEL_CACHE is .* which cannot be written"):
        compiled(Nvrtc(), "rotate", 80)


def test_without_a_name_the_users_cache_and_else_a_temporary_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("TQ_KERNEL_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert compiled(Nvrtc(), "rotate", 80).parent == tmp_path / "tq-kernels-gpu"
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(compiled_module.tempfile, "mkdtemp", lambda prefix: str(tmp_path))
    compiled_module._temporary.cache_clear()
    assert compiled(Nvrtc(), "rotate", 80).parent == tmp_path
    compiled_module._temporary.cache_clear()


class RawKernel:
    """A kernel that writes down how it is launched."""

    shared_size_bytes = 512
    max_dynamic_shared_size_bytes = 0

    def __init__(self):
        self.launches = []

    def __call__(self, grid, block, args, shared_mem=0):
        self.launches.append((grid, block, args, shared_mem))


def _fake_cupy(nvrtc, kernel, loaded):
    class RawModule:
        def __init__(self, path):
            loaded.append(Path(path))

        def get_function(self, name):
            return kernel

    properties = {"name": b"Fake", "sharedMemPerBlockOptin": 232448, "multiProcessorCount": 132, "major": 9, "minor": 0}
    runtime = types.SimpleNamespace(getDeviceProperties=lambda number: properties)
    return types.SimpleNamespace(RawModule=RawModule, cuda=types.SimpleNamespace(runtime=runtime, nvrtc=nvrtc))


def test_a_launch_hands_cupy_the_file_null_pointers_and_the_shared_memory(cache):
    kernel, loaded = RawKernel(), []
    device = CupyDevice(_fake_cupy(Nvrtc(), kernel, loaded), 0)
    assert device.label == "ran on GPU (Fake)"
    module = device.module("rotate")
    assert device.module("rotate") is module
    module.launch("tq_rotate", 7, (32, 2), (np.int32(5), None), shared=4096)
    [(grid, block, args, shared)] = kernel.launches
    assert (grid, block, shared) == ((7,), (32, 2), 4096)
    assert args == (5, 0)
    assert args[1].dtype == np.uint64
    assert kernel.max_dynamic_shared_size_bytes == 232448 - 512
    assert [os.path.basename(path).split("-")[:2] for path in loaded] == [["rotate", "sm_90"]]


def test_an_nvrtc_that_cupy_does_not_look_for_is_loaded_from_its_wheel(tmp_path, monkeypatch):
    loaded = []

    class Blind(Nvrtc):
        def getVersion(self):  # noqa: N802
            if not loaded:
                raise RuntimeError("CuPy failed to load libnvrtc.so.13")
            return (13, 2)

    library = tmp_path / "cu13" / "lib" / "libnvrtc.so.13"
    library.parent.mkdir(parents=True)
    library.touch()
    spec = types.SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(compiled_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match="failed to load"):
        nvrtc_version(Blind())
    monkeypatch.setattr(compiled_module.importlib.util, "find_spec", lambda name: spec)
    monkeypatch.setattr(compiled_module.ctypes, "CDLL", lambda path, mode: loaded.append(path))
    assert nvrtc_version(Blind()) == (13, 2)
    assert loaded == [str(library)]
