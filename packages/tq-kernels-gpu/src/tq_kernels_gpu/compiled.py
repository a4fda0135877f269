"""Modules compiled by NVRTC, kept as files that cupy loads.

Not compiled through cupy.RawModule: cupy adds `-ftz=true` behind any options (cupy/cuda/compiler.py, 13.6 to 14.2), and
float32 numbers below 1e-38 would then be zero, scales and decoded coordinates among them, where numpy has them.
"""

import ctypes
import hashlib
import importlib.util
import os
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Final

from tq_core.errors import BackendUnavailable
from tq_kernels_gpu import sources

FOLDER: Final = "TQ_KERNEL_CACHE"  # the environment variable that names the folder


def target(supported: tuple[int, ...], capability: int) -> tuple[str, str]:
    """What to compile for, and to: `("sm_90", "cubin")`, or PTX, which the driver finishes, for a newer processor.

    `supported`: what NVRTC can compile for, 75 meaning compute capability 7.5. Raises BackendUnavailable for a
    processor that is older than all of that.
    """
    if capability in supported:
        return f"sm_{capability}", "cubin"
    older = [number for number in supported if number < capability]
    if not older:
        raise BackendUnavailable(
            "gpu",
            f"this NVRTC compiles for sm_{min(supported)} and later, the device is sm_{capability}",
            "use [cuda12]",
        )
    return f"compute_{max(older)}", "ptx"


def nvrtc_version(nvrtc: Any) -> tuple[int, int]:
    """The version of cupy's NVRTC, or the RuntimeError of a cupy that finds none.

    cupy before version 14 does not look where pip installs it, but does find a library that is loaded already.
    """
    try:
        found: tuple[int, int] = nvrtc.getVersion()
    except RuntimeError:
        for library in _installed():
            with suppress(OSError):
                ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
        found = nvrtc.getVersion()
    return found


def _installed() -> list[Path]:
    """NVRTC of the wheels nvidia-cuda-nvrtc (CUDA 13) and nvidia-cuda-nvrtc-cu12."""
    spec = importlib.util.find_spec("nvidia")
    folders = [] if spec is None else spec.submodule_search_locations or []
    places = ("cu13/lib", "cuda_nvrtc/lib")
    return [path for folder in folders for place in places for path in Path(folder, place).glob("libnvrtc.so.*")]


def compiled(nvrtc: Any, module: str, capability: int) -> Path:
    """The file of a compiled module, made unless one of the same source, options and compiler lies there.

    `nvrtc` is cupy.cuda.nvrtc or what has its functions. The folder is TQ_KERNEL_CACHE, else `tq-kernels-gpu` in the
    user's cache, else, where that cannot be written, a temporary one.
    """
    architecture, kind = target(tuple(nvrtc.getSupportedArchs()), capability)
    options = (*sources.OPTIONS, f"--gpu-architecture={architecture}")
    text = sources.source(module)
    key = repr((text, options, nvrtc.getVersion()))
    name = f"{module}-{architecture}-{hashlib.sha256(key.encode()).hexdigest()[:20]}.{kind}"
    path = folder() / name
    if not path.exists():
        _write(path, _compile(nvrtc, text, f"{module}.cu", options, kind))
    return path


def _compile(nvrtc: Any, text: str, name: str, options: tuple[str, ...], kind: str) -> bytes:
    program = nvrtc.createProgram(text, name, [], [])
    try:
        try:
            nvrtc.compileProgram(program, list(options))
        except nvrtc.NVRTCError as error:
            raise BackendUnavailable("gpu", f"{name} does not compile: {nvrtc.getProgramLog(program)}") from error
        made = nvrtc.getCUBIN(program) if kind == "cubin" else nvrtc.getPTX(program)
    finally:
        nvrtc.destroyProgram(program)
    return made if isinstance(made, bytes) else made.encode("ascii")


def _write(path: Path, data: bytes) -> None:
    """Writes beside the file and renames: another process never sees a part of it."""
    handle, beside = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
    os.replace(beside, path)


def folder() -> Path:
    """Where compiled modules are kept; it exists and can be written to."""
    named = os.environ.get(FOLDER)
    user = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    path = Path(named) if named else Path(user) / "tq-kernels-gpu"
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return path
    except OSError as error:
        if named:
            raise BackendUnavailable("gpu", f"{FOLDER} is {named!r}, which cannot be written: {error}") from error
        return _temporary()


@cache
def _temporary() -> Path:
    return Path(tempfile.mkdtemp(prefix="tq-kernels-gpu-"))
