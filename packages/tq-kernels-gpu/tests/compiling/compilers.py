"""Kernel sources to cubin and PTX without a device: by the wheel's NVRTC through ctypes, else by an installed nvcc.

NVRTC first: it is what cupy compiles with, and unlike nvcc it includes no header that a kernel did not name.
"""

import ctypes
import re
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from tq_kernels_gpu import sources


class Usage(NamedTuple):
    """What the assembler says of one kernel: registers a thread, bytes spilled, bytes of static shared memory."""

    kernel: str
    registers: int
    spills: int
    stack: int
    shared: int


class Nvcc:
    """The compiler of an installed toolkit."""

    def __init__(self, path, folder):
        self._path, self._folder = path, Path(folder)
        version = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout
        self.name = f"nvcc {re.search(r'release ([0-9.]+)', version)[1]}"

    def cubin(self, module, architecture):
        """The cubin of a module and the assembler's report; AssertionError with the log where it does not compile."""
        return self._compile(module, architecture, "-cubin", "cubin")

    def ptx(self, module, architecture):
        """The PTX of a module."""
        return self._compile(module, architecture, "-ptx", "ptx")[0]

    def _compile(self, module, architecture, kind, suffix):
        unit, made = self._folder / f"{module}.cu", self._folder / f"{module}-{architecture}.{suffix}"
        unit.write_text(sources.source(module))
        command = [
            self._path,
            kind,
            *sources.OPTIONS,
            f"-arch={architecture}",
            "-Xptxas=-v",
            str(unit),
            "-o",
            str(made),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{module}.cu for {architecture}:\n{done.stderr}"
        return made.read_bytes(), done.stderr


class Nvrtc:
    """The run-time compiler that cupy uses, from the wheel nvidia-cuda-nvrtc."""

    def __init__(self, path):
        self._library = ctypes.CDLL(str(path))
        self._library.nvrtcGetErrorString.restype = ctypes.c_char_p
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
        self.name = f"NVRTC {major.value}.{minor.value}"

    def cubin(self, module, architecture):
        """As Nvcc.cubin."""
        return self._compile(module, architecture, "CUBIN")

    def ptx(self, module, architecture):
        """As Nvcc.ptx."""
        return self._compile(module, architecture, "PTX")[0]

    def _compile(self, module, architecture, kind):
        program = ctypes.c_void_p()
        text = sources.source(module).encode("ascii")
        create = self._library.nvrtcCreateProgram
        self._check(create(ctypes.byref(program), text, f"{module}.cu".encode(), 0, None, None))
        try:
            options = [*sources.OPTIONS, f"--gpu-architecture={architecture}", "--ptxas-options=-v"]
            given = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
            code = self._library.nvrtcCompileProgram(program, len(options), given)
            log = self._text(program, "ProgramLog")
            assert code == 0, f"{module}.cu for {architecture}:\n{log.decode()}"
            return self._text(program, kind), log.decode()
        finally:
            self._library.nvrtcDestroyProgram(ctypes.byref(program))

    def _text(self, program, what):
        size = ctypes.c_size_t()
        self._check(getattr(self._library, f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
        buffer = ctypes.create_string_buffer(max(1, size.value))
        self._check(getattr(self._library, f"nvrtcGet{what}")(program, buffer))
        return buffer.raw[: size.value].rstrip(b"\0") if what != "CUBIN" else buffer.raw[: size.value]

    def _check(self, code):
        assert code == 0, self._library.nvrtcGetErrorString(code).decode()


def find(folder):
    """The compiler to use, or None where there is none. `folder` is for what nvcc writes."""
    library, nvcc = nvrtc_path(), shutil.which("nvcc")
    if library is not None:
        return Nvrtc(library)
    return None if nvcc is None else Nvcc(nvcc, folder)


def nvrtc_path():
    """The library of the wheel nvidia-cuda-nvrtc (of CUDA 12 or 13), or None where it is not installed."""
    spec = find_spec("nvidia")
    for folder in spec.submodule_search_locations if spec is not None else ():
        for path in sorted(Path(folder).glob("*/lib/libnvrtc.so.*")):
            if "alt" not in path.name:
                return path
    return None


_FUNCTION = re.compile(r"Compiling entry function '(\w+)'")
_STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_REGISTERS = re.compile(r"Used (\d+) registers")
_SHARED = re.compile(r"(\d+) bytes smem")


def usages(log):
    """What the assembler's report says of every kernel."""
    found = []
    for part in log.split("ptxas info    : Compiling")[1:]:
        name = _FUNCTION.search("Compiling" + part)[1]
        stack, stores, loads = (int(number) for number in _STACK.search(part).groups())
        shared = _SHARED.search(part)
        registers = int(_REGISTERS.search(part)[1])
        found.append(Usage(name, registers, stores + loads, stack, int(shared[1]) if shared else 0))
    return found
