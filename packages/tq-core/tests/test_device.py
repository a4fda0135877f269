"""Arrays on a device: encoded where they lie, bit for bit as on the host, and never transferred unasked."""

from functools import reduce

import numpy as np
import pytest

from tq_core import (
    QJL,
    BackendUnavailable,
    Codes,
    Encoded,
    InvalidDtype,
    InvalidSpec,
    NotFinite,
    NotUnitNorm,
    OutOfDeviceMemory,
    PolarQuant,
    ScaleRange,
    ShapeMismatch,
    TrellisQuant,
    TurboQuantMSE,
    TurboQuantProd,
    VectorCodec,
    WrongDevice,
    normalize,
    registry,
    strict_device,
    testing,
)
from tq_core.device import is_on_device, typed_memory
from tq_core.strict_device import HostGpu, StrictArray, full_after, installed, waits


def dtype_of(name):
    """A dtype by name; bfloat16 comes from ml_dtypes, or the test is skipped."""
    if name == "bfloat16":
        reason = "bfloat16 arrays come from ml_dtypes, which is not installed"
        return pytest.importorskip("ml_dtypes", reason=reason).bfloat16
    return np.dtype(name)


def samples(dim, seed=0):
    """Those of the contract suite that float16 norms can hold."""
    return testing.samples(dim, seed)[:17]


QUANTIZERS = {
    "mse": lambda **options: TurboQuantMSE(64, 4, **options),
    "mixed": lambda **options: TurboQuantMSE(64, 2.5, **options),
    "prod": lambda **options: TurboQuantProd(64, 3, **options),
    "trellis": lambda **options: TrellisQuant(64, 2, states=8, **options),
}


@pytest.fixture
def gpu(monkeypatch):
    """A backend `gpu` whose arrays are as strict as cupy's."""
    monkeypatch.delenv("TQ_BACKEND", raising=False)
    with installed(HostGpu()) as backend:
        yield backend


@pytest.fixture(params=QUANTIZERS)
def make(request):
    """A maker of quantizers: `make(backend=...)`."""
    return QUANTIZERS[request.param]


def test_what_lies_on_a_device(gpu):
    class Unreadable:
        def __dlpack_device__(self):
            raise ValueError("device meta has no memory")

    class Numba:
        __cuda_array_interface__ = property(lambda self: {})

    assert is_on_device(gpu.device.asarray(np.zeros(3)))
    assert is_on_device(Unreadable())
    assert is_on_device(Numba())
    assert not any(map(is_on_device, (np.zeros(3), [1.0], 1.0, None, "text")))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bfloat16"])
@pytest.mark.parametrize("backend", ["auto", "gpu"])
def test_the_codec_gives_the_same_codes_without_a_transfer(gpu, make, backend, dtype):
    x = (samples(64) * 0.5).astype(dtype_of(dtype))
    expected = VectorCodec(make(backend="numpy"), search=0).encode(x)
    codec = VectorCodec(make(backend=backend))
    found = codec.encode(gpu.device.asarray(x))
    assert gpu.device.downloads == 0
    assert type(found) is Encoded
    assert found.on_device
    assert all(type(array) is StrictArray for array in found.arrays.values())
    assert (len(found), found.nbytes, found.single) == (17, expected.nbytes, False)
    assert found.to_host() == expected
    assert not found.to_host().on_device


def test_all_else_on_rows_of_a_device_stays_there(gpu, make):
    x, queries = samples(64) * 0.5, samples(64, 1)[:3]
    here, there = VectorCodec(make(backend="numpy")), VectorCodec(make())
    rows, moved = here.encode(x), there.encode(gpu.device.asarray(x))
    asked, weights = gpu.device.asarray(queries), gpu.device.asarray(np.ones((2, 17), np.float32))
    mask = np.arange(17) % 2 == 0
    found = {
        "decode": there.decode(moved),
        "scores": there.scores(moved, asked),
        "combine": there.combine(moved, weights),
        "best": there.search(moved, asked, 3)[1],
        "eligible": there.search(moved, asked, 3, gpu.device.asarray(mask))[1],
    }
    assert gpu.device.downloads == 0
    expected = {
        "decode": here.decode(rows),
        "scores": here.scores(rows, queries),
        "combine": here.combine(rows, np.ones((2, 17))),
        "best": here.search(rows, queries, 3)[1],
        "eligible": here.search(rows, queries, 3, mask)[1],
    }
    for name, array in found.items():
        np.testing.assert_array_equal(gpu.device.to_host(array), expected[name], err_msg=name)


