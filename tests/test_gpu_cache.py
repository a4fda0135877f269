"""Caches on the kernels of tq-kernels-gpu: they decode and attend to what those of the host do, and are saved alike.

Kernels run on the CPU by the shim of that package's tests, upon arrays as strict as cupy's; with `-m gpu`, on a GPU.
"""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

from tq_cache import DecoderCache
from tq_core.errors import BackendUnavailable, TurboQuantError
from tq_core.strict_device import installed, waits
from tq_kernels_gpu.attention import PackedAttention
from tq_kernels_gpu.backend import GpuBackend
from tq_kernels_gpu.cupy_device import CupyDevice

SHIM = Path(__file__).parents[1] / "packages" / "tq-kernels-gpu" / "tests" / "shim"

POLICIES = [
    "k=mse4,v=mse4,sinks=2,window=4",
    "k=mse3,v=mse2.5,kscale=norm,vscale=mse,norms=float32,window=2",
    "k=mse8,v=mse1,kmean=2,window=1",
    "k=mse3x16+mse2,v=int4,ksplit=3,sinks=1",
    "k=prod4,v=mse4",
    "k=trellis4s256,v=trellis3s8,sinks=1",
]


def _shim():
    sys.path.append(str(SHIM))
    if importlib.import_module("shim_device").compiler() is None:
        pytest.skip("g++ is not installed: kernels cannot be run on the CPU")
    return importlib.import_module("strict_shim").StrictShim()


def _gpu():
    try:
        return CupyDevice.current()
    except BackendUnavailable as error:
        pytest.skip(f"nothing ran on a GPU: {error.reason}")


@pytest.fixture(params=[_shim, pytest.param(_gpu, marks=pytest.mark.gpu)])
def device(request):
    """A device, as the one of the backend `gpu`."""
    made = request.param()
    with installed(GpuBackend(made)):
        yield made


@pytest.mark.parametrize("policy", POLICIES)
def test_a_cache_of_kernels_is_that_of_the_host(device, policy, tmp_path):
    random = np.random.default_rng(5)
    here, there = (DecoderCache(1, 2, 64, policy, batch=2, backend=name) for name in ("numpy", "gpu"))
    put, back = device.asarray, device.to_host
    for tokens in (1, 6, 3):
        keys, values = random.standard_normal((2, 2, 2, tokens, 64)).astype(np.float32)
        expected = here.update(keys, values, 0)
        found = there.update(put(keys), put(values), 0)
        for got, want in zip(found, expected, strict=True):
            np.testing.assert_allclose(back(got), want, rtol=1e-5, atol=1e-5)
        queries = random.standard_normal((2, 4, 1, 64)).astype(np.float32)
        for options in ({}, {"causal": True, "softcap": 3.0}):
            found = back(there.attend(put(queries), 0, **options))
            np.testing.assert_allclose(found, here.attend(queries, 0, **options), atol=1e-4)
        np.testing.assert_allclose(back(there.scores(put(queries), 0)), here.scores(queries, 0), atol=1e-3)
    here.crop([9, 7])
    there.crop([9, 7])
    here.save(tmp_path / "here")
    there.save(tmp_path / "there")
    assert (tmp_path / "there").read_bytes() == (tmp_path / "here").read_bytes()
    again = DecoderCache.load(tmp_path / "here", backend="gpu")
    queries = random.standard_normal((2, 4, 1, 64)).astype(np.float32)
    np.testing.assert_allclose(back(again.attend(put(queries), 0)), here.attend(queries, 0), atol=1e-4)


def test_torch_tensors_come_and_go(device):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    if not isinstance(device, CupyDevice):
        pytest.skip("tensors of torch lie on a GPU or on the host")
    cache = DecoderCache(1, 2, 64, "balanced", backend="gpu")
    states = torch.randn(1, 2, 5, 64, device="cuda", dtype=torch.float16)
    keys, _ = cache.update(states, states, 0)
    assert torch.equal(torch.from_dlpack(keys), states)


@pytest.mark.parametrize("accuracy", ["exact", "integer"])
def test_codes_are_attended_to_by_one_kernel_and_nothing_leaves_the_device(device, accuracy, monkeypatch):
    seen = []
    attend = PackedAttention.attend
    monkeypatch.setattr(
        PackedAttention, "attend", lambda self, *a, **o: seen.append(self.accuracy) or attend(self, *a, **o)
    )
    x = np.random.default_rng(2).standard_normal((1, 2, 40, 64)).astype(np.float32)
    here, there = (DecoderCache(1, 2, 64, "k=mse4,v=mse4,window=8", backend=name) for name in ("numpy", "gpu"))
    here.append(x, -x, 0)
    states = device.asarray(x), device.asarray(-x), device.asarray(x[:, [0, 0, 1, 1], -2:])
    downloads = getattr(device, "downloads", 0)
    there.append(*states[:2], 0)
    found = there.attend(states[2], 0, causal=True, mask=np.arange(40) > np.zeros((2, 1)), accuracy=accuracy)
    assert seen == [accuracy]
    assert getattr(device, "downloads", 0) == downloads
    expected = here.attend(x[:, [0, 0, 1, 1], -2:], 0, causal=True, mask=np.arange(40) > np.zeros((2, 1)))
    np.testing.assert_allclose(device.to_host(found), expected, atol=1e-4 if accuracy == "exact" else 2e-2)


@pytest.mark.parametrize("policy", POLICIES)
def test_bad_numbers_pass_through_kernels_and_are_told_as_on_the_host(device, policy, tmp_path):
    random = np.random.default_rng(5)
    here, there = (DecoderCache(1, 2, 64, policy, backend=name) for name in ("numpy", "gpu"))
    x = random.standard_normal((1, 2, 9, 64)).astype(np.float32)
    here.append(x, -x, 0)
    there.append(device.asarray(x), device.asarray(-x), 0)
    for bad in (np.nan, np.inf, 1e30, 1e300):
        for side in (0, 1):
            both = random.standard_normal((2, 1, 2, 6, 64)).astype(np.float64 if bad == 1e300 else np.float32)
            both[side, 0, 1, 3, 7] = bad
            told = []
            for cache, put in ((here, np.asarray), (there, device.asarray)):
                try:
                    told.append(cache.append(put(both[0]), put(both[1]), 0))
                except TurboQuantError as error:
                    told.append(f"{type(error).__name__}: {error}")
            assert told[0] == told[1]
    here.save(tmp_path / "here")
    there.save(tmp_path / "there")
    assert (tmp_path / "there").read_bytes() == (tmp_path / "here").read_bytes()


@pytest.mark.parametrize("options", [{}, {"accuracy": "integer"}, {"causal": True}, {"softcap": 3.0}])
def test_a_step_waits_for_the_device_once(device, options):
    if isinstance(device, CupyDevice):
        pytest.skip("waits are counted by strict arrays")
    cache = DecoderCache(1, 2, 64, "k=mse4,v=mse4,sinks=2,window=4", backend="gpu")
    states, queries = (device.asarray(np.ones((1, heads, 2, 64), np.float16)) for heads in (2, 4))
    for _ in range(5):
        before = waits()
        cache.append(states, states, 0)
        cache.attend(queries, 0, **options)
        assert waits() - before == 2
