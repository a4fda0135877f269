"""A store of packed tokens that grows, and is attended, without the host knowing its length."""

from typing import Any, Final

import numpy as np

from tq_core.errors import InvalidSpec, ShapeMismatch
from tq_core.registry import Plan
from tq_kernels_gpu.attention import MOST_LANES, MOST_TOKENS, PackedAttention, Partial, uploaded
from tq_kernels_gpu.backend import GpuBackend
from tq_kernels_gpu.device import Array
from tq_kernels_gpu.errors import CapacityExceeded
from tq_kernels_gpu.layout import DTYPES, dtype_number
from tq_kernels_gpu.ops.encode import encode
from tq_kernels_gpu.ops.normalize import INPUTS

SCALES: Final = ("float16", "float32")


class PackedTokens:
    """Keys and values of `lanes` heads in memory for `capacity` tokens each, all of it reserved at once.

    The number of tokens held, `length`, lies on the device: `append` writes behind it and advances it there, `attend`
    reads it there, and neither waits for the device, so that both can be captured in a CUDA graph.

    The host counts what it asked for. Every call of `append`, captured or not, claims its tokens: one that could
    exceed the capacity is CapacityExceeded before anything is launched, and changes nothing. A replay of a graph calls
    no method, so before every replay but the first `claim(tokens)` has to count what it appends. Where that is
    forgotten, the device itself writes nothing beyond the capacity: tokens that do not fit are left out, and `length`
    stays at the capacity.

    A scale that `scale_dtype` cannot hold is stored as infinite, one too small as 0: appending does not look at values.
    """

    def __init__(
        self,
        keys: Plan,
        values: Plan,
        backend: GpuBackend,
        lanes: int,
        capacity: int,
        *,
        scale_dtype: str = "float16",
        accuracy: str = "integer",
    ) -> None:
        if scale_dtype not in SCALES:
            raise InvalidSpec(f"scale_dtype must be one of {SCALES}, got {scale_dtype!r}")
        if not (1 <= lanes <= MOST_LANES and 1 <= capacity <= MOST_TOKENS):
            raise ShapeMismatch(f"1..{MOST_LANES} lanes of 1..{MOST_TOKENS} tokens, got {lanes} of {capacity}")
        self.attention = PackedAttention(keys, values, backend, accuracy=accuracy)
        self.lanes, self.capacity = lanes, capacity
        self.claimed = 0
        self._device = backend.device
        xp = self._device.xp
        self._plans = keys, values
        self._packed = tuple(xp.zeros((lanes, capacity, plan.row_bytes), np.uint8) for plan in self._plans)
        self._scales = tuple(xp.zeros((lanes, capacity), scale_dtype) for _ in self._plans)
        self.length = xp.zeros(1, np.int64)
        self._captured: list[Any] = []  # scratch arrays of graphs: replays write to them

    @property
    def arrays(self) -> dict[str, Array]:
        """`key_packed`, `value_packed`, `key_scales` and `value_scales`; the first `length` tokens are held."""
        names = ("key_packed", "value_packed", "key_scales", "value_scales")
        return dict(zip(names, (*self._packed, *self._scales), strict=True))

    @property
    def nbytes(self) -> int:
        """Bytes held on the device, used or not; scratch of graphs apart."""
        return sum(int(array.nbytes) for array in (*self._packed, *self._scales, self.length))

    def claim(self, tokens: int) -> None:
        """Count `tokens` as appended, as must be done before a replay; CapacityExceeded, and nothing counted, if they
        could exceed the capacity."""
        self._require_room(tokens)
        self.claimed += tokens

    def _require_room(self, tokens: int) -> None:
        if self.claimed + tokens > self.capacity:
            raise CapacityExceeded(
                f"{tokens} more tokens after {self.claimed} exceed the capacity of {self.capacity}; "
                f"reserve more, or clear()"
            )

    def append(self, keys: Array, values: Array) -> None:
        """Encode keys and values (lanes, n, dim) behind the tokens held; the bits that `encode` gives.

        float16, float32, float64 or the bits of bfloat16 as uint16, on the device or on the host. Raises ShapeMismatch,
        InvalidDtype and CapacityExceeded before anything is written.
        """
        device, xp = self._device, self._device.xp
        fresh = uploaded(device, keys), uploaded(device, values)
        tokens = fresh[0].shape[1] if fresh[0].ndim == 3 else 0
        for name, one, plan in zip(("keys", "values"), fresh, self._plans, strict=True):
            self._check(name, one, (self.lanes, tokens, plan.dim))
        self._require_room(tokens)
        if not tokens:
            return
        arguments: list[Any] = []
        keep = self._captured if device.capturing else None
        for one, plan, packed, scales in zip(fresh, self._plans, self._packed, self._scales, strict=True):
            one = xp.ascontiguousarray(one).reshape(-1, plan.dim)
            rows, row_scales, _ = encode(device, plan, one, keep)
            arguments += [rows, row_scales, packed, scales, np.int32(plan.row_bytes)]
            if keep is not None:
                keep += [one, rows, row_scales]
        dtype, capacity = np.int32(DTYPES[str(self._scales[0].dtype)]), np.int64(self.capacity)
        module = device.module("append")
        self.claimed += tokens
        module.launch("tq_place", (tokens, self.lanes), 128, (*arguments, dtype, capacity, self.length))
        module.launch("tq_advance", 1, 32, (self.length, np.int64(tokens), capacity))

    def attend(
        self, queries: Array, *, scale: float, softcap: float = 0.0, limits: Array = None, mask: Array = None
    ) -> Partial:
        """What queries (lanes, groups, count, key dim) find in the tokens held; as `PackedAttention.attend`.

        `mask` is (count, capacity). A captured call sees, whenever it is replayed, the tokens held by then; hold its
        result as long as the graph.
        """
        capturing = self._device.capturing
        used = self.capacity if capturing else self.claimed
        if mask is not None:
            if mask.ndim != 2 or mask.shape[1] != self.capacity:
                raise ShapeMismatch(f"mask must be (count, {self.capacity}), got {tuple(mask.shape)}")
            mask = mask[:, :used]
        return self.attention.attend(
            **{name: array[:, :used] for name, array in self.arrays.items()},
            queries=queries,
            scale=scale,
            softcap=softcap,
            limits=limits,
            mask=mask,
            length=self.length,
            keep=self._captured if capturing else None,
        )

    def clear(self) -> None:
        """Hold no tokens, in the same memory."""
        self.length[:] = 0
        self.claimed = 0

    def _check(self, name: str, array: Array, shape: tuple[int, ...]) -> None:
        if tuple(array.shape) != shape:
            raise ShapeMismatch(f"{name} must be {shape}, got {tuple(array.shape)}")
        dtype_number(array, INPUTS, name)
