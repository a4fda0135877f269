"""The public door of the caches: arrays are checked here, before anything is encoded or written."""

import math
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tq_cache.exact_tokens import Fresh
from tq_cache.floats import require_float32
from tq_cache.place import HOST, exceeds, uploaded
from tq_cache.softmax import View
from tq_core import InvalidDimension, InvalidDtype, InvalidSpec, ScaleRange, ShapeMismatch
from tq_core.checks import FEW, MAX_QUERY, as_array, as_floats, integer, require_finite
from tq_core.device import Device, is_on_device

Floats = NDArray[np.floating]
Lead = tuple[int, int, int]

MAX_COUNT: Final = 1 << 31
NATIVE: Final = frozenset(map(np.dtype, ("float16", "float32", "float64")))
LEAST: Final = float(np.finfo(np.float32).tiny)
MOST: Final = float(np.finfo(np.float32).max)


def whole(value: int, low: int, name: str, error: type[Exception] = InvalidSpec) -> int:
    """value as an int in low..2**31, or a typed error."""
    number = integer(value, name, error)
    if not low <= number <= MAX_COUNT:
        raise error(f"{name} must lie in {low}..{MAX_COUNT}, got {number}")
    return number


def dimension(value: int, name: str) -> int:
    """value as an int >= 2, or InvalidDimension."""
    return whole(value, 2, name, InvalidDimension)


def kept(tokens: int, held: int) -> int:
    """How many tokens a crop keeps; InvalidSpec for no integer or for dropping more than there are."""
    number = whole(tokens, -held, "tokens")
    return number if number >= 0 else held + number


def layer_index(value: int, layers: int) -> int:
    """value as an index in 0..layers-1, or InvalidSpec."""
    index = whole(value, 0, "layer_idx")
    if index >= layers:
        raise InvalidSpec(f"layer_idx must lie in 0..{layers - 1}, got {index}")
    return index


def tokens(
    keys: ArrayLike, values: ArrayLike, lead: tuple[int, ...], dims: tuple[int, int], place: Device = HOST
) -> tuple[Floats, Floats]:
    """Keys (*lead, n, key dim) and values (*lead, n, value dim) as (lanes, n, dim) native floats of equal n."""
    first = float_array(keys, "keys", (*lead, None, dims[0]), place)
    second = float_array(values, "values", (*lead, None, dims[1]), place)
    if first.shape[-2] != second.shape[-2]:
        raise ShapeMismatch(f"keys hold {first.shape[-2]} tokens and values {second.shape[-2]}; they come in pairs")
    lanes = math.prod(lead)
    return first.reshape(lanes, *first.shape[-2:]), second.reshape(lanes, *second.shape[-2:])


def fresh(
    given: tuple[ArrayLike, ArrayLike] | None, lead: tuple[int, ...], dims: tuple[int, int], place: Device
) -> Fresh | None:
    """Keys and values of tokens that are seen and not kept, (lanes, n, dim) each; None for none."""
    if given is None:
        return None
    if not isinstance(given, tuple) or len(given) != 2:
        raise InvalidSpec(f"fresh is a pair of keys and values, got {type(given).__name__}")
    found = Fresh(*tokens(*given, lead, dims, place))
    for side, name in zip(found, ("fresh keys", "fresh values"), strict=True):
        require_float32(side, name)
    return found


def queries(asked: ArrayLike, lead: tuple[int, ...], heads: int, dim: int, place: Device) -> NDArray[np.float32]:
    """Queries (*lead, query heads, n, dim) with a multiple of `heads` query heads, as float32; `heads` 0: (n, dim)."""
    if heads == 0:
        array = float_array(asked, "queries", (None, dim), place)
    else:
        array = float_array(asked, "queries", (*lead, None, None, dim), place)
        if array.shape[-3] == 0 or array.shape[-3] % heads:
            raise ShapeMismatch(
                f"queries have {array.shape[-3]} heads; a multiple of the {heads} key/value heads is expected"
            )
    with np.errstate(over="ignore"):
        narrow = array.astype(np.float32, copy=False)
    if narrow is not array:
        require_finite(narrow, "queries (as float32)")
    # a sum of squares that float32 holds, below 2**128, has no number beyond 2**64
    is_small = place is HOST and array.size <= FEW and math.isfinite(np.vdot(narrow, narrow))
    if not is_small and exceeds(narrow, MAX_QUERY):
        raise ScaleRange("queries are beyond 2**64, where float32 products overflow; scale them down")
    return narrow


def positive(value: float | None, name: str, default: float) -> float:
    """A number above 0 that float32 holds, as a float; `default` for None."""
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, (int, float, np.floating, np.integer)):
        raise InvalidSpec(f"{name} must be a number, got {value!r:.40}")
    if not (np.isfinite(value) and value > 0):
        raise InvalidSpec(f"{name} must be finite and above 0, got {value}")
    if not LEAST <= value <= MOST:
        raise InvalidSpec(f"{name} must lie in {LEAST:.3g}..{MOST:.3g}, what float32 holds, got {value}")
    return float(value)


