"""The device of cupy: kernels compiled by NVRTC for the processor at hand, and launched on the current stream."""

import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tq_core.device import is_bfloat16, is_on_device, widened
from tq_core.errors import BackendUnavailable, InvalidDtype, WrongDevice
from tq_kernels_gpu.compiled import compiled, nvrtc_version
from tq_kernels_gpu.device import Argument, Array, Size

OLDEST: Final = 75  # sm_75: the oldest that both CUDA 12 and 13 compile for
_NULL: Final = np.uint64(0)
_WITHOUT_ASKING: Final = 48 * 1024  # bytes of shared memory a kernel may have without an attribute that allows more


class CupyModule:
    """A cupy.RawModule of a compiled file, and its functions."""

    def __init__(self, cupy: Any, path: Path, shared_limit: int) -> None:
        self._raw = cupy.RawModule(path=str(path))
        self._functions: dict[str, Any] = {}
        self._shared_limit = shared_limit

    def launch(self, kernel: str, grid: Size, block: Size, args: Sequence[Argument], *, shared: int = 0) -> None:
        """As device.Module: asynchronous, on cupy's current stream, and so part of a graph that is being captured."""
        function = self._functions.get(kernel)
        if function is None:
            function = self._raw.get_function(kernel)
            if self._shared_limit > _WITHOUT_ASKING:
                function.max_dynamic_shared_size_bytes = self._shared_limit - function.shared_size_bytes
            self._functions[kernel] = function
        given = tuple(_NULL if argument is None else argument for argument in args)
        function(_triple(grid), _triple(block), given, shared_mem=shared)


class CupyDevice:
    """One CUDA device through cupy; the caller's current device must be this one whenever it is used."""

    def __init__(self, cupy: Any, number: int) -> None:
        self.xp = cupy
        self.number = number
        properties = cupy.cuda.runtime.getDeviceProperties(number)
        self.name: str = properties["name"].decode()
        self.label = f"ran on GPU ({self.name})"
        self.shared_limit = int(properties["sharedMemPerBlockOptin"])
        self.processors = int(properties["multiProcessorCount"])
        self.capability = capability(properties)
        self._modules: dict[str, CupyModule] = {}
        self._lock = threading.Lock()

    @classmethod
    def current(cls) -> "CupyDevice":
        """cupy's current device, or BackendUnavailable with the reason."""
        try:
            import cupy
        except ImportError as error:
            hint = "pip install tq-kernels-gpu[cuda13], or [cuda12] for an older driver"
            absent = isinstance(error, ModuleNotFoundError) and error.name == "cupy"
            reason = "cupy is not installed" if absent else f"cupy does not import: {error}"
            raise BackendUnavailable("gpu", reason, hint) from error
        try:
            number = int(cupy.cuda.runtime.getDevice())
            properties = cupy.cuda.runtime.getDeviceProperties(number)
        except cupy.cuda.runtime.CUDARuntimeError as error:
            raise BackendUnavailable("gpu", f"no CUDA device: {error}", "check the driver with nvidia-smi") from error
        if capability(properties) < OLDEST:
            name, found = properties["name"].decode(), capability(properties)
            raise BackendUnavailable("gpu", f"{name} is sm_{found}, the kernels need sm_{OLDEST} or later")
        try:
            nvrtc_version(cupy.cuda.nvrtc)
        except RuntimeError as error:
            hint = "pip install nvidia-cuda-nvrtc, or nvidia-cuda-nvrtc-cu12 for CUDA 12"
            raise BackendUnavailable("gpu", f"cupy finds no NVRTC: {error}", hint) from error
        return cls(cupy, number)

    @property
    def capturing(self) -> bool:
        """As device.Device: of cupy's current stream."""
        return bool(self.xp.cuda.get_current_stream().is_capturing())

    def wait(self) -> None:
        """As device.Device: of cupy's current stream."""
        self.xp.cuda.get_current_stream().synchronize()

    def module(self, name: str) -> CupyModule:
        """As device.Device; compiled at first use (tq_kernels_gpu.compiled), loaded once for this object."""
        with self._lock:
            found = self._modules.get(name)
            if found is None:
                path = compiled(self.xp.cuda.nvrtc, name, self.capability)
                found = self._modules[name] = CupyModule(self.xp, path, self.shared_limit)
            return found

    def asarray(self, host: NDArray[Any]) -> Array:
        """As device.Device."""
        return self.xp.asarray(np.ascontiguousarray(host))

    def adopt(self, array: object, name: str, *, bits: bool = False) -> Array:
        """As device.Device; streams are ordered by DLPack."""
        as_bits = is_bfloat16(array)
        found = array if isinstance(array, self.xp.ndarray) else self._imported(array, name, as_bits)
        if found.device.id != self.number:
            raise WrongDevice(
                f"{name} lies on GPU {found.device.id}, the kernels run on GPU {self.number}; move it there"
            )
        current = int(self.xp.cuda.runtime.getDevice())
        if current != self.number:
            raise WrongDevice(
                f"GPU {current} is the current device, the kernels run on GPU {self.number}; "
                f"call within cupy.cuda.Device({self.number})"
            )
        if found.data.ptr % found.dtype.itemsize:
            raise InvalidDtype(f"{name} begins at an address that is no multiple of its {found.dtype.itemsize} bytes")
        if not as_bits:
            return found
        return found.view(np.uint16) if bits else widened(found.view(np.uint16))

    def _imported(self, array: Any, name: str, as_bits: bool) -> Array:
        """Another library's array as cupy's, upon the same memory; of torch's bfloat16 the bits."""
        if not is_on_device(array):
            raise WrongDevice(
                f"{name} lies on the host and is computed with on a GPU; move it there, e.g. cupy.asarray"
            )
        try:
            if as_bits and "torch" in sys.modules:  # cupy reads no bfloat16 before version 14
                array = array.view(sys.modules["torch"].int16)
            return self.xp.from_dlpack(array) if hasattr(array, "__dlpack__") else self.xp.asarray(array)
        except (BufferError, RuntimeError, TypeError, ValueError) as error:
            raise InvalidDtype(f"{name} cannot be read as an array of cupy: {error}") from error

    def to_host(self, array: Array) -> NDArray[Any]:
        """As device.Device; waits for the current stream."""
        result: NDArray[Any] = self.xp.asnumpy(array)
        return result


def capability(properties: Any) -> int:
    """The compute capability as a number, 75 for 7.5."""
    return 10 * int(properties["major"]) + int(properties["minor"])


def _triple(size: Size) -> tuple[int, ...]:
    return (size,) if isinstance(size, int) else size
