"""What the operations need of a device: arrays, and modules of kernels that can be launched.

`cupy_device.CupyDevice` is the real one. The tests have another, which runs the same kernel sources on the CPU.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import tq_core.device

Array = Any  # of the device's own array module: cupy.ndarray, or numpy.ndarray on the CPU
Argument = Any  # an Array, None for a null pointer, or a numpy scalar of the parameter's type
Size = int | tuple[int, ...]


class Module(Protocol):
    """The kernels of one `.cu` file, compiled for a device."""

    def launch(self, kernel: str, grid: Size, block: Size, args: Sequence[Argument], *, shared: int = 0) -> None:
        """Start a kernel on the current stream, with `shared` bytes of dynamic shared memory; does not wait for it."""


class Device(tq_core.device.Device, Protocol):
    """Where kernels run. Devices are hashable and can be weakly referenced: tables are kept for each."""

    label: str  # "ran on GPU (NAME)" or "logic on CPU": what a report says of the numbers made here
    shared_limit: int  # bytes of dynamic shared memory that one block can have
    processors: int  # blocks worth having in flight are a small multiple of these

    @property
    def capturing(self) -> bool:
        """Whether what is launched now becomes part of a graph, to be run later and more than once."""

    def wait(self) -> None:
        """Wait for all that was launched on the current stream."""

    def module(self, name: str) -> Module:
        """The module of that name (tq_kernels_gpu.sources), compiled at first use."""
