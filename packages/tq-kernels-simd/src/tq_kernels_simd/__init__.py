"""C kernels of TurboQuant for CPUs: the backend `simd` of tq_core."""

from tq_kernels_simd.backend import SimdBackend, load

__all__ = ["SimdBackend", "load"]
