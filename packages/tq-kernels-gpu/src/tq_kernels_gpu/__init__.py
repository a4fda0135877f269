"""CUDA kernels of TurboQuant: the backend `gpu` of tq_core. Importing needs neither cupy nor a device; `load` does."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tq_kernels_gpu.backend import GpuBackend

__all__ = ["load"]


def load() -> "GpuBackend":
    """The loader that tq_core's registry calls; BackendUnavailable with the reason where no device can be used."""
    from tq_kernels_gpu.backend import GpuBackend
    from tq_kernels_gpu.cupy_device import CupyDevice

    return GpuBackend(CupyDevice.current())
