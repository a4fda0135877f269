"""Float64 attention over decoded rows, and the largest error of the level in use against it, case by case.

A program of its own, since a level is chosen when the module is imported: `attention_oracle.py GROUP ACCURACY`
prints JSON.
Its time is limited in seconds of its own CPU, so that a busy machine fails nothing.
"""

import hashlib
import json
import resource
import sys
from typing import Any, NamedTuple

import numpy as np
from placed import at_odd_address, at_page_end

from tq_core import TurboQuantMSE, VectorCodec
from tq_kernels_simd import SimdBackend, _simd
from tq_kernels_simd.attention import PackedAttention, Partial

CPU_SECONDS = 120  # a group takes one or two, some more under the sanitizers
BITS = hashlib.sha256()  # of all that was attended
BACKEND = SimdBackend()
Arrays = dict[str, np.ndarray]


class Store(NamedTuple):
    """Packed keys and values of some lanes, what they decode to, and queries."""

    plans: tuple[Any, Any]
    packed: Arrays
    keys: np.ndarray
    values: np.ndarray
    queries: np.ndarray

    def door(self, accuracy: str, threads: int = 1) -> PackedAttention:
        """The kernel's door for this store."""
        return PackedAttention(*self.plans, BACKEND, accuracy=accuracy, threads=threads)

    def tokens(self, first: int, last: int) -> Arrays:
        """The packed arrays of a range of tokens, as views."""
        return {name: array[:, first:last] for name, array in self.packed.items()}


def make_store(
    key_dim: int, value_dim: int, bits: tuple[int, int], *, lanes: int = 2, groups: int = 3, count: int = 2,
    tokens: int = 150, spread: float = 1.0, scale_dtype: Any = np.float32, rotation: str = "hadamard",
) -> Store:  # fmt: skip
    """Random normal tokens, encoded; `spread` is the standard deviation of the logits."""
    rng = np.random.default_rng(key_dim * 1000 + value_dim + tokens)
    plans, packed, decoded = [], {}, []
    for name, dim, width in (("key", key_dim, bits[0]), ("value", value_dim, bits[1])):
        codec = VectorCodec(TurboQuantMSE(dim, width, seed=3, rotation=rotation, backend="simd"))
        rows = rng.standard_normal((lanes * tokens, dim)).astype(np.float32)
        encoded = codec.encode(rows)
        plans.append(codec.plan)
        scales = encoded.arrays["scales"].astype(scale_dtype)
        packed[f"{name}_packed"] = encoded.arrays["packed"].reshape(lanes, tokens, -1)
        packed[f"{name}_scales"] = scales.reshape(lanes, tokens)
        unit = BACKEND.decode(codec.plan, encoded.arrays["packed"], np.ones(lanes * tokens, np.float32), None)
        decoded.append((unit * scales.astype(np.float64)[:, None]).reshape(lanes, tokens, dim))
    queries = (spread * rng.standard_normal((lanes, groups, count, key_dim))).astype(np.float32)
    return Store((plans[0], plans[1]), packed, decoded[0], decoded[1], queries)


def oracle(
    store: Store,
    *,
    scale: float,
    softcap: float = 0.0,
    limits: np.ndarray | None = None,
    mask: np.ndarray | None = None,
) -> np.ndarray:
    """The attention output in float64; rows that see nothing are 0."""
    logits = np.einsum("lgnd,ltd->lgnt", store.queries.astype(np.float64), store.keys) * scale
    if softcap:
        logits = softcap * np.tanh(logits / softcap)
    at = np.arange(logits.shape[-1])
    if limits is not None:
        logits = np.where((at >= limits[:, :1]) & (at < limits[:, 1:]), logits, -np.inf)
    if mask is not None:
        logits = np.where(mask, logits, -np.inf)
    highest = logits.max(axis=-1, keepdims=True, initial=-np.inf)
    weights = np.exp(logits - np.where(np.isinf(highest), 0, highest))
    total = weights.sum(axis=-1, keepdims=True)
    return np.einsum("lgnt,ltd->lgnd", weights, store.values) / np.where(total > 0, total, 1)


