"""Softmax attention straight from packed keys and values on a device, in parts that can be merged."""

import math
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from tq_core.errors import InvalidDtype, InvalidSpec, NotFinite, ShapeMismatch
from tq_core.registry import Plan
from tq_kernels_gpu.device import Array, Device
from tq_kernels_gpu.layout import MOST_ACROSS
from tq_kernels_gpu.ops.attend import Sight, Stored, attend
from tq_kernels_gpu.ops.rotate import rotate, unrotate
from tq_kernels_gpu.readers import Reader, reader

if TYPE_CHECKING:
    from tq_kernels_gpu.backend import GpuBackend

ACCURACIES: Final = ("exact", "mixed", "integer")
MOST_LANES: Final = MOST_ACROSS
MOST_TOKENS: Final = 2**31 - 2**16  # of a lane: kernels count them in int32, whole tiles included


class Partial(NamedTuple):
    """What attention over some tokens found, for each of (lanes, groups, count) queries, not normalised.

    `values` (lanes, groups, count, dim): sum of exp(logit - maximum) * value; `maxima`: the greatest logit, -inf where
    no token was visible; `sums`: sum of exp(logit - maximum), 0 where no token was visible. All float32, and where the
    queries were, on the device or on the host.
    """

    values: Array
    maxima: Array
    sums: Array

    def finished(self) -> Array:
        """The attention output, values / sums; rows that saw no token are 0."""
        return self.values / (self.sums + (self.sums == 0))[..., None]


