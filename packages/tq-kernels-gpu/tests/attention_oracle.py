"""Packed tokens of several lanes, what they decode to, and attention over that in float64."""

from typing import Any, NamedTuple

import numpy as np
from gpu_plans import scalar_plan

from tq_core.numpy_backend import NumpyBackend
from tq_core.rotation import Rotation
from tq_core.trellis_plan import TrellisPlan
from tq_core.trellis_table import trellis
from tq_kernels_gpu.attention import PackedAttention, Partial
from tq_kernels_gpu.backend import GpuBackend

NUMPY = NumpyBackend()


class Store(NamedTuple):
    """Packed keys and values, what they decode to (float64), and queries (lanes, groups, count, key dim)."""

    plans: tuple[Any, Any]
    packed: dict[str, np.ndarray]
    keys: np.ndarray
    values: np.ndarray
    queries: np.ndarray


def plan_of(dim, bits):
    """A plan of so many bits; a pair (bits, states) is a trellis."""
    if isinstance(bits, tuple):
        return TrellisPlan(Rotation(dim, "hadamard", 7), trellis(*bits), "unbiased", (1.0,), False)
    return scalar_plan(dim, bits)


def make_store(dims, bits, *, lanes=2, groups=3, count=2, tokens=70, spread=1.0, scale_dtype=np.float32, seed=0):
    """Random normal tokens, encoded by `numpy`; `spread`: standard deviation of the logits at scale dim ** -0.5."""
    rng = np.random.default_rng([seed, *dims, tokens])
    plans, packed, decoded = [], {}, []
    for name, dim, width in zip(("key", "value"), dims, bits, strict=True):
        plan = plan_of(dim, width)
        rows, scales, _ = NUMPY.encode(plan, rng.standard_normal((lanes * tokens, dim)).astype(np.float32))
        scales = scales.astype(scale_dtype)
        unit = NUMPY.decode(plan, rows, np.ones(lanes * tokens, np.float32), None).astype(np.float64)
        plans.append(plan)
        packed[f"{name}_packed"] = rows.reshape(lanes, tokens, plan.row_bytes)
        packed[f"{name}_scales"] = scales.reshape(lanes, tokens)
        decoded.append((unit * scales.astype(np.float64)[:, None]).reshape(lanes, tokens, dim))
    queries = (spread * rng.standard_normal((lanes, groups, count, dims[0]))).astype(np.float32)
    return Store((plans[0], plans[1]), packed, decoded[0], decoded[1], queries)


def oracle(store, *, scale, softcap=0.0, limits=None, mask=None):
    """The partial in float64."""
    logits = np.einsum("lgnd,ltd->lgnt", store.queries.astype(np.float64), store.keys) * scale
    if softcap:
        logits = softcap * np.tanh(logits / softcap)
    at = np.arange(logits.shape[-1])
    if limits is not None:
        logits = np.where((at >= limits[:, :1]) & (at < limits[:, 1:]), logits, -np.inf)
    if mask is not None:
        logits = np.where(mask, logits, -np.inf)
    maxima = logits.max(axis=-1, initial=-np.inf)
    weights = np.exp(logits - np.where(np.isinf(maxima), 0, maxima)[..., None])
    return Partial(np.einsum("lgnt,ltd->lgnd", weights, store.values), maxima, weights.sum(axis=-1))


def attended(device, store, accuracy, **options):
    """What the device finds, on the host."""
    door = PackedAttention(*store.plans, GpuBackend(device), accuracy=accuracy)
    up = {name: None if array is None else device.asarray(array) for name, array in options.items() if _is_array(array)}
    options = {"scale": store.keys.shape[2] ** -0.5, **options, **up}
    packed = {name: device.asarray(array) for name, array in store.packed.items()}
    part = door.attend(**packed, queries=device.asarray(store.queries), **options)
    return Partial(*(device.to_host(array) for array in part))


def error_of(device, store, accuracy, **options):
    """The relative error of the finished output against float64; maxima and sums are compared within it, too."""
    options.setdefault("scale", store.keys.shape[2] ** -0.5)
    got = attended(device, store, accuracy, **options)
    expected = oracle(store, **options)
    seen = expected.sums > 0
    assert got.values.dtype == got.maxima.dtype == got.sums.dtype == np.float32
    assert got.values.shape == expected.values.shape
    assert (np.isneginf(got.maxima) == ~seen).all()
    assert ((got.sums > 0) == seen).all()
    assert not got.values[~seen].any()
    peak = 1 + np.abs(expected.maxima[seen]).max(initial=0)
    np.testing.assert_allclose(
        got.maxima[seen], expected.maxima[seen], atol=(1e-5 if accuracy == "exact" else 2e-3) * peak
    )
    return relative(got.finished(), expected.finished())


def relative(got, expected):
    """Norm of the difference over the norm of what was expected."""
    return float(np.linalg.norm(got - expected) / max(float(np.linalg.norm(expected)), 1e-30))


def _is_array(value):
    return isinstance(value, np.ndarray)