def test_quantizers_keep_their_strict_contract_there(gpu, make):
    x = normalize(samples(64)[:8])[0]
    here, there = make(backend="numpy"), make()
    codes = there.quantize(gpu.device.asarray(x))
    assert type(codes) is Codes
    assert codes.to_host() == here.quantize(x)
    np.testing.assert_array_equal(gpu.device.to_host(there.dequantize(codes)), here.dequantize(here.quantize(x)))
    scores = there.scores(codes, gpu.device.asarray(x[:2]))
    np.testing.assert_array_equal(gpu.device.to_host(scores), here.scores(here.quantize(x), x[:2]))
    with pytest.raises(NotUnitNorm, match=r"row 1 has norm 2, expected 1 within 0\.0001 for float32"):
        there.quantize(gpu.device.asarray(np.eye(8, 64, dtype=np.float32) * np.array([[1], [2]] * 4, np.float32)))


def test_a_single_vector_stays_single(gpu):
    codec = VectorCodec(TurboQuantMSE(64, 4))
    found = codec.encode(gpu.device.asarray(samples(64)[0]))
    assert found.single
    assert codec.decode(found).shape == (64,)


def test_rows_are_picked_and_joined_where_they_lie(gpu):
    codec = VectorCodec(TurboQuantMSE(64, 4))
    x = samples(64)[:9]
    rows, there = codec.encode(x), codec.encode(gpu.device.asarray(x))
    mask = np.arange(9) % 3 == 0
    for index in (slice(2, 5), slice(None, None, 2), 3, [4, -1, 0], mask, np.array([], np.int64)):
        assert there[index].on_device
        assert there[index].to_host() == rows[index]
    assert there[gpu.device.asarray(mask)].to_host() == rows[mask]
    assert Encoded.concatenate([there[:2], there[2:]]).to_host() == rows
    assert there == codec.encode(gpu.device.asarray(x))
    assert there != rows
    assert Encoded.from_bytes(there.to_bytes()) == rows
    assert rows.to_device() == there
    assert there.to_device() is there
    assert rows.to_host() is rows
    assert codec.wrap(there.arrays).to_host() == rows
    assert Encoded(there.spec, there.arrays).to_host() == rows


@pytest.mark.parametrize("name", ["numpy", "simd", "scalar"])
def test_an_explicit_backend_of_the_host_is_not_left(gpu, name):
    if name == "simd":
        pytest.importorskip("tq_kernels_simd", reason="tq-kernels-simd is not installed")
    codec = VectorCodec(TurboQuantMSE(64, 4, backend=name))
    with pytest.raises(
        WrongDevice, match=f"x lies on a device and backend '{name}' computes on the host.*backend='gpu'"
    ):
        codec.encode(gpu.device.asarray(samples(64)))
    with pytest.raises(WrongDevice, match="rows lies on a device"):
        codec.decode(codec.encode(samples(64)).to_device())


def test_what_the_environment_names_is_explicit_too(gpu, monkeypatch):
    monkeypatch.setenv("TQ_BACKEND", "numpy")
    with pytest.raises(WrongDevice, match="backend 'numpy' computes on the host"):
        TurboQuantMSE(64, 4).quantize(gpu.device.asarray(samples(64)))


def test_arrays_that_lie_apart_are_refused(gpu):
    codec = VectorCodec(TurboQuantMSE(64, 4))
    x = samples(64)
    there, here = codec.encode(gpu.device.asarray(x)), codec.encode(x)
    with pytest.raises(WrongDevice, match="queries lies on the host"):
        codec.scores(there, x)
    with pytest.raises(WrongDevice, match="queries lies on a device"):
        codec.search(here, gpu.device.asarray(x), 3)
    with pytest.raises(WrongDevice, match="weights lies on the host"):
        codec.combine(there, np.ones(17))
    with pytest.raises(WrongDevice, match="mask lies on the host"):
        codec.search(there, gpu.device.asarray(x), 3, np.ones(17, bool))
    with pytest.raises(WrongDevice, match="first on a device, part on the host"):
        Encoded.concatenate([there, here])
    with pytest.raises(WrongDevice, match="packed on a device, scales on the host"):
        Encoded(there.spec, {**here.arrays, "packed": there.arrays["packed"]})
    quantizer = TurboQuantMSE(64, 4)
    codes = quantizer.quantize(gpu.device.asarray(normalize(x[:3])[0]))
    with pytest.raises(WrongDevice, match="queries lies on the host"):
        quantizer.scores(codes, x)


