"""The public door: arrays and numbers are checked here once, before anything is computed or written."""

import math
import operator
from typing import Any, Final, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tq_core.device import Device, is_bfloat16, is_on_device, widened
from tq_core.errors import (
    InvalidBitWidth,
    InvalidDimension,
    InvalidDtype,
    InvalidSpec,
    NotFinite,
    NotUnitNorm,
    ScaleRange,
    ShapeMismatch,
    WrongDevice,
)
from tq_core.flags import is_set, look_once
from tq_core.norms import row_norms

MAX_DIM: Final = 1 << 20

# How far from 1 the norm of a "unit" row may be, by input dtype: what rounding in that dtype explains, with room.
UNIT_TOLERANCE: Final = {"bfloat16": 1.6e-2, "float16": 4e-3, "float32": 1e-4, "float64": 1e-6}

# Queries beyond this could overflow float32 inside the unnormalised Hadamard stages and score as NaN.
MAX_QUERY: Final = 2.0**64

EXPONENT: Final = 0x7F80  # of bfloat16: all set in numbers that are not finite

FEW: Final = (
    4096  # numbers; up to there a dot product is one call on one thread, a third of the time of looking at each
)


def dimension(dim: SupportsIndex) -> int:
    """dim as an int in 2..MAX_DIM, or InvalidDimension."""
    value = integer(dim, "dim", InvalidDimension)
    if not 2 <= value <= MAX_DIM:
        raise InvalidDimension(f"dim must lie in 2..{MAX_DIM}, got {value}")
    return value


def bit_width(
    bits: SupportsIndex | float, low: int, high: int, what: str, fractions: tuple[float, ...] = ()
) -> int | float:
    """bits as an int in low..high, or as one of the fractions, which are floats; InvalidBitWidth for all else."""
    if isinstance(bits, (float, np.floating)) and float(bits) in fractions:
        return float(bits)
    hint = f"; its fractional widths are {', '.join(map(str, fractions))}" if fractions else ""
    value = integer(bits, "bits", InvalidBitWidth, hint)
    if not low <= value <= high:
        raise InvalidBitWidth(f"{what} takes {low} to {high} bits, got {value}{hint}")
    return value


def seed_value(seed: SupportsIndex) -> int:
    """seed as an int in 0..2**64-1, or InvalidSpec."""
    value = integer(seed, "seed", InvalidSpec)
    if not 0 <= value < 1 << 64:
        raise InvalidSpec(f"seed must lie in 0..2**64-1, got {value}")
    return value


