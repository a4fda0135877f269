"""What has to hold before anything is timed: results on fresh random input, checked against float64 on the host.

Memory that results will lie in is filled with 0xFF first (NaN as a float, and no code that was written), so that what a
kernel leaves out shows.
"""

import secrets
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tq_core import TrellisQuant, TurboQuantMSE, VectorCodec
from tq_core.numpy_backend import NumpyBackend
from tq_core.registry import Plan
from tq_kernels_gpu.attention import PackedAttention
from tq_kernels_gpu.backend import GpuBackend
from tq_kernels_gpu.device import Device
from tq_kernels_gpu.ops.encode import encode

NUMPY = NumpyBackend()
BOUNDS = {"exact": 1e-5, "integer": 2e-3}  # of attention, as its tests
SCORES = 1e-4


class Found(NamedTuple):
    """One thing that was checked."""

    what: str
    error: float
    bound: float

    @property
    def holds(self) -> bool:
        """Whether it is within its bound; NaN is not."""
        return self.error <= self.bound


def plan_of(dim: int, bits: int | str) -> Plan:
    """A plan of so many bits, "t2" for a trellis of 2."""
    if isinstance(bits, str):
        return VectorCodec(TrellisQuant(dim, int(bits[1:]), backend="numpy")).plan
    return VectorCodec(TurboQuantMSE(dim, bits, backend="numpy")).plan


def poison(device: Device, size_bytes: int) -> None:
    """Fill memory that the device's pool then hands out again, for results of up to that size."""
    xp = device.xp
    held = [xp.full(size, 0xFF, np.uint8) for size in (1 << i for i in range(9, size_bytes.bit_length() + 1))]
    del held


def check_encode(device: Device, plan: Plan, rows: int, dtype: str, rng: np.random.Generator) -> Found:
    """Codes and scales that differ from those of `numpy`, in bits."""
    x = rng.standard_normal((rows, plan.dim)).astype(dtype)
    poison(device, rows * plan.row_bytes)
    packed, scales, _ = encode(device, plan, device.asarray(x))
    expected = NUMPY.encode(plan, x)
    wrong = (device.to_host(packed) != expected[0]).sum() + (device.to_host(scales) != expected[1]).sum()
    return Found(f"encode {rows} x {plan.dim} {dtype}, bytes and scales that differ", float(wrong), 0.0)


def check_scores(device: Device, plan: Plan, rows: int, rng: np.random.Generator) -> Found | None:
    """Scores of one query against float64; None where this build has no scores."""
    try:
        from tq_kernels_gpu.ops.scores import scores
    except ImportError:
        return None
    packed, scales, _ = NUMPY.encode(plan, rng.standard_normal((rows, plan.dim)).astype(np.float32))
    query = rng.standard_normal((1, plan.dim)).astype(np.float32)
    poison(device, 4 * rows)
    got = scores(device, plan, device.asarray(packed), device.asarray(scales), None, device.asarray(query))
    decoded = NUMPY.decode(plan, packed, scales, None).astype(np.float64)
    return Found(f"scores {rows} x {plan.dim}", relative(device.to_host(got), query @ decoded.T), SCORES)


def check_attention(
    device: Device, plans: tuple[Plan, Plan], tokens: int, heads: int, accuracy: str, rng: np.random.Generator
) -> Found:
    """Finished attention of one key/value head and its query heads against float64."""
    arrays: list[Any] = []
    decoded = []
    for plan in plans:
        packed, scales, _ = NUMPY.encode(plan, rng.standard_normal((tokens, plan.dim)).astype(np.float32))
        decoded.append(NUMPY.decode(plan, packed, scales, None).astype(np.float64))
        arrays += [device.asarray(packed[None]), device.asarray(scales[None])]
    queries = rng.standard_normal((1, heads, 1, plans[0].dim)).astype(np.float32)
    scale = plans[0].dim ** -0.5
    poison(device, 1 << 20)
    door = PackedAttention(*plans, GpuBackend(device), accuracy=accuracy)
    got = device.to_host(door.attend(*arrays, device.asarray(queries), scale=scale).finished())
    logits = queries[0, :, 0] @ decoded[0].T * scale
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    expected = weights @ decoded[1] / weights.sum(axis=1, keepdims=True)
    what = f"attention {plans[0].codebook.bits}/{plans[1].codebook.bits} bits, {tokens} tokens, {accuracy}"
    return Found(what, relative(got[0, :, 0], expected), BOUNDS[accuracy])


def relative(got: NDArray[Any], expected: NDArray[Any]) -> float:
    """Norm of the difference over the norm of what was expected; NaN stays NaN."""
    return float(np.linalg.norm(got - expected) / np.linalg.norm(expected))


def check_all(device: Device, rows: int = 4096, tokens: int = 4096) -> list[Found]:
    """Everything that is timed, on smaller input that no earlier run has seen."""
    rng = np.random.default_rng(secrets.randbits(64))
    found: list[Found | None] = [
        check_encode(device, plan_of(128, bits), rows, dtype, rng)
        for bits in (4, 3, 2)
        for dtype in ("float16", "float32")
    ]
    found += [check_scores(device, plan_of(dim, 4), rows, rng) for dim in (128, 1536)]
    for bits in ((4, 4), (3, 3), (8, 4), (4, 2)):
        plans = plan_of(128, bits[0]), plan_of(128, bits[1])
        found += [check_attention(device, plans, tokens, heads, "integer", rng) for heads in (4, 16)]
    found.append(check_attention(device, (plan_of(128, 4), plan_of(128, 4)), tokens, 4, "exact", rng))
    trellis = plan_of(128, "t2"), plan_of(128, "t2")
    found.append(
        check_attention(device, trellis, min(tokens, 512), 4, "integer", rng)
    )  # `numpy` walks trellises slowly
    return [one for one in found if one is not None]
