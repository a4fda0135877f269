"""`on_device`: the operations for arrays of the device are those for arrays of the host, without the transfers."""

import importlib

import numpy as np
import pytest
from gpu_plans import scalar_plan

from tq_core import TrellisQuant, TurboQuantMSE, TurboQuantProd, VectorCodec, normalize
from tq_core.numpy_backend import NumpyBackend
from tq_core.rotation import Rotation
from tq_core.strict_device import StrictArray, installed
from tq_core.testing import samples
from tq_kernels_gpu import tables
from tq_kernels_gpu.backend import GpuBackend
from tq_kernels_gpu.resident import Resident

NUMPY = NumpyBackend()


@pytest.fixture
def strict(shim):
    """A device that runs kernels on the CPU, with arrays as strict as cupy's; none was downloaded yet."""
    return importlib.import_module("strict_shim").StrictShim()


@pytest.mark.parametrize("dim", [3, 48, 64, 100, 128])
def test_operations_stay_on_the_device(strict, dim):
    backend, plan, x = GpuBackend(strict), scalar_plan(dim, 4), samples(dim)
    there = backend.on_device
    z = there.rotate(plan.rotation, strict.asarray(x))
    turned = there.unrotate(plan.rotation, z)
    packed, scales, gammas = there.encode(plan, strict.asarray(x))
    decoded = there.decode(plan, packed, scales, gammas)
    asked, weights = strict.asarray(x[:3]), strict.asarray(x[:2, :1].repeat(len(x), axis=1))
    scored = there.scores(plan, packed, scales, gammas, asked)
    summed = there.combine(plan, packed, scales, gammas, weights)
    best, rows = there.search(
        plan, packed, scales, gammas, asked, 3, strict.asarray(np.arange(len(x)) % 2 == 0), "auto"
    )
    assert strict.downloads == 0
    assert all(type(array) is StrictArray for array in (scored, summed, best, rows))
    assert (scored.shape, summed.shape, rows.shape, best.shape) == ((3, len(x)), (2, dim), (3, 3), (3, 3))
    expected = NUMPY.encode(plan, x)
    for got, want in (
        (z, NUMPY.rotate(plan.rotation, x)),
        (turned, NUMPY.unrotate(plan.rotation, NUMPY.rotate(plan.rotation, x))),
        (packed, expected[0]),
        (scales, expected[1]),
        (decoded, NUMPY.decode(plan, *expected)),
    ):
        assert type(got) is StrictArray
        np.testing.assert_array_equal(strict.to_host(got), want)
    assert gammas is None


def test_arrays_of_the_host_come_back_to_it(strict):
    backend, rotation = GpuBackend(strict), Rotation(64, "hadamard", 1)
    assert type(backend.rotate(rotation, samples(64))) is np.ndarray


def test_tables_are_uploaded_once_for_both(strict):
    backend, rotation = GpuBackend(strict), Rotation(64, "hadamard", 1)
    there = backend.on_device
    assert backend.on_device is there
    backend.rotate(rotation, samples(64))
    held = tables.rotation_tables(strict, rotation)
    assert tables.rotation_tables(there.device, rotation) is held
    assert Resident(strict) == strict == Resident(strict)
    assert Resident(strict) != importlib.import_module("strict_shim").StrictShim()
    assert Resident(strict) != "device"


def test_a_codec_of_the_backend_gives_the_same_bytes(strict):
    quantizer = TurboQuantMSE(128, 4, backend="numpy")
    expected = VectorCodec(quantizer).encode(samples(128)[:17])
    quantizer = TurboQuantMSE(128, 4, backend="numpy")
    quantizer.backend = GpuBackend(strict)
    found = VectorCodec(quantizer).encode(strict.asarray(samples(128)[:17]))
    assert strict.downloads == 0
    for name, array in expected.arrays.items():
        np.testing.assert_array_equal(strict.to_host(found.arrays[name]), array)


@pytest.mark.parametrize("strides", [1, 2])
@pytest.mark.parametrize(
    "make",
    [
        lambda backend: TurboQuantMSE(128, 4, backend=backend),
        lambda backend: TurboQuantMSE(48, 2.5, backend=backend),
        lambda backend: TurboQuantProd(64, 3, backend=backend),
        lambda backend: TrellisQuant(64, 2, states=256, backend=backend),
    ],
)
def test_a_backend_named_explicitly_takes_arrays_of_the_host(strict, make, strides):
    with installed(GpuBackend(strict)):
        there, here = make("gpu"), make("numpy")
        x = samples(here.dim)[:17]
        x, queries, weights = x[::strides].astype(">f4"), x[:3], np.ones((2, len(x[::strides])))
        codec, expected = VectorCodec(there), VectorCodec(here)
        rows = codec.encode(x)
        assert rows == expected.encode(x)
        assert not rows.on_device
        for found, want in (
            (codec.decode(rows), expected.decode(rows)),
            (codec.scores(rows, queries), expected.scores(rows, queries)),
            (codec.combine(rows, weights), expected.combine(rows, weights)),
            (codec.search(rows, queries, 3, weights[0] > 0)[1], expected.search(rows, queries, 3)[1]),
        ):
            assert type(found) is np.ndarray
            np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-4)
        units = normalize(x[:8])[0]
        assert there.quantize(units) == here.quantize(units)
        assert type(there.dequantize(there.quantize(units))) is np.ndarray


@pytest.mark.parametrize("bits", [4, 2.5])
def test_bfloat16_is_read_by_the_kernel_itself(strict, bits):
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="bfloat16 arrays come from ml_dtypes, which is not installed")
    x = samples(128)[:17].astype(ml_dtypes.bfloat16)
    expected = VectorCodec(TurboQuantMSE(128, bits, backend="numpy")).encode(x.astype(np.float32))
    with installed(GpuBackend(strict)):
        assert VectorCodec(TurboQuantMSE(128, bits)).encode(strict.asarray(x)).to_host() == expected
