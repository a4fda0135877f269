"""The contract suite of backends, every dimension of it."""

from tq_core.registry import Backend
from tq_core.testing import check_backend
from tq_kernels_gpu.backend import GpuBackend


def test_every_operation_of_the_protocol_is_there(device):
    assert isinstance(GpuBackend(device), Backend)


def test_the_contract_of_backends(device):
    check_backend(GpuBackend(device))