def relative(got: np.ndarray, expected: np.ndarray) -> float:
    """Norm of the difference over the norm of what was expected."""
    return float(np.linalg.norm(got - expected) / max(float(np.linalg.norm(expected)), 1e-30))


def error_of(store: Store, accuracy: str, threads: int = 1, **options: Any) -> float:
    """The relative error of the finished output."""
    options.setdefault("scale", store.keys.shape[2] ** -0.5)
    part = store.door(accuracy, threads).attend(**store.packed, queries=store.queries, **options)
    for array in part:
        BITS.update(array.tobytes())
    return relative(part.finished(), oracle(store, **options))


WIDTHS = ((1, 8), (2, 7), (3, 6), (4, 5), (5, 4), (6, 3), (7, 2), (8, 1))
DIMS = (
    (2, 64),
    (3, 3),
    (7, 8),
    (9, 31),
    (32, 32),
    (33, 96),
    (64, 17),
    (65, 127),
    (96, 128),
    (128, 160),
    (129, 2),
    (160, 64),
    (256, 20),
)


def every_width(accuracy: str) -> dict[str, float]:
    """Each width of keys beside each kind of values' width, at dims that are and are not multiples of 32."""
    dims = ((128, 64), (96, 32), (20, 33))
    return {f"{bits} {pair}": error_of(make_store(*pair, bits), accuracy) for bits in WIDTHS for pair in dims}


def every_dim(accuracy: str) -> dict[str, float]:
    """Dims that straddle lanes, at the widths of fast paths."""
    return {
        f"{pair} {bits}": error_of(make_store(*pair, bits), accuracy)
        for pair in DIMS
        for bits in ((4, 4), (3, 2), (2, 1), (1, 3))
    }


def every_length(accuracy: str) -> dict[str, float]:
    """Lengths around tiles and register groups, on one lane and one query."""
    lengths = (1, 2, 3, 4, 5, 7, 8, 9, 31, 63, 64, 65, 127, 128, 129, 200)
    stores = {
        tokens: make_store(64, 96, (4, 3), lanes=1, groups=1, count=1, tokens=tokens, spread=0.5) for tokens in lengths
    }
    return {str(tokens): error_of(store, accuracy) for tokens, store in stores.items()}


def sights(accuracy: str) -> dict[str, float]:
    """Causal limits, windows, masks, the soft cap, and their combinations, with more query rows than a block holds."""
    store = make_store(64, 32, (4, 4), groups=3, count=37, tokens=150)
    at = np.arange(37)
    causal = np.stack([np.zeros(37), 100 + at], axis=1).astype(np.int64)
    window = np.stack([at * 3 - 20, at * 3 + 12], axis=1).astype(np.int64)
    window[5] = (80, 80)  # sees nothing
    window[6] = (90, 10)
    window[7] = (-(2**62), 2**62)
    wide = np.random.default_rng(0).random((37, 400)) < 0.3
    mask = wide[:, 200:350]  # rows apart
    mask[3] = False
    cases: dict[str, dict[str, Any]] = {
        "causal": {"limits": causal}, "window": {"limits": window}, "mask": {"mask": mask}, "cap": {"softcap": 1.5},
        "all": {"limits": window, "mask": mask, "softcap": 30.0}, "scale": {"scale": 0.3}, "negative": {"scale": -0.1},
    }  # fmt: skip
    return {name: error_of(store, accuracy, **options) for name, options in cases.items()}


def spreads(accuracy: str) -> dict[str, float]:
    """From flat to peaked softmax."""
    return {
        str(spread): error_of(make_store(128, 128, (4, 4), tokens=1000, spread=spread), accuracy)
        for spread in (0.1, 0.5, 1.0)
    }


def peaks(accuracy: str) -> dict[str, float]:
    """Logits that spread so far that few tokens, or one, take most of the weight."""
    stores = {spread: make_store(128, 128, (4, 4), tokens=1000, spread=spread) for spread in (3.0, 10.0)}
    return {str(spread): error_of(store, accuracy) for spread, store in stores.items()}