def test_without_a_device_the_reason_is_given(monkeypatch):
    monkeypatch.delenv("TQ_BACKEND", raising=False)
    array = HostGpu().device.asarray(samples(64))
    codec = VectorCodec(TurboQuantMSE(64, 4))
    monkeypatch.setattr(registry, "loaders", dict)
    registry._load.cache_clear()
    try:
        with pytest.raises(BackendUnavailable, match=r"backend 'gpu' cannot run.*pip install tq-kernels-gpu"):
            codec.encode(array)
    finally:
        registry._load.cache_clear()


def test_bad_input_is_told_as_on_the_host(gpu):
    codec = VectorCodec(TurboQuantMSE(64, 4))
    put = gpu.device.asarray
    bad = samples(64).copy()
    bad[3, 5] = np.nan
    with pytest.raises(NotFinite, match=r"x\[3, 5\] is nan"):
        codec.encode(put(bad))
    with pytest.raises(ShapeMismatch, match=r"must have shape \(64,\) or \(rows, 64\), got \(2, 65\)"):
        codec.encode(put(np.zeros((2, 65), np.float32)))
    with pytest.raises(InvalidDtype, match="float16, float32 or float64, got int32"):
        codec.encode(put(np.zeros((2, 64), np.int32)))
    with pytest.raises(ScaleRange, match=r"scale of row 1 \(norm 8e\+06\) overflows float16"):
        codec.encode(put(np.stack([np.ones(64), np.full(64, 1e6)])))
    with pytest.raises(ScaleRange, match="row 0 has norm 8e-09, which float16 would store as 0"):
        codec.encode(put(np.full((1, 64), 1e-9, np.float32)))
    with pytest.raises(ScaleRange, match=r"queries\[0, 0\] is 1e\+20"):
        codec.scores(codec.encode(put(samples(64))), put(np.full((1, 64), 1e20)))


def test_what_the_host_alone_computes_says_so(gpu):
    x = gpu.device.asarray(normalize(samples(64)[:3])[0])
    for make in (lambda: PolarQuant(64, 4).quantize(x), lambda: QJL(64).quantize(x), lambda: normalize(x)):
        with pytest.raises(WrongDevice, match="x lies on a device and is read on the host"):
            make()
    with pytest.raises(WrongDevice, match="x lies on a device"):
        VectorCodec(PolarQuant(64, 4)).encode(x)
    for encoded in (VectorCodec(PolarQuant(64, 4)).encode(samples(64)), QJL(64).quantize(samples(64))):
        with pytest.raises(InvalidSpec, match="read by the host only"):
            encoded.to_device()


def test_strides_are_taken_as_they_come(gpu):
    codec = VectorCodec(TurboQuantMSE(32, 4))
    x = samples(128)
    assert codec.encode(gpu.device.asarray(x)[::2, 32:64]).to_host() == codec.encode(x[::2, 32:64])


def test_what_array_modules_raise_becomes_a_typed_error():
    full = type("OutOfMemoryError", (MemoryError,), {"__module__": "cupy.cuda.memory"})

    def raising(error):
        @typed_memory
        def allocate():
            raise error

        return allocate

    with pytest.raises(OutOfDeviceMemory, match="the device is full: 5 bytes; give back") as caught:
        raising(full("5 bytes"))()
    assert isinstance(caught.value.__cause__, full)
    with pytest.raises(MemoryError) as host:
        raising(MemoryError("of the host"))()
    assert not isinstance(host.value, OutOfDeviceMemory)
    with pytest.raises(OutOfDeviceMemory, match=r"^already$"):
        raising(OutOfDeviceMemory("already"))()


def test_a_full_device_is_a_typed_error(gpu):
    codec, x = VectorCodec(TurboQuantMSE(64, 4)), gpu.device.asarray(samples(64))
    with full_after(2), pytest.raises(OutOfDeviceMemory, match="the device is full"):
        codec.encode(x)
    assert len(codec.encode(x)) == 17


def test_the_strict_device_is_strict(gpu):
    array = gpu.device.asarray(np.ones((2, 3), np.float32))
    for forbidden in (
        lambda: np.asarray(array),
        lambda: array + np.ones(3),
        lambda: np.add.reduce(array),
        lambda: np.add(array, 1, where=False),
        lambda: np.kron(array, array),
        lambda: array[np.array([0])],
        lambda: array.max(initial=0),
        lambda: np.concatenate([array, np.ones((2, 3))]),
        lambda: gpu.device.xp.zeros_like(np.ones(3)),
    ):
        with pytest.raises(TypeError):
            forbidden()
    with pytest.raises(AttributeError):
        _ = gpu.device.xp.put_along_axis
    with pytest.raises(AttributeError):
        array.setflags(write=False)


