"""Backend `gpu`: the operations of tq_core on a device, for arrays of the host and, by `on_device`, of the device."""

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tq_core.registry import Plan
from tq_core.rotation import Rotation
from tq_kernels_gpu.device import Device
from tq_kernels_gpu.ops.decode import decode
from tq_kernels_gpu.ops.encode import encode
from tq_kernels_gpu.ops.rotate import rotate, unrotate
from tq_kernels_gpu.resident import Resident

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]


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
