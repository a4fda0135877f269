"""Backend `gpu`: the operations of tq_core on a device, for arrays of the host."""

import numpy as np
from numpy.typing import NDArray

from tq_core.rotation import Rotation
from tq_kernels_gpu.device import Device
from tq_kernels_gpu.ops.rotate import rotate, unrotate

F32 = NDArray[np.float32]


class GpuBackend:
    """Uploads, launches, downloads. Stateless but for the tables that the device keeps."""

    name = "gpu"
    api_version = 1

    def __init__(self, device: Device) -> None:
        self.device = device

    def rotate(self, rotation: Rotation, x: F32) -> F32:
        """As NumpyBackend; hadamard bit for bit."""
        return self.device.to_host(rotate(self.device, rotation, self.device.asarray(x)))

    def unrotate(self, rotation: Rotation, z: F32) -> F32:
        """As NumpyBackend; hadamard bit for bit."""
        return self.device.to_host(unrotate(self.device, rotation, self.device.asarray(z)))
