"""The public door of a trace: arrays are turned into what a file stores, and everything about them is checked."""

from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tq_core import InvalidDtype, NotFinite, ShapeMismatch
from tq_trace import bfloat16
from tq_trace.bfloat16 import Bfloat16
from tq_trace.errors import InvalidPosition
from tq_trace.layout import RANKS, Stored

FLOATS: Final = ("keys", "values", "queries")
_KINDS: Final = {"float16": "F16", "float32": "F32", "float64": "F64"}


def float_tensor(given: ArrayLike | Bfloat16, name: str) -> tuple[str, NDArray[Any]]:
    """(dtype as stored, an own C-contiguous native copy); float64 stays float64, nothing is narrowed."""
    if isinstance(given, Bfloat16):
        return "BF16", np.array(given.bits, dtype=np.uint16, order="C")
    array = _array(given, name)
    if bfloat16.is_bfloat16(array):
        return "BF16", np.ascontiguousarray(array).view(np.uint16).copy()
    if array.dtype.kind != "f" or array.dtype.name not in _KINDS:
        raise InvalidDtype(
            f"{name} must be float16, bfloat16, float32 or float64, got {array.dtype}; "
            "convert it, e.g. with .astype('float32')"
        )
    return _KINDS[array.dtype.name], np.array(array, dtype=array.dtype.newbyteorder("="), order="C")


def position_tensor(given: ArrayLike) -> tuple[str, NDArray[Any]]:
    """Positions of any integer dtype, kept as they came until they are known to be in range; bool is refused."""
    array = _array(given, "query_positions")
    if array.dtype.kind not in "iu":
        raise InvalidDtype(
            f"query_positions must be integers, got {array.dtype}; convert them, e.g. with .astype('int64')"
        )
    return f"{array.dtype.kind.upper()}{8 * array.dtype.itemsize}", np.array(array, order="C")


def _array(given: ArrayLike, name: str) -> NDArray[Any]:
    try:
        return np.asarray(given)
    except (TypeError, ValueError) as error:  # ragged lists, tensors on a device or of a type numpy lacks
        raise InvalidDtype(f"{name} cannot be read as an array ({error}); pass a numpy array") from error


def require_shapes(tensors: Stored) -> None:
    """Raise ShapeMismatch for tensors that do not fit together."""
    shapes = {name: array.shape for name, (_, array) in tensors.items()}
    for name, rank in RANKS.items():
        if len(shapes[name]) != rank:
            axes = "(samples, query_count)" if rank == 2 else "(samples, tokens or query_count, head_dim)"
            raise ShapeMismatch(f"{name} must have the axes {axes}, got shape {shapes[name]}")
        if 0 in shapes[name]:
            raise ShapeMismatch(f"{name} has shape {shapes[name]}; a trace has at least one of everything")
    keys, values, queries = shapes["keys"], shapes["values"], shapes["queries"]
    if values[:2] != keys[:2]:
        raise ShapeMismatch(f"values have shape {values}, expected {keys[:2]} samples and tokens as keys {keys} have")
    if (queries[0], queries[2]) != (keys[0], keys[2]):
        raise ShapeMismatch(
            f"queries have shape {queries}, expected {keys[0]} samples of head_dim {keys[2]} as keys {keys} have"
        )
    if shapes["query_positions"] != queries[:2]:
        raise ShapeMismatch(
            f"query_positions have shape {shapes['query_positions']}, expected {queries[:2]} as queries"
        )


def require_finite(kind: str, array: NDArray[Any], name: str) -> None:
    """Raise NotFinite with the coordinates of the first value that is not."""
    for sample, rows in enumerate(array):  # a sample at a time: the mask stays small
        finite = bfloat16.is_finite(rows) if kind == "BF16" else np.isfinite(rows)
        if not finite.all():
            row, column = divmod(int(np.argmin(finite)), rows.shape[1])
            value = rows[row, column]
            shown = bfloat16.widen(rows[row, column : column + 1])[0] if kind == "BF16" else value
            raise NotFinite(f"{name}[{sample}, {row}, {column}] is {shown}; all values must be finite")


def require_positions(positions: NDArray[Any], tokens: int) -> None:
    """Raise InvalidPosition for the first position outside the tokens."""
    wrong = (positions < 0) | (positions >= tokens)
    if wrong.any():
        sample, query = divmod(int(np.argmax(wrong)), positions.shape[1])
        raise InvalidPosition(
            f"query_positions[{sample}, {query}] is {positions[sample, query]}, expected 0..{tokens - 1}: "
            "a query at position p attends to keys 0..p"
        )