def test_what_the_strict_device_allows_is_what_cupy_has():
    cupy = pytest.importorskip("cupy", reason="cupy, which needs no device to be asked for its names, is not installed")
    for name in (*strict_device.FROM_ARRAYS, *strict_device.FROM_NOTHING):
        assert callable(reduce(getattr, name.split("."), cupy)), name
    assert not strict_device.METHODS - set(dir(cupy.ndarray))
    for name in strict_device.FACTS:
        assert hasattr(cupy.ndarray, name), name


@pytest.mark.parametrize("norms", ["float16", "float32"])
def test_a_call_waits_for_the_device_once(gpu, make, norms):
    codec, quantizer, put = VectorCodec(make(), norm_dtype=norms), make(), gpu.device.asarray
    x, asked, mask = put(samples(64) * 0.5), put(samples(64, 1)[:3]), put(np.arange(17) % 2 == 0)
    units = put(normalize(samples(64)[:8])[0])
    rows, codes = codec.encode(x), quantizer.quantize(units)
    calls = {
        "encode": (1, lambda: codec.encode(x)),
        "quantize": (1, lambda: quantizer.quantize(units)),
        "scores": (1, lambda: codec.scores(rows, asked)),
        "scores of codes": (1, lambda: quantizer.scores(codes, asked)),
        "combine": (1, lambda: codec.combine(rows, put(np.ones((2, 17), np.float32)))),
        "search": (1, lambda: codec.search(rows, asked, 3, mask)),
        "decode": (0, lambda: codec.decode(rows)),
        "dequantize": (0, lambda: quantizer.dequantize(codes)),
    }
    for name, (most, call) in calls.items():
        before = waits()
        call()
        assert waits() - before <= most, name


def test_wherever_a_device_is_full_the_error_is_typed(gpu):
    codec, put = VectorCodec(TurboQuantMSE(64, 4)), gpu.device.asarray
    x = samples(64)
    here, there, asked, weights = codec.encode(x), codec.encode(put(x)), put(x[:3]), put(np.ones((2, 17)))
    sparse = {name: put(np.repeat(array, 2, axis=0))[::2] for name, array in here.arrays.items()}
    for call in (
        lambda: here.to_device(),
        lambda: there[[1, 2]],
        lambda: there[::2],
        lambda: Encoded.concatenate([there, there]),
        lambda: Encoded(there.spec, sparse),
        lambda: codec.wrap(sparse),
        lambda: codec.scores(there, asked),
        lambda: codec.search(there, asked, 3),
        lambda: codec.decode(there),
        lambda: codec.combine(there, weights),
    ):
        with full_after(0), pytest.raises(OutOfDeviceMemory, match="the device is full"):
            call()
        call()


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30, 1e-30, -0.0])
def test_bits_of_bfloat16_are_told_as_the_numbers_that_they_are(gpu, make, bad):
    x = (samples(64)[:5] * 0.5).astype(dtype_of("bfloat16"))
    x[3] = 0
    x[3, 5] = bad
    told = []
    for codec, rows in (
        (VectorCodec(make(backend="numpy")), x.astype(np.float32)),
        (VectorCodec(make(backend="gpu")), gpu.device.asarray(x)),
    ):
        try:
            told.append(codec.encode(rows).to_host())
        except (NotFinite, ScaleRange) as error:
            told.append(f"{type(error).__name__}: {error}")
    assert told[0] == told[1]
    assert type(told[0]) is (Encoded if bad == 0 else str)


def test_the_bits_of_bfloat16_are_not_widened_before_they_are_encoded(gpu, make, monkeypatch):
    seen = []
    encode = gpu.on_device.encode
    monkeypatch.setattr(gpu.on_device, "encode", lambda plan, x: seen.append(x.dtype) or encode(plan, x))
    VectorCodec(make()).encode(gpu.device.asarray(samples(64).astype(dtype_of("bfloat16"))))
    assert seen == [np.uint16]
    with pytest.raises(InvalidDtype, match="got uint16"):
        VectorCodec(make()).encode(gpu.device.asarray(np.ones((2, 64), np.uint16)))