def forms(accuracy: str) -> dict[str, float]:
    """Float16 scales, a dense rotation, threads over lanes, over blocks and over tokens."""
    long = make_store(64, 64, (4, 4), lanes=1, groups=1, count=1, tokens=4000)
    return {
        "float16": error_of(make_store(64, 64, (4, 2), tokens=75, scale_dtype=np.float16), accuracy),
        "dense": error_of(make_store(40, 64, (4, 2), rotation="dense"), accuracy),
        "lanes": error_of(make_store(64, 64, (4, 2)), accuracy, threads=3),
        "blocks": error_of(make_store(64, 64, (4, 2), lanes=1, groups=5, count=20), accuracy, threads=4),
        "segments": error_of(long, accuracy, threads=3),
        "segments cut": error_of(long, accuracy, threads=3, limits=np.array([[1300, 3000]])),
    }


def segments(accuracy: str) -> dict[str, float]:
    """Threads and segments move the result by rounding only: the distance from one thread's."""
    store = make_store(64, 64, (4, 4), lanes=1, groups=2, count=1, tokens=5000)
    one, many = (
        store.door(accuracy, threads).attend(**store.packed, queries=store.queries, scale=0.125) for threads in (1, 7)
    )
    again = store.door(accuracy, 7).attend(**store.packed, queries=store.queries, scale=0.125)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(many, again, strict=True))
    return {name: relative(a, b) for name, a, b in zip(Partial._fields, many, one, strict=True)}


def exponentials(_: str) -> dict[str, float]:
    """exp against float64 over its whole range, at its ends, and what lies beyond."""
    x = np.concatenate([np.linspace(-87.33, 88, 400_000), [0.0, -0.0, 88.0, -87.0] * 2]).astype(np.float32)
    got = x.copy()
    _simd.attend_exp(got)
    worst = np.abs(got / np.exp(x.astype(np.float64)) - 1).max()
    edge = np.array([0, -0.0, -88, -1e30, -np.inf, np.inf, np.nan, 200], np.float32)
    _simd.attend_exp(edge)
    beyond = [1, 1, 0, 0, 0, np.exp(np.float64(88)), np.nan, np.exp(np.float64(88))]
    np.testing.assert_allclose(edge, beyond, rtol=2e-7)
    return {"relative": float(worst)}


def page_ends(accuracy: str) -> dict[str, float]:
    """Every array ends at a forbidden page; packed rows lie at odd addresses."""
    errors = {}
    for bits, dims, tokens in (
        ((4, 4), (32, 32), 67),
        ((3, 3), (96, 32), 61),
        ((2, 1), (64, 96), 3),
        ((1, 2), (32, 160), 65),
        ((7, 5), (33, 9), 66),
    ):
        store = make_store(*dims, bits, lanes=1, tokens=tokens)
        packed = {name: at_page_end(array) for name, array in store.packed.items()}
        odd = at_odd_address(packed["key_packed"])
        limits = at_page_end(np.array([[0, tokens], [tokens // 2, tokens]]))
        mask = at_page_end(np.ones((2, tokens), np.bool_))
        store = store._replace(packed={**packed, "key_packed": odd}, queries=at_page_end(store.queries))
        errors[f"{bits} {dims}"] = error_of(store, accuracy, limits=limits, mask=mask)
        errors[f"{bits} {dims} end"] = error_of(store._replace(packed=packed), accuracy)
    return errors


if __name__ == "__main__":
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS if most == resource.RLIM_INFINITY else most, most))
    group, accuracy = sys.argv[1:]
    stale = np.empty(4096, np.uint8)  # as memory comes before anyone writes to it
    found = {"level": _simd.level(), "stale": stale.tobytes().hex(), "errors": globals()[group](accuracy)}
    sys.stdout.write(json.dumps({**found, "bits": BITS.hexdigest()}))
