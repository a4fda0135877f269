"""What each cache input of a decoder is, from session metadata alone.

Configs lie about heads, dims and dtypes; the session does not. Axes are known by their number (0 batch, 1 heads,
2 length, 3 head_dim), never by the names of their symbols, which exporters choose freely.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from tq_onnx.names import Names

CACHE_DTYPES: Final = ("float32", "float16")
STATE_DTYPES: Final = ("float32", "float16", "float64", "int64", "int32", "bool")
LARGEST_AXIS: Final = 1 << 16  # heads or head_dim; real ones stay below 1024, and a step allocates their product
LARGEST_STATE: Final = 1 << 28  # numbers in a state of fixed size, for one sequence


@dataclass(frozen=True)
class Tensor:
    """A graph input or output as the session declares it; a symbolic axis is a string or None."""

    name: str
    shape: tuple[int | str | None, ...]
    dtype: str

    def __str__(self) -> str:
        axes = ", ".join("?" if axis is None else str(axis) for axis in self.shape)
        return f"{self.name!r} ({self.dtype} [{axes}])"


@dataclass(frozen=True)
class CacheInput:
    """One cache input and what it is.

    kind: "float" (a growing float cache, which can be quantized), "state" (of fixed size, carried on untouched),
    "integer" (already quantized) or "other". `reason` says why it is neither of the first two. `heads` and `dim` are
    None where neither the input nor its output says them.
    """

    tensor: Tensor
    kind: str
    reason: str = ""
    layer: int = -1
    part: str = ""
    present: str = ""
    heads: int | None = None
    dim: int | None = None


def classify(tensor: Tensor, outputs: Mapping[str, Tensor], names: Names | None = None) -> CacheInput:
    """What a cache input is, from metadata alone; `outputs` by name."""
    names = names or Names()
    if tensor.dtype in ("int8", "uint8", "int4", "uint4"):
        return CacheInput(tensor, "integer", "this bundle already quantizes its cache")
    if re.search(r"\.(encoder|decoder)\.", tensor.name):
        return CacheInput(tensor, "other", "the cache of an encoder-decoder; only decoders alone are run")
    if tensor.name.endswith(".key_value"):
        return CacheInput(tensor, "other", "one tensor for keys and values together; export the model again")
    place = names.place_of(tensor.name)
    if place is None:
        return _state(tensor, outputs, names)
    if len(tensor.shape) != 4:
        return CacheInput(tensor, "other", f"rank {len(tensor.shape)}, expected 4: batch, heads, length, head_dim")
    if isinstance(tensor.shape[2], int):
        return CacheInput(tensor, "other", "no growing axis: a cache of fixed length overwrites old tokens")
    if tensor.dtype not in CACHE_DTYPES:
        return CacheInput(tensor, "other", f"a cache of {tensor.dtype}, expected {' or '.join(CACHE_DTYPES)}")
    return _float(tensor, *place, outputs, names)


def _float(tensor: Tensor, layer: int, part: str, outputs: Mapping[str, Tensor], names: Names) -> CacheInput:
    """A growing cache joined to the output that carries its new state."""
    candidates = names.presents_of(layer, part)
    present = next((outputs[name] for name in candidates if name in outputs), None)
    if present is None:
        return CacheInput(tensor, "other", f"no output {' or '.join(candidates)} carries it on")
    if present.dtype != tensor.dtype or len(present.shape) != 4:
        return CacheInput(tensor, "other", f"its output {present} has another dtype or rank")
    if isinstance(present.shape[2], int):
        return CacheInput(tensor, "other", f"its output {present} has a fixed length and drops old tokens")
    sizes: list[int | None] = []
    for axis, what in ((1, "number of heads"), (3, "head_dim")):
        before, after = (size if isinstance(size, int) else None for size in (tensor.shape[axis], present.shape[axis]))
        if before is not None and after is not None and before != after:
            return CacheInput(tensor, "other", f"its output {present} differs on axis {axis}")
        size = before if before is not None else after
        if size is not None and not 1 <= size <= LARGEST_AXIS:
            return CacheInput(tensor, "other", f"its {what} is {size}, expected 1..{LARGEST_AXIS} (axis {axis})")
        sizes.append(size)
    return CacheInput(tensor, "float", "", layer, part, present.name, *sizes)


def _state(tensor: Tensor, outputs: Mapping[str, Tensor], names: Names) -> CacheInput:
    """A state of fixed size, as hybrid models carry, joined to its output; or why it is none."""
    shape = tensor.shape
    if len(shape) < 2 or not all(isinstance(axis, int) for axis in shape[1:]):
        return CacheInput(
            tensor, "other", "not named past_key_values.N.key or past_key_values.N.value, and not of fixed size"
        )
    sizes = [axis for axis in shape[1:] if isinstance(axis, int)]
    if min(sizes) < 1 or math.prod(sizes) > LARGEST_STATE:
        return CacheInput(tensor, "other", f"a state of {sizes} numbers, expected 1..{LARGEST_STATE} in all")
    if tensor.dtype not in STATE_DTYPES:
        return CacheInput(tensor, "other", f"a state of {tensor.dtype}, expected {', '.join(STATE_DTYPES)}")
    candidates = names.presents_of_state(tensor.name)
    present = next((outputs[name] for name in candidates if name in outputs), None)
    if present is None:
        return CacheInput(tensor, "other", f"no output {' or '.join(candidates)} carries this state on")
    agrees = all(
        not isinstance(after, int) or after == before
        for before, after in zip(shape[1:], present.shape[1:], strict=False)
    )
    if present.dtype != tensor.dtype or len(present.shape) != len(shape) or not agrees:
        return CacheInput(tensor, "other", f"its output {present} has another dtype or shape")
    return CacheInput(tensor, "state", present=present.name)
