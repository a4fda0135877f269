"""The contract suite of backends, every dimension of it."""

import importlib

import numpy as np
import pytest

from tq_core.registry import Backend
from tq_core.testing import check_backend
from tq_kernels_gpu.backend import GpuBackend


def test_every_operation_of_the_protocol_is_there(device):
    assert isinstance(GpuBackend(device), Backend)


def test_the_contract_of_backends_with_whatever_is_in_new_arrays(shim, record_property):
    poisoned = importlib.import_module("poisoned_device").PoisonedDevice()
    record_property("label", poisoned.label)
    assert np.isnan(poisoned.xp.empty((2, 3), np.float32)).all()
    check_backend(GpuBackend(poisoned))


@pytest.mark.gpu
def test_the_contract_of_backends_on_a_device(gpu, record_property):
    record_property("label", gpu.label)
    check_backend(GpuBackend(gpu))
