"""The public door of the caches: arrays are checked here, before anything is encoded or written."""

from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tq_core import InvalidDimension, InvalidDtype, InvalidSpec, NotFinite, ShapeMismatch

Floats = NDArray[np.floating]

MAX_COUNT: Final = 1 << 31


def whole(value: int, low: int, name: str, error: type[Exception] = InvalidSpec) -> int:
    """value as an int in low..2**31, or a typed error."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise error(f"{name} must be an integer, got {value!r:.40}")
    number = value.__index__()
    if not low <= number <= MAX_COUNT:
        raise error(f"{name} must lie in {low}..{MAX_COUNT}, got {number}")
    return number


def dimension(value: int, name: str) -> int:
    """value as an int >= 2, or InvalidDimension."""
    return whole(value, 2, name, InvalidDimension)


def layer_index(value: int, layers: int) -> int:
    """value as an index in 0..layers-1, or InvalidSpec."""
    index = whole(value, 0, "layer_idx")
    if index >= layers:
        raise InvalidSpec(f"layer_idx must lie in 0..{layers - 1}, got {index}")
    return index


def tokens(keys: ArrayLike, values: ArrayLike, lead: tuple[int, ...], dims: tuple[int, int]) -> tuple[Floats, Floats]:
    """Keys (*lead, n, key dim) and values (*lead, n, value dim) as (lanes, n, dim) native floats of equal n."""
    first = _float_array(keys, "keys", (*lead, None, dims[0]))
    second = _float_array(values, "values", (*lead, None, dims[1]))
    if first.shape[-2] != second.shape[-2]:
        raise ShapeMismatch(f"keys hold {first.shape[-2]} tokens and values {second.shape[-2]}; they come in pairs")
    lanes = int(np.prod(lead))
    return first.reshape(lanes, *first.shape[-2:]), second.reshape(lanes, *second.shape[-2:])


def queries(asked: ArrayLike, lead: tuple[int, ...], heads: int, dim: int) -> NDArray[np.float32]:
    """Queries (*lead, query heads, n, dim) with a multiple of `heads` query heads, as float32; `heads` 0: (n, dim)."""
    if heads == 0:
        array = _float_array(asked, "queries", (None, dim))
    else:
        array = _float_array(asked, "queries", (*lead, None, None, dim))
        if array.shape[-3] == 0 or array.shape[-3] % heads:
            raise ShapeMismatch(
                f"queries have {array.shape[-3]} heads; a multiple of the {heads} key/value heads is expected"
            )
    with np.errstate(over="ignore"):
        narrow = array.astype(np.float32, copy=False)
    if narrow is not array:
        _require_finite(narrow, "queries (as float32)")
    return narrow


def span(start: int, stop: int | None, length: int) -> tuple[int, int]:
    """`start, stop` within 0..length; stop None means the end. ShapeMismatch beyond, as nothing is clamped."""
    last = length if stop is None else stop
    if not 0 <= start <= last <= length:
        raise ShapeMismatch(f"tokens {start}..{last} of a cache that holds {length}")
    return start, last


def _float_array(x: ArrayLike, name: str, shape: tuple[int | None, ...]) -> Floats:
    array = np.asarray(x)
    if array.dtype.name == "bfloat16":
        array = array.astype(np.float32)
    if array.dtype.kind != "f" or array.dtype.itemsize > 8:
        raise InvalidDtype(
            f"{name} must be float16, float32 or float64, got {array.dtype}; convert it, e.g. with .astype('float32')"
        )
    fits = array.ndim == len(shape) and all(want in (None, got) for want, got in zip(shape, array.shape, strict=True))
    if not fits:
        wanted = ", ".join("n" if size is None else str(size) for size in shape)
        raise ShapeMismatch(f"{name} must have shape ({wanted}), got {array.shape}")
    native: Floats = np.ascontiguousarray(array, array.dtype.newbyteorder("="))
    _require_finite(native, name)
    return native


def _require_finite(array: Floats, name: str) -> None:
    finite = np.isfinite(array)
    if not finite.all():
        where = tuple(int(i) for i in np.argwhere(~finite)[0])
        raise NotFinite(f"{name}[{', '.join(map(str, where))}] is {array[where]}; all values must be finite")