def view(
    count: int,
    tokens: int,
    *,
    causal: bool,
    sliding_window: int,
    mask: ArrayLike | None,
    lead: Lead,
    place: Device,
) -> View:
    """Which of `tokens` tokens each of `count` queries sees. With `causal` the queries are the last `count` tokens.

    `lead` is (1, kv heads, query heads) of one sequence; a mask is (n, tokens), or has the query heads before.
    """
    if not isinstance(causal, (bool, np.bool_)):
        raise InvalidSpec(f"causal must be True or False, got {causal!r:.40}")
    reach = whole(sliding_window, 0, "sliding_window")
    if (causal or reach) and count > tokens:
        raise ShapeMismatch(f"{count} causal queries are the last tokens of a cache that holds {tokens}; append first")
    last = np.full(count, tokens, np.int64)
    if causal or reach:
        last = np.arange(tokens - count + 1, tokens + 1, dtype=np.int64)
    first = np.maximum(last - reach, 0) if reach else np.zeros(count, np.int64)
    return View(first, last, None if mask is None else _mask(mask, count, tokens, lead, place))


def positions(given: ArrayLike, held: int, name: str) -> NDArray[np.int64]:
    """A list of indices in 0..held-1 (negative ones count from the end, a bool mask selects), as int64."""
    array = as_array(given, name)
    if array.dtype == np.bool_ and array.shape == (held,):
        return np.flatnonzero(array).astype(np.int64)
    if array.ndim != 1 or (array.dtype.kind not in "iu" and array.size):
        raise ShapeMismatch(f"{name} is a list of indices or a mask of {held}, got {array.dtype} {array.shape}")
    beyond = (array < -held) | (array >= held)
    if beyond.any():
        raise ShapeMismatch(f"{name} names {int(array[beyond][0])}, expected {-held}..{held - 1}")
    chosen = array.astype(np.int64)
    return np.where(chosen < 0, chosen + held, chosen)


def mask_of(mask: ArrayLike, full: tuple[int, int, int, int], place: Device) -> NDArray[np.bool_]:
    """A mask (n, tokens), (query heads or 1, n, tokens) or with batch before: (batch, query heads or 1, n, tokens).

    A mask of the host serves a device, too: it is uploaded.
    """
    given = place.adopt(mask, "mask") if place is not HOST and is_on_device(mask) else as_array(mask, "mask")
    if given.dtype != np.bool_:
        raise InvalidDtype(f"mask must be bool, True where a query may look, got {given.dtype}")
    batch, query_heads, count, tokens = full
    shape = (1,) * (4 - given.ndim) + given.shape
    fits = 2 <= given.ndim <= 4 and shape[2:] == (count, tokens)
    if not fits or shape[0] not in (1, batch) or shape[1] not in (1, query_heads):
        allowed = [full[2:], full[1:], full] if batch > 1 else [full[2:], full[1:]]
        raise ShapeMismatch(f"mask must have shape {' or '.join(map(str, allowed))}, got {given.shape}")
    return np.broadcast_to(uploaded(place, given).reshape(shape), (batch, shape[1], count, tokens))


def _mask(mask: ArrayLike, count: int, tokens: int, lead: Lead, place: Device) -> NDArray[np.bool_]:
    """The mask of one sequence as (lanes or 1, heads a lane or 1, n, tokens)."""
    _, kv_heads, query_heads = lead
    given = mask_of(mask, (1, query_heads, count, tokens), place)
    if given.shape[1] == 1:
        return given
    return given.reshape(kv_heads, query_heads // kv_heads, count, tokens)


def span(start: int, stop: int | None, length: int) -> tuple[int, int]:
    """`start, stop` within 0..length; stop None means the end. ShapeMismatch beyond, as nothing is clamped."""
    first, last = integer(start, "start"), length if stop is None else integer(stop, "stop")
    if not 0 <= first <= last <= length:
        raise ShapeMismatch(f"tokens {first}..{last} of a cache that holds {length}")
    return first, last


def float_array(x: ArrayLike, name: str, shape: tuple[int | None, ...], place: Device = HOST) -> Floats:
    """x as contiguous native floats of that shape (None: any length), all finite; or a typed error.

    WrongDevice for an array that does not lie where the cache does: nothing is transferred unasked.
    """
    array: Floats
    if place is not HOST:
        array = place.xp.ascontiguousarray(as_floats(x, name, place))
    else:
        array = x if type(x) is np.ndarray and x.dtype in NATIVE else as_floats(x, name)
    expected = tuple([got if want is None else want for want, got in zip(shape, array.shape, strict=False)])
    if array.ndim != len(shape) or array.shape != expected:
        wanted = ", ".join("n" if size is None else str(size) for size in shape)
        raise ShapeMismatch(f"{name} must have shape ({wanted}), got {array.shape}")
    if not (array.flags.c_contiguous and array.dtype in NATIVE):
        array = np.ascontiguousarray(array, array.dtype.newbyteorder("="))
    require_finite(array, name)
    return array
