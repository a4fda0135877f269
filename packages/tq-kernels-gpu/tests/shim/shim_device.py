"""The device of the tests: the same kernel sources, compiled by g++ with shim.h and run on the CPU, on numpy arrays."""

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
import threading
from functools import cache
from pathlib import Path

import numpy as np

from tq_kernels_gpu import sources

FLAGS = ("-std=c++17", "-O2", "-fPIC", "-shared", "-ffp-contract=off")
FAILURES = {
    1: "threads wait for each other at different barriers",
    2: "too many threads, none, or too much shared memory",
    3: "no memory for the stacks",
    4: "a thread wrote behind the shared memory that was asked for",
}
HERE = Path(__file__).parent
HEADERS = sorted(HERE.glob("*.h"))
MOST_BLOCKS = (2**31 - 1, 65535, 65535)  # of a CUDA grid; none at all is refused, or by cupy made one


def compiler():
    """The C++ compiler, or None where there is none."""
    return shutil.which("g++")


def build(module, folder):
    """The shared library of a module, built unless one of the same text lies in the folder."""
    text = "\n".join(
        ['#include "shim.h"', sources.source(module), *(f"TQ_EXPORT({name})" for name in sources.kernels(module)), ""]
    )
    read = "".join(header.read_text() for header in HEADERS)
    digest = hashlib.sha256((text + read + repr(FLAGS)).encode()).hexdigest()[:16]
    library = Path(folder) / f"{module}-{digest}.so"
    if not library.exists():
        unit, made = library.with_suffix(f".{os.getpid()}.cpp"), library.with_suffix(f".{os.getpid()}.so")
        unit.write_text(text)
        command = [compiler(), *FLAGS, f"-I{HERE}", str(unit), "-o", str(made)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise AssertionError(f"{module}.cu does not compile for the CPU:\n{done.stderr}")
        made.replace(library)
    return library


@cache
def _result(module, folder):
    try:
        return build(module, folder), None
    except AssertionError as error:
        return None, error


def _library(module, folder):
    """As `build`, at most once in a process: what does not compile fails at once the next time."""
    library, error = _result(module, folder)
    if error is not None:
        raise error
    return library


class ShimModule:
    """The kernels of a module; every argument is checked against the size of its parameter."""

    lock = threading.Lock()  # fibers and shared memory are static: one launch at a time

    def __init__(self, library, names, *, backwards=False):
        self._backwards = ctypes.c_int(backwards)
        self._library = ctypes.CDLL(str(library))
        self._sizes = {}
        for name in names:
            sizes = (ctypes.c_int * 64)()
            count = getattr(self._library, f"tq_parameters_{name}")(sizes)
            self._sizes[name] = tuple(sizes[:count])

    def launch(self, kernel, grid, block, args, *, shared=0):
        """As device.Module, but done when it returns."""
        held = [_argument(arg) for arg in args]
        given = tuple(ctypes.sizeof(value) for value in held)
        grid = _three(grid)
        sizes = tuple(grid)
        allowed = all(1 <= size <= most for size, most in zip(sizes, MOST_BLOCKS, strict=True))
        assert allowed, f"{kernel}: no device launches a grid of {sizes}"
        assert given == self._sizes[kernel], f"{kernel} takes parameters of {self._sizes[kernel]} bytes, got {given}"
        pointers = (ctypes.c_void_p * len(held))(*(ctypes.addressof(value) for value in held))
        thunk = ctypes.cast(getattr(self._library, f"tq_thunk_{kernel}"), ctypes.c_void_p)
        with self.lock:
            code = self._library.tq_launch(thunk, grid, _three(block), pointers, ctypes.c_uint(shared), self._backwards)
        assert code == 0, f"{kernel}: {FAILURES[code]}"


class ShimDevice:
    """Runs kernels on the CPU, slowly and one block at a time.

    `backwards`: threads run from the last to the first between barriers, so that results which depend on their order,
    for want of a barrier, come out different.
    """

    xp = np
    label = "logic on CPU"
    capturing = False  # tests set it: nothing is captured
    processors = 4  # few blocks, so that they take several rows each

    def __init__(self, folder=None, shared_limit=99 * 1024, *, backwards=False):
        self._backwards = backwards
        self.shared_limit = shared_limit
        self._folder = folder or Path(tempfile.gettempdir()) / f"tq-kernels-gpu-shim-{os.getuid()}"
        self._modules = {}

    def wait(self):
        """As device.Device: a launch is done when it returns."""

    def module(self, name):
        """As device.Device."""
        if name not in self._modules:
            Path(self._folder).mkdir(mode=0o700, parents=True, exist_ok=True)
            assert Path(self._folder).stat().st_uid == os.getuid(), f"{self._folder} is another user's"
            self._modules[name] = ShimModule(
                _library(name, self._folder), sources.kernels(name), backwards=self._backwards
            )
        return self._modules[name]

    def asarray(self, host):
        """As device.Device."""
        return np.array(host, order="C")

    def to_host(self, array):
        """As device.Device."""
        return np.array(array)


def _argument(value):
    if value is None:
        return ctypes.c_void_p(None)
    if isinstance(value, np.ndarray):
        assert value.flags.c_contiguous, "kernels take C-contiguous arrays"
        return ctypes.c_void_p(value.ctypes.data)
    kinds = {
        "int32": ctypes.c_int32,
        "uint32": ctypes.c_uint32,
        "int64": ctypes.c_int64,
        "uint64": ctypes.c_uint64,
        "float32": ctypes.c_float,
        "float64": ctypes.c_double,
    }
    assert isinstance(value, np.generic), f"scalars must be numpy's, of the parameter's type, got {value!r}"
    return kinds[str(value.dtype)](value.item())


def _three(size):
    size = (size,) if isinstance(size, int) else size
    return (ctypes.c_uint * 3)(*size, *(1,) * (3 - len(size)))
