"""Arrays of cupy, torch and others on a GPU: taken where they lie, the same codes bit for bit; errors have types."""

import sys
import types

import numpy as np
import pytest

from tq_core import InvalidDtype, NotFinite, OutOfDeviceMemory, TurboQuantMSE, VectorCodec, WrongDevice
from tq_core.device import widened
from tq_core.strict_device import StrictArray, StrictDevice
from tq_core.testing import samples
from tq_kernels_gpu.cupy_device import CupyDevice

DTYPES = ["float16", "float32", "float64"]


class FakeArray(StrictArray):
    """What adopt looks at in an array of cupy."""

    number, offset = 0, 0

    @property
    def device(self):
        return types.SimpleNamespace(id=self.number)

    @property
    def data(self):
        return types.SimpleNamespace(ptr=4096 + self.offset)


class Foreign:
    """An array of another library on a GPU."""

    def __init__(self, held, dtype="float32", kind=2):
        self.held, self.dtype, self.kind = held, dtype, kind

    def __dlpack_device__(self):
        return self.kind, 0

    def __dlpack__(self, **_):
        if self.kind != 2:
            raise BufferError(f"no reader of device type {self.kind}")
        return self.held

    def view(self, dtype):
        return Foreign(self.held.view(dtype), "torch.int16")


@pytest.fixture
def fake(monkeypatch):
    """A CupyDevice without a GPU: cupy's arrays and from_dlpack are imitated, nothing can be launched."""
    device = object.__new__(CupyDevice)
    device.number = 0
    device.xp = types.SimpleNamespace(
        ndarray=FakeArray,
        from_dlpack=lambda array: FakeArray(array.__dlpack__()),
        asarray=lambda array: array.held,
        cuda=types.SimpleNamespace(runtime=types.SimpleNamespace(getDevice=lambda: 0)),
    )
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(int16=np.int16))
    return device


def test_an_array_of_cupy_is_taken_as_it_is(fake):
    array = FakeArray(np.ones((2, 3), np.float32))
    assert fake.adopt(array, "x") is array


def test_another_gpu_and_the_host_are_refused(fake):
    array = FakeArray(np.ones((2, 3), np.float32))
    array.number = 1
    with pytest.raises(WrongDevice, match="x lies on GPU 1, the kernels run on GPU 0"):
        fake.adopt(array, "x")
    with pytest.raises(WrongDevice, match="x lies on the host"):
        fake.adopt(np.ones(3), "x")


def test_another_current_device_is_refused(fake):
    fake.xp.cuda.runtime.getDevice = lambda: 1
    with pytest.raises(WrongDevice, match=r"GPU 1 is the current device, the kernels run on GPU 0; call within"):
        fake.adopt(FakeArray(np.ones((2, 3), np.float32)), "x")


def test_an_address_between_numbers_is_refused(fake):
    array = FakeArray(np.ones((2, 3), np.float32))
    array.offset = 2
    with pytest.raises(InvalidDtype, match="no multiple of its 4 bytes"):
        fake.adopt(array, "x")


def test_other_libraries_come_by_dlpack(fake):
    held = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert fake.adopt(Foreign(held), "x")._held is held
    with pytest.raises(InvalidDtype, match="x cannot be read as an array of cupy: no reader of device type 8"):
        fake.adopt(Foreign(held, kind=8), "x")


def test_bfloat16_is_widened_without_loss(fake):
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="bfloat16 arrays come from ml_dtypes, which is not installed")
    numbers = np.array([[1.5, -2.0, 3e38], [1e-40, np.inf, -0.0]], ml_dtypes.bfloat16)
    for array in (Foreign(numbers, "torch.bfloat16"), FakeArray(numbers)):
        found = fake.adopt(array, "x")
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found._held.view(np.uint32), numbers.astype(np.float32).view(np.uint32))
        bits = fake.adopt(array, "x", bits=True)
        assert bits.dtype == np.uint16
        np.testing.assert_array_equal(bits._held, numbers.view(np.uint16))
    bits = StrictDevice().asarray(numbers.view(np.uint16)[:, ::2])
    np.testing.assert_array_equal(widened(bits)._held, numbers[:, ::2].astype(np.float32))


@pytest.fixture
def cupy(gpu):
    """cupy, or a skip with the reason."""
    return gpu.xp


@pytest.fixture
def torch(gpu):
    """torch with a GPU, or a skip with the reason."""
    found = pytest.importorskip("torch", reason="torch is not installed")
    if not found.cuda.is_available():
        pytest.skip("this torch has no CUDA")
    return found


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
def test_arrays_of_cupy_on_a_gpu(cupy, dtype):
    x = samples(128)[:17].astype(dtype)
    codec = VectorCodec(TurboQuantMSE(128, 4))
    found = codec.encode(cupy.asarray(x))
    assert all(isinstance(array, cupy.ndarray) for array in found.arrays.values())
    assert found.to_host() == codec.encode(x)
    np.testing.assert_allclose(cupy.asnumpy(codec.decode(found)), codec.decode(codec.encode(x)), rtol=1e-6)
    assert found[2:5].to_host() == codec.encode(x)[2:5]
    assert codec.encode(x).to_device() == found


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [*DTYPES, "bfloat16"])
def test_tensors_of_torch_on_a_gpu(torch, dtype):
    tensor = torch.from_numpy(samples(128)[:17]).to("cuda").to(getattr(torch, dtype))
    codec = VectorCodec(TurboQuantMSE(128, 4))
    found = codec.encode(tensor)
    assert found.to_host() == codec.encode(tensor.to(torch.float64).cpu().numpy())
    back = torch.from_dlpack(found.arrays["packed"])
    assert back.device == tensor.device
    assert back.data_ptr() == found.arrays["packed"].data.ptr
    with pytest.raises(InvalidDtype, match="detach"):
        codec.encode(tensor.float().requires_grad_())


@pytest.mark.gpu
def test_bad_input_on_a_gpu(cupy):
    codec = VectorCodec(TurboQuantMSE(128, 4))
    with pytest.raises(NotFinite, match=r"x\[1, 0\] is nan"):
        codec.encode(cupy.asarray(np.full((2, 128), [[1.0], [np.nan]])))
    with pytest.raises(InvalidDtype, match="got int32"):
        codec.encode(cupy.zeros((2, 128), np.int32))
    with pytest.raises(WrongDevice, match="backend 'numpy' computes on the host"):
        VectorCodec(TurboQuantMSE(128, 4, backend="numpy")).encode(cupy.zeros((2, 128)))


@pytest.mark.gpu
def test_a_full_gpu_is_a_typed_error(cupy):
    pool = cupy.get_default_memory_pool()
    codec, x = VectorCodec(TurboQuantMSE(128, 4)), cupy.ones((1 << 16, 128), np.float32)
    codec.encode(x[:1])
    limit = pool.get_limit()
    pool.set_limit(size=pool.used_bytes() + 1024)
    try:
        with pytest.raises(OutOfDeviceMemory, match="the device is full"):
            codec.encode(x)
    finally:
        pool.set_limit(size=limit)
    assert len(codec.encode(x)) == 1 << 16
