"""Softmax attention straight from packed keys and values, in parts that can be merged.

A cache keeps most tokens packed and a few (sinks, a recent window) in full precision. Each kind is attended on its own;
what it finds is a `Partial`, and `merge` joins partials as if their tokens had been one sequence.
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tq_core.checks import is_finite
from tq_core.errors import InvalidDtype, InvalidSpec, NotFinite, ShapeMismatch
from tq_core.registry import Plan
from tq_kernels_simd import _simd
from tq_kernels_simd.backend import MAX_THREADS, SimdBackend
from tq_kernels_simd.plan import pack_plan

F32 = NDArray[np.float32]

ACCURACIES: Final = ("exact", "mixed", "integer")  # an accuracy's number is its index


class Partial(NamedTuple):
    """What attention over some tokens found, for each of (lanes, groups, count) queries, not normalised.

    `values` (lanes, groups, count, dim): sum of exp(logit - maximum) * value; `maxima`: the greatest logit, -inf where
    no token was visible; `sums`: sum of exp(logit - maximum), 0 where no token was visible. All float32.
    """

    values: F32
    maxima: F32
    sums: F32

    def finished(self) -> F32:
        """The attention output, values / sums; rows that saw no token are 0."""
        seen = self.sums > 0
        return self.values * np.where(seen, 1 / np.where(seen, self.sums, 1), 0).astype(np.float32)[..., None]


def merge(parts: Sequence[Partial]) -> Partial:
    """One partial for the tokens of all parts, in one basis; their order matters for rounding only.

    Raises ShapeMismatch for no parts, values of several shapes, and maxima or sums that are not one a row of values.
    """
    if not parts:
        raise ShapeMismatch("merge needs at least one part")
    shapes = [part.values.shape for part in parts]
    if any(shape != shapes[0] for shape in shapes):
        raise ShapeMismatch(f"parts to merge must have values of one shape, got {shapes}")
    for part in parts:
        if not part.maxima.shape == part.sums.shape == shapes[0][:-1]:
            got = part.maxima.shape, part.sums.shape
            raise ShapeMismatch(f"parts to merge must have maxima and sums of shape {shapes[0][:-1]}, got {got}")
    maxima = np.max([part.maxima for part in parts], axis=0)
    base = np.where(np.isneginf(maxima), np.float32(0), maxima)
    values, sums = np.zeros_like(parts[0].values), np.zeros_like(parts[0].sums)
    for part in parts:
        factor = np.exp(part.maxima - base)
        values += part.values * factor[..., None]
        sums += part.sums * factor
    return Partial(values, maxima, sums)


def attend_floats(
    keys: F32,
    values: F32,
    queries: F32,
    *,
    scale: float,
    softcap: float = 0.0,
    limits: NDArray[np.int64] | None = None,
    mask: NDArray[np.bool_] | None = None,
) -> Partial:
    """The partial of tokens held as floats, (lanes, tokens, dim) each; the rest as `PackedAttention.attend`."""
    lanes, groups, count, dim = queries.shape
    logits = (queries.reshape(lanes, groups * count, dim) @ keys.transpose(0, 2, 1)) * np.float32(scale)
    if softcap > 0:
        logits = np.float32(softcap) * np.tanh(logits / np.float32(softcap))
    logits = logits.reshape(lanes, groups, count, keys.shape[1])
    if limits is not None:
        at = np.arange(keys.shape[1])
        logits = np.where((at >= limits[:, :1]) & (at < limits[:, 1:]), logits, np.float32(-np.inf))
    if mask is not None:
        logits = np.where(mask, logits, np.float32(-np.inf))
    maxima = logits.max(axis=-1, initial=np.float32(-np.inf))
    weights = np.exp(logits - np.where(np.isneginf(maxima), np.float32(0), maxima)[..., None])
    mixed = weights.reshape(lanes, groups * count, -1) @ values
    return Partial(mixed.reshape(lanes, groups, count, values.shape[2]), maxima, weights.sum(axis=-1, dtype=np.float32))


class PackedAttention:
    """Attention over tokens packed with the codebooks of two plans, for keys and for values, of any dims and widths.

    `accuracy`: "exact" computes in float32 (within 1e-4 of float64 attention over the decoded tokens); "integer" rounds
    queries, keys, weights and values to bytes where a side has at most 4 bits and a dim that is a multiple of 32, which
    moves the output by at most 2 % where logits have a standard deviation up to 1, and by 3 to 5 % of what it is where
    they spread ten times as far. Keys of 5 bits and more, up to dim 4096, become 14-bit integers, which moves it by
    less than 0.5 %; other values and trellis codes stay exact. "mixed" does the same to keys and computes with exact
    values.
    """

    def __init__(
        self, keys: Plan, values: Plan, backend: SimdBackend, *, accuracy: str = "integer", threads: int = 1
    ) -> None:
        for name, plan in (("keys", keys), ("values", values)):
            if plan.sketch is not None:
                raise InvalidSpec(f"{name} with a sketch cannot be attended from codes; decode them")
        if accuracy not in ACCURACIES:
            raise InvalidSpec(f"accuracy must be one of {ACCURACIES}, got {accuracy!r}")
        if type(threads) is not int or not 1 <= threads <= MAX_THREADS:
            raise InvalidSpec(f"threads must be an integer in 1..{MAX_THREADS}, got {threads!r}")
        self.keys, self.values, self.accuracy, self.threads = keys, values, accuracy, threads
        self._backend, self._accuracy = backend, ACCURACIES.index(accuracy)
        self._packed_keys, self._packed_values = pack_plan(keys), pack_plan(values)

    def workspace_bytes(self, lanes: int, groups: int, count: int, tokens: int) -> int:
        """Bytes that one call allocates beside its results and the rotated queries: tiles, and partials of threads."""
        shape = (lanes, groups, count, tokens)
        return _simd.attend_workspace(self._packed_keys, self._packed_values, *shape, self._accuracy, self.threads)

    def attend(
        self,
        key_packed: NDArray[np.uint8],
        key_scales: NDArray[np.floating[Any]],
        value_packed: NDArray[np.uint8],
        value_scales: NDArray[np.floating[Any]],
        queries: F32,
        *,
        scale: float,
        softcap: float = 0.0,
        limits: NDArray[np.int64] | None = None,
        mask: NDArray[np.bool_] | None = None,
    ) -> Partial:
        """The partial of the packed tokens, its values rotated back.

        Packed rows (lanes, tokens, row bytes) and float16 or float32 scales (lanes, tokens), finite and not negative:
        any stride between lanes, rows of a lane one behind the other, so that `store[:, :used]` is no copy. Queries
        (lanes, groups, count, key dim) float32: query i of each group sees the tokens t with
        limits[i, 0] <= t < limits[i, 1] (int64, counted within these tokens) and mask[i, t] (bool); logits are
        scale * <query, key>, then softcap * tanh(logit / softcap) where softcap > 0. Raises typed errors before
        anything is written.
        """
        if not isinstance(queries, np.ndarray):
            raise InvalidDtype(f"queries must be an array, got {type(queries)}")
        if queries.ndim != 4 or queries.shape[3] != self.keys.dim:
            raise ShapeMismatch(f"queries must be (lanes, groups, count, {self.keys.dim}), got {queries.shape}")
        if queries.dtype != np.float32:
            raise InvalidDtype(f"queries must be float32, got {queries.dtype}")
        if not is_finite(queries):
            raise NotFinite(f"queries must be finite, got {queries[~np.isfinite(queries)][0]}")
        shape, rows = queries.shape[:3], np.ascontiguousarray(queries).reshape(-1, self.keys.dim)
        turned = self._backend.rotate(self.keys.rotation, rows).reshape(queries.shape)
        part = Partial(
            np.empty((*shape, self.values.dim), np.float32), np.empty(shape, np.float32), np.empty(shape, np.float32)
        )
        _simd.attend(
            self._packed_keys,
            self._packed_values,
            key_packed,
            key_scales,
            value_packed,
            value_scales,
            turned,
            *part,
            limits,
            mask,
            scale,
            softcap,
            self._accuracy,
            self.threads,
        )
        turned = self._backend.unrotate(self.values.rotation, part.values.reshape(-1, self.values.dim))
        return Partial(turned.reshape(part.values.shape), part.maxima, part.sums)
