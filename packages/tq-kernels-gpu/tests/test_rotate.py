"""Rotation on a device equals that of `numpy` bit for bit, whatever the dimension."""

import numpy as np
import pytest
from gpu_plans import same_bits

from tq_core.errors import InvalidDtype, ShapeMismatch
from tq_core.numpy_backend import NumpyBackend
from tq_core.rotation import Rotation
from tq_core.testing import DIMS, LARGE_DIMS, samples
from tq_kernels_gpu import layout
from tq_kernels_gpu.backend import GpuBackend
from tq_kernels_gpu.ops.rotate import rotate, unrotate

NUMPY = NumpyBackend()


@pytest.mark.parametrize("dim", [*DIMS, *LARGE_DIMS, 320, 384, 512, 640, 1000, 1024, 2048, 4096, 12288])
def test_both_directions_are_numpys_to_the_bit(device, dim):
    rotation, x = Rotation(dim, "hadamard", 7), samples(dim)
    backend = GpuBackend(device)
    z = NUMPY.rotate(rotation, x)
    same_bits(backend.rotate(rotation, x), z)
    same_bits(backend.unrotate(rotation, z), NUMPY.unrotate(rotation, z))


def test_every_dimension_up_to_260(device):
    backend = GpuBackend(device)
    for dim in range(2, 261):
        rotation, x = Rotation(dim, "hadamard", 11), samples(dim)[[0, 10, 17]]
        same_bits(backend.rotate(rotation, x), NUMPY.rotate(rotation, x))
        same_bits(backend.unrotate(rotation, x), NUMPY.unrotate(rotation, x))


@pytest.mark.parametrize("dim", [100, 768, 1000])
def test_rows_beyond_shared_memory_go_through_global_memory(shim, dim):
    device, rotation, x = shim.ShimDevice(shared_limit=2048), Rotation(dim, "hadamard", 3), samples(dim)
    same_bits(rotate(device, rotation, x), NUMPY.rotate(rotation, x))
    same_bits(unrotate(device, rotation, x), NUMPY.unrotate(rotation, x))


@pytest.mark.parametrize("dim", [64, 128, 256, 512])
def test_registers_and_shared_memory_give_the_same(device, dim, monkeypatch):
    rotation, x = Rotation(dim, "hadamard", 5), samples(dim)
    in_registers = GpuBackend(device).rotate(rotation, x), GpuBackend(device).unrotate(rotation, x)
    monkeypatch.setattr(layout, "WARP_DIMS", ())
    monkeypatch.setattr(layout, "FEWEST_THREADS", 64)
    in_shared_memory = GpuBackend(device).rotate(rotation, x), GpuBackend(device).unrotate(rotation, x)
    same_bits(in_shared_memory[0], in_registers[0])
    same_bits(in_shared_memory[1], in_registers[1])


def test_a_dense_rotation_is_numpys_within_rounding(device):
    rotation, x = Rotation(48, "dense", 1), samples(48)[:17]
    backend = GpuBackend(device)
    expected = NUMPY.rotate(rotation, x)
    np.testing.assert_allclose(backend.rotate(rotation, x), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(backend.unrotate(rotation, expected), NUMPY.unrotate(rotation, expected), atol=1e-4)


def test_more_rows_than_blocks_and_none(device):
    rotation = Rotation(64, "hadamard", 7)
    many = np.tile(samples(64), (100, 1))
    backend = GpuBackend(device)
    same_bits(backend.rotate(rotation, many), NUMPY.rotate(rotation, many))
    assert backend.rotate(rotation, many[:0]).shape == (0, 64)


def test_rows_with_strides_are_taken_as_they_are(device):
    rotation, x = Rotation(64, "hadamard", 7), device.asarray(samples(128))
    got = device.to_host(rotate(device, rotation, x[::2, 32:96]))
    same_bits(got, NUMPY.rotate(rotation, np.ascontiguousarray(samples(128)[::2, 32:96])))


def test_rows_of_another_shape_or_dtype_are_refused(device):
    rotation = Rotation(64, "hadamard", 7)
    with pytest.raises(ShapeMismatch, match=r"must be \(rows, 64\), got \(3, 65\)"):
        rotate(device, rotation, device.xp.zeros((3, 65), np.float32))
    with pytest.raises(InvalidDtype, match="must be float32, got float64"):
        unrotate(device, rotation, device.xp.zeros((3, 64)))
