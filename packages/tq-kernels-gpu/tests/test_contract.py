"""The contract suite of backends, every dimension of it."""

import pytest

from tq_core.errors import BackendUnavailable
from tq_core.registry import Backend
from tq_core.testing import check_backend
from tq_kernels_gpu.backend import GpuBackend


def test_every_operation_of_the_protocol_is_there(device):
    assert isinstance(GpuBackend(device), Backend)


def test_the_contract_of_backends_up_to_trellis_plans(device):
    # which come last in it, and have no kernels yet
    with pytest.raises(BackendUnavailable, match="no kernels for TrellisPlan"):
        check_backend(GpuBackend(device))