def choice(value: object, allowed: tuple[str, ...], name: str) -> str:
    """value if it is one of the allowed strings, or InvalidSpec."""
    if not isinstance(value, str) or value not in allowed:
        raise InvalidSpec(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")
    return value


def count(value: SupportsIndex, low: int, high: int, name: str) -> int:
    """value as an int in low..high, or InvalidSpec."""
    number = integer(value, name, InvalidSpec)
    if not low <= number <= high:
        raise InvalidSpec(f"{name} must lie in {low}..{high}, got {number}")
    return number


def integer(value: object, name: str, error: type[Exception] = InvalidSpec, hint: str = "") -> int:
    """value as an int, or `error`: for floats, bools, and arrays even of one integer."""
    if type(value) is int:  # nearly always; asking for the protocol takes microseconds
        return value
    if isinstance(value, SupportsIndex) and not isinstance(value, (bool, np.bool_, np.ndarray)):
        try:
            return operator.index(value)
        except TypeError:
            pass
    raise error(f"{name} must be an integer, got {value!r:.80}{hint}")


def as_array(x: ArrayLike, name: str) -> NDArray[Any]:
    """x as an array of the host, or ShapeMismatch for ragged lists and InvalidDtype for what is no array at all."""
    if type(x) is not np.ndarray and is_on_device(x):
        raise WrongDevice(f"{name} lies on a device and is read on the host; copy it there, e.g. with .get() or .cpu()")
    if isinstance(x, np.ma.MaskedArray):
        raise InvalidDtype(f"{name} is a masked array and its mask would be lost; fill it first, e.g. with .filled(0)")
    try:
        return np.asarray(x)
    except ValueError as error:
        raise ShapeMismatch(f"{name} must be an array of rows of one length: {error}") from error
    except TypeError as error:
        raise InvalidDtype(f"{name} cannot be read as a numpy array: {error}") from error


def as_floats(x: ArrayLike, name: str, device: Device | None = None) -> NDArray[np.floating]:
    """x as an array of float16, float32 or float64 of any shape (bfloat16: widened to float32), or InvalidDtype.

    `device`: where x lies and stays, as for all checks of floats here; None is the host.
    """
    array = as_array(x, name) if device is None else device.adopt(x, name)
    if array.dtype.kind == "V" and array.dtype.name == "bfloat16":  # asking for a name is slow
        array = array.astype(np.float32)
    if array.dtype.kind != "f" or array.dtype.itemsize > 8:
        raise InvalidDtype(
            f"{name} must be float16, float32 or float64, got {array.dtype}; convert it, e.g. with .astype('float32')"
        )
    return array


def float_rows(
    x: ArrayLike, dim: int, name: str = "x", device: Device | None = None, *, bits: bool = False
) -> tuple[NDArray[np.floating], bool]:
    """(rows, dim) C-contiguous aligned native floats, and whether a single (dim,) vector came in.

    Takes float16, float32 and float64 (and bfloat16, widened to float32) of any strides and byte order; copies only
    where it must. With `bits`, bfloat16 on a device comes as its bits, uint16. Raises InvalidDtype, ShapeMismatch or
    NotFinite with the coordinate.
    """
    as_bits = bits and device is not None and is_bfloat16(x)
    array = device.adopt(x, name, bits=True) if as_bits and device is not None else as_floats(x, name, device)
    if array.ndim not in (1, 2) or array.shape[-1] != dim:
        raise ShapeMismatch(f"{name} must have shape ({dim},) or (rows, {dim}), got {array.shape}")
    single = array.ndim == 1
    rows = native(array.reshape(1 if single else len(array), dim), device)
    if not as_bits:
        require_finite(rows, name, single=single)
    elif is_set((np.bitwise_and(rows, EXPONENT) == EXPONENT).any()):
        require_finite(widened(rows), name, single=single)
    return rows, single


def native(array: NDArray[np.floating], device: Device | None) -> NDArray[np.floating]:
    """The array C-contiguous, aligned and in native byte order, copied only where it must be."""
    if device is not None:
        contiguous: NDArray[np.floating] = device.xp.ascontiguousarray(array)
        return contiguous
    if array.flags.aligned:  # twice as fast as to require it
        return np.ascontiguousarray(array, array.dtype.newbyteorder("="))
    return np.require(array, array.dtype.newbyteorder("="), ["C", "A"])


def is_finite(array: NDArray[np.floating]) -> bool:
    """Whether no number is NaN or infinite."""
    # A sum of squares has no infinity or NaN to hide; one that overflows is looked at again.
    if (
        isinstance(array, np.ndarray)
        and array.size <= FEW
        and array.dtype.itemsize >= 4
        and math.isfinite(np.vdot(array, array))
    ):
        return True
    finite = np.isfinite(array).all()
    return bool(finite) if isinstance(array, np.ndarray) else not is_set(~finite)


def require_finite(array: NDArray[np.floating], name: str, *, single: bool = False) -> None:
    """Raise NotFinite naming the first number that is NaN or infinite; `single`: without the first axis."""
    if is_finite(array):
        return
    finite = np.isfinite(array)
    at = tuple(int(i) for i in np.argwhere(~finite)[0])
    where = ", ".join(map(str, at[1:] if single else at))
    raise NotFinite(f"{name}[{where}] is {array[at]}; all values must be finite")


def unit_norm_rows(x: ArrayLike, dim: int, device: Device | None = None) -> tuple[NDArray[np.floating], bool]:
    """`float_rows` of x, or NotUnitNorm for the first row off by more than UNIT_TOLERANCE of the dtype of x."""
    rows, single = float_rows(x, dim, device=device)
    norms = row_norms(rows)
    came = _dtype_name(x, rows)
    tolerance = UNIT_TOLERANCE[came]
    off = np.abs(norms - 1.0) > tolerance
    if is_set(off.any()):
        row = int(np.argmax(off))
        raise NotUnitNorm(
            f"row {row} has norm {float(norms[row]):.9g}, expected 1 within {tolerance:g} for {came}; "
            "normalize() it, or use VectorCodec, which keeps norms"
        )
    return rows, single


def _dtype_name(x: ArrayLike, rows: NDArray[np.floating]) -> str:
    """The dtype of x before any widening."""
    if isinstance(rows, np.ndarray):
        return np.asarray(x).dtype.name
    return str(getattr(x, "dtype", rows.dtype)).removeprefix("torch.")


def query_rows(
    queries: ArrayLike, dim: int, name: str = "queries", device: Device | None = None
) -> NDArray[np.float32]:
    """Queries (or weights) as (queries, dim) float32; ScaleRange for values beyond MAX_QUERY."""
    if device is None:
        return _query_rows(queries, dim, name, None)
    return look_once(lambda: _query_rows(queries, dim, name, device))


def _query_rows(queries: ArrayLike, dim: int, name: str, device: Device | None) -> NDArray[np.float32]:
    rows, _ = float_rows(queries, dim, name, device)
    with np.errstate(over="ignore"):  # float64 beyond float32 becomes infinite and is refused below
        narrow: NDArray[np.float32] = rows.astype(np.float32, copy=False)
    large = np.abs(narrow) > np.float32(MAX_QUERY)
    if is_set(large.any()):
        row, column = (int(i) for i in np.argwhere(large)[0])
        raise ScaleRange(
            f"{name}[{row}, {column}] is {float(rows[row, column]):.6g}; float32 products allow magnitudes up to "
            f"2**64: scale the {name} down, which scales every result alike"
        )
    return narrow