class PackedAttention:
    """Attention over tokens packed with the codebooks of two plans, for keys and for values, of any dims and widths.

    `accuracy`: "exact" computes in float32 (within 1e-4 of float64 attention over the decoded tokens); "mixed" and
    "integer" are one here, tensor cores on float16 queries, centroids and weights with float32 sums, which moves the
    output by less than 0.2 % where logits have a standard deviation up to 1. Rows of a fractional width or with a
    sketch are InvalidSpec.
    """

    def __init__(self, keys: Plan, values: Plan, backend: "GpuBackend", *, accuracy: str = "integer") -> None:
        if accuracy not in ACCURACIES:
            raise InvalidSpec(f"accuracy must be one of {ACCURACIES}, got {accuracy!r}")
        self.keys, self.values, self.accuracy = keys, values, accuracy
        self._device = backend.device
        self._readers: tuple[Reader, Reader] = reader(keys), reader(values)

    def attend(
        self,
        key_packed: Array,
        key_scales: Array,
        value_packed: Array,
        value_scales: Array,
        queries: Array,
        *,
        scale: float,
        softcap: float = 0.0,
        limits: Array = None,
        mask: Array = None,
        length: Array = None,
        keep: list[Any] | None = None,
    ) -> Partial:
        """The partial of the packed tokens, its values rotated back.

        Packed rows (lanes, tokens, row bytes) and float16 or float32 scales (lanes, tokens), finite and not negative:
        any stride between lanes, rows of a lane one behind the other, so that `store[:, :used]` is no copy. Queries
        (lanes, groups, count, key dim) float32: query i of each group sees the tokens t with
        limits[i, 0] <= t < limits[i, 1] (int64, counted within these tokens) and mask[i, t] (bool); logits are
        scale * <query, key>, then softcap * tanh(logit / softcap) where softcap > 0. `length`: how many of the tokens
        are in use, (1,) int64 on the device, where the host does not know. `keep`: takes all scratch arrays, which a
        graph that is being captured needs as long as it lives.

        Arrays are the device's, and so is the result; nothing waits for the device, and queries are not looked at: one
        that is not finite gives a row that is not. Queries of the host are checked to be finite and uploaded with all
        that is not on the device, and the result comes down. Raises typed errors before anything is written.
        """
        device = self._device
        if not isinstance(queries, device.xp.ndarray):
            self._check_host(queries)
            arrays = (key_packed, key_scales, value_packed, value_scales, queries, limits, mask)
            up = [uploaded(device, array) for array in arrays]
            part = self.attend(*up[:5], scale=scale, softcap=softcap, limits=up[5], mask=up[6], length=length)
            return Partial(*(device.to_host(array) for array in part))
        stored = Stored(key_packed, key_scales), Stored(value_packed, value_scales)
        self._check(stored, queries, scale, softcap, limits, mask, length)
        xp = device.xp
        lanes, groups, count, dim = queries.shape
        limits, mask = (None if one is None else xp.ascontiguousarray(uploaded(device, one)) for one in (limits, mask))
        sight = Sight(limits, mask, scale, softcap)
        rows = xp.ascontiguousarray(queries).reshape(-1, dim)
        turned = rotate(device, self.keys.rotation, rows)
        stored = _with_whole_rows(xp, stored[0]), _with_whole_rows(xp, stored[1])
        found = attend(
            device,
            self._readers,
            stored,
            turned.reshape(lanes, groups * count, dim),
            count,
            sight,
            exact=self.accuracy == "exact",
            length=length,
            keep=keep,
        )
        if keep is not None:
            keep += [rows, turned, *stored, sight, found]
        values = unrotate(device, self.values.rotation, found[0].reshape(-1, self.values.dim))
        shape = (lanes, groups, count)
        return Partial(values.reshape(*shape, self.values.dim), found[1].reshape(shape), found[2].reshape(shape))

    def _check_host(self, queries: Any) -> None:
        if not isinstance(queries, np.ndarray):
            raise InvalidDtype(f"queries must be an array of the device or of numpy, got {type(queries)}")
        if queries.dtype == np.float32 and not np.isfinite(queries).all():
            raise NotFinite(f"queries must be finite, got {queries[~np.isfinite(queries)][0]}")

    def _check(
        self,
        stored: tuple[Stored, Stored],
        queries: Array,
        scale: float,
        softcap: float,
        limits: Array,
        mask: Array,
        length: Array,
    ) -> None:
        if queries.ndim != 4 or queries.shape[3] != self.keys.dim:
            raise ShapeMismatch(f"queries must be (lanes, groups, count, {self.keys.dim}), got {queries.shape}")
        _require(queries, (*queries.shape[:3], self.keys.dim), ("float32",), "queries")
        tokens = stored[0].packed.shape[1] if stored[0].packed.ndim == 3 else 0
        lanes, _, count, _ = queries.shape
        if lanes > MOST_LANES or tokens > MOST_TOKENS:
            raise ShapeMismatch(f"at most {MOST_LANES} lanes of {MOST_TOKENS} tokens, got {lanes} of {tokens}")
        for name, plan, side in zip(("key", "value"), (self.keys, self.values), stored, strict=True):
            _require(side.packed, (lanes, tokens, plan.row_bytes), ("uint8",), f"{name}_packed")
            _require(side.scales, (lanes, tokens), ("float16", "float32"), f"{name}_scales")
        if limits is not None:
            _require(limits, (count, 2), ("int64",), "limits")
        if mask is not None:
            _require(mask, (count, tokens), ("bool",), "mask")
        if length is not None:
            _require(length, (1,), ("int64",), "length")
        if not math.isfinite(scale) or not 0 <= softcap < math.inf:
            raise InvalidSpec(f"scale must be finite and softcap finite and not negative, got {scale} and {softcap}")


def uploaded(device: Device, array: Any) -> Array:
    """The array on the device, itself if it is there already; None stays None."""
    return array if array is None or isinstance(array, device.xp.ndarray) else device.asarray(np.asarray(array))


def _require(array: Array, shape: tuple[int, ...], dtypes: tuple[str, ...], what: str) -> None:
    if tuple(array.shape) != shape:
        raise ShapeMismatch(f"{what} must be {shape}, got {tuple(array.shape)}")
    if str(array.dtype) not in dtypes:
        raise InvalidDtype(f"{what} must be {' or '.join(dtypes)}, got {array.dtype}")


def _with_whole_rows(xp: Any, side: Stored) -> Stored:
    """The side itself, or copies of arrays whose rows do not follow each other within a lane."""
    packed, scales = side
    if packed.shape[1] and (packed.strides[2] != 1 or packed.strides[1] != packed.shape[2]):
        packed = xp.ascontiguousarray(packed)
    if scales.shape[1] and scales.strides[1] != scales.itemsize:
        scales = xp.ascontiguousarray(scales)
    return Stored(packed, scales)
