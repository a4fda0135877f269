"""Backend `gpu`: the operations of tq_core on a device, for arrays of the host and, by `on_device`, of the device."""

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tq_core.codebook import MixedCodebook
from tq_core.registry import Plan
from tq_core.rotation import Rotation
from tq_core.sketch import Sketch
from tq_kernels_gpu.attention import PackedAttention
from tq_kernels_gpu.device import Array, Device
from tq_kernels_gpu.ops.combine import combine
from tq_kernels_gpu.ops.decode import decode
from tq_kernels_gpu.ops.encode import encode
from tq_kernels_gpu.ops.rotate import rotate, unrotate
from tq_kernels_gpu.ops.scores import scores, sketch_scores
from tq_kernels_gpu.ops.search import search
from tq_kernels_gpu.ops.sketch import sketch_bits, unsketch
from tq_kernels_gpu.resident import Resident

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]
I64 = NDArray[np.int64]


class GpuBackend:
    """Uploads, launches, downloads. Stateless but for the tables that the device keeps."""

    name = "gpu"
    api_version = 1

    def __init__(self, device: Device) -> None:
        self.device = device

    @cached_property
    def on_device(self) -> "GpuBackend":
        """The same operations for arrays of the device, whose results stay there."""
        return GpuBackend(Resident(self.device))

    def rotate(self, rotation: Rotation, x: F32) -> F32:
        """As NumpyBackend; hadamard bit for bit."""
        return self.device.to_host(rotate(self.device, rotation, self.device.asarray(x)))

    def unrotate(self, rotation: Rotation, z: F32) -> F32:
        """As NumpyBackend; hadamard bit for bit."""
        return self.device.to_host(unrotate(self.device, rotation, self.device.asarray(z)))

    def encode(self, plan: Plan, x: NDArray[Any]) -> tuple[U8, F32, F32 | None]:
        """As NumpyBackend, bit for bit; x may be the bits of bfloat16 as uint16, too."""
        device = self.device
        packed, scales, gammas = encode(device, plan, device.asarray(x))
        return device.to_host(packed), device.to_host(scales), None if gammas is None else device.to_host(gammas)

    def decode(self, plan: Plan, packed: U8, scales: F32, gammas: F32 | None) -> F32:
        """As NumpyBackend; bit for bit behind a Hadamard rotation."""
        device = self.device
        held = device.asarray(packed), device.asarray(scales), None if gammas is None else device.asarray(gammas)
        return device.to_host(decode(device, plan, *held))

    def scores(
        self, plan: Plan, packed: U8, scales: F32, gammas: F32 | None, queries: F32, *, accuracy: str = "exact"
    ) -> F32:
        """As NumpyBackend, within rounding; what "int8" adds, ops/scan8.py says."""
        device = self.device
        held = self._held(packed, scales, gammas)
        return device.to_host(scores(device, plan, *held, device.asarray(queries), accuracy=accuracy))

    def search(
        self,
        plan: Plan,
        packed: U8,
        scales: NDArray[np.floating],
        gammas: NDArray[np.floating] | None,
        queries: F32,
        k: int,
        mask: NDArray[np.bool_] | None,
        accuracy: str,
    ) -> tuple[F32, I64]:
        """The k best rows of each query; scales and gammas in float16 or float32."""
        device = self.device
        eligible = None if mask is None else device.asarray(mask)
        held = self._held(packed, scales, gammas)
        found, rows = search(device, plan, *held, device.asarray(queries), k, eligible, accuracy)
        return device.to_host(found), device.to_host(rows)

    def combine(self, plan: Plan, packed: U8, scales: F32, gammas: F32 | None, weights: F32) -> F32:
        """As NumpyBackend, within rounding; signs are added before they are projected back, once a sum."""
        device = self.device
        return device.to_host(combine(device, plan, *self._held(packed, scales, gammas), device.asarray(weights)))

    def sketch(self, sketch: Sketch, residuals: I64) -> U8:
        """As NumpyBackend, bit for bit."""
        return self.device.to_host(sketch_bits(self.device, sketch, self.device.asarray(residuals)))

    def unsketch(self, sketch: Sketch, bits: U8) -> F32:
        """As NumpyBackend, within rounding."""
        return self.device.to_host(unsketch(self.device, sketch, self.device.asarray(bits)))

    def sketch_scores(self, sketch: Sketch, bits: U8, queries: F32) -> F32:
        """As NumpyBackend, within rounding."""
        device = self.device
        return device.to_host(sketch_scores(device, sketch, device.asarray(bits), device.asarray(queries)))

    def attention(self, keys: Plan, values: Plan, accuracy: str) -> PackedAttention | None:
        """Fused attention over tokens packed by two plans; see tq_kernels_gpu.attention.

        None for fractional widths, which have no kernel: a caller attends by `scores` and `combine`.
        """
        if isinstance(keys.codebook, MixedCodebook) or isinstance(values.codebook, MixedCodebook):
            return None
        return PackedAttention(keys, values, self, accuracy=accuracy)

    def _held(self, packed: U8, scales: NDArray[Any], gammas: NDArray[Any] | None) -> tuple[Array, Array, Array]:
        device = self.device
        return device.asarray(packed), device.asarray(scales), None if gammas is None else device.asarray(gammas)
