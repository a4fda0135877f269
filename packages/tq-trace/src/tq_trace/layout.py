"""The trace file: a safetensors container of four tensors, in the single-file layout of the `turboquant` crate.

Reading checks the header against the file's size before anything is allocated for the body; the safetensors package
then checks the container itself. Writing needs no package: 8 bytes of length, a JSON header, the tensors.
"""

import json
import os
import re
import stat
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import prod
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, deserialize

from tq_core import CorruptData, FormatVersion
from tq_trace.errors import TraceAccess, TraceNotFound

# Tensor names and ranks. A file of many layers and heads, read by a later release, has the same names behind a prefix.
RANKS: Final = {"keys": 3, "values": 3, "queries": 3, "query_positions": 2}
MANY: Final = re.compile(r"layers\.\d+\.heads\.\d+\.(keys|values|queries|query_positions)")

# What the header calls a dtype, and how its bytes are read; BF16 as bits.
FLOATS: Final = {"F16": "<f2", "BF16": "<u2", "F32": "<f4", "F64": "<f8"}
INTEGERS: Final = {f"{kind}{8 * size}": f"<{kind.lower()}{size}" for kind in "IU" for size in (1, 2, 4, 8)}

# A hundred layers of a hundred heads need less; safetensors itself would allow 100 MB of JSON.
MAX_HEADER: Final = 1 << 22

Stored = Mapping[str, tuple[str, NDArray[Any]]]
"""Tensor name -> (dtype as the header names it, array; bfloat16 as uint16 bits)."""


def encode_header(tensors: Stored, metadata: Mapping[str, str]) -> tuple[bytes, list[str]]:
    """The first bytes of the file, and the order in which the tensors follow: widest first, so that all are aligned."""
    order = sorted(tensors, key=lambda name: (-tensors[name][1].itemsize, name))
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    start = 0
    for name in order:
        kind, array = tensors[name]
        end = start + array.nbytes
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, order


def write(file: BinaryIO, tensors: Stored, metadata: Mapping[str, str]) -> None:
    """Write the whole container; arrays must be C-contiguous."""
    head, order = encode_header(tensors, metadata)
    file.write(head)
    for name in order:
        array = tensors[name][1]
        file.write((array.byteswap() if sys.byteorder == "big" else array).data)


def read(path: str | os.PathLike[str]) -> tuple[dict[str, tuple[str, NDArray[Any]]], dict[str, str]]:
    """Tensors and metadata of a file; holds the file twice in memory for a moment.

    Guarantees names, ranks, dtypes and sizes, not values. Raises TraceNotFound, TraceAccess, CorruptData, and
    FormatVersion for a file of many layers and heads; every message begins with the path.
    """
    with _opened(path) as (file, size):
        try:
            header, length = _header(file, size)
            metadata = _metadata(header.pop("__metadata__", {}))
            _check_tensors(header, size - 8 - length)
            file.seek(0)
            arrays = _body(file.read(size), header)
        except (CorruptData, FormatVersion) as error:
            raise type(error)(f"{os.fspath(path)}: {error}") from error
        except MemoryError as error:
            raise TraceAccess(f"{os.fspath(path)}: {size} bytes do not fit in memory") from error
    return arrays, metadata


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[tuple[BinaryIO, int]]:
    """The open regular file and its size. Never waits: opening a pipe nobody writes to would."""
    try:
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        descriptor = os.open(path, flags)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise TraceAccess(f"{os.fspath(path)}: not a regular file; give the path of a trace file")
            with open(descriptor, "rb", closefd=False) as file:
                yield file, status.st_size
        finally:
            os.close(descriptor)
    except TraceAccess:
        raise
    except FileNotFoundError as error:
        raise TraceNotFound(f"{os.fspath(path)}: no such file") from error
    except OSError as error:
        raise TraceAccess(f"{os.fspath(path)}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        if isinstance(error, (CorruptData, FormatVersion)):
            raise
        raise TraceAccess(f"{os.fspath(path)!r}: not a path: {error}") from error


def _header(file: BinaryIO, size: int) -> tuple[dict[str, Any], int]:
    if size < 8:
        raise CorruptData(f"{size} bytes are too few for a safetensors file: empty or truncated")
    length = int.from_bytes(file.read(8), "little")
    if length > size - 8:
        raise CorruptData(f"header of {length} bytes announced, {size - 8} at hand: truncated, or not safetensors")
    if length > MAX_HEADER:
        raise CorruptData(f"header of {length} bytes; at most {MAX_HEADER} are read")
    try:
        header = json.loads(file.read(length).decode(), object_pairs_hook=_without_duplicates)
    except CorruptData:
        raise
    except (ValueError, RecursionError) as error:
        raise CorruptData(f"header is not JSON in UTF-8 ({error}): not a safetensors file") from error
    if not isinstance(header, dict):
        raise CorruptData(f"header is a JSON {type(header).__name__}, expected an object")
    return header, length


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise CorruptData("header names something twice")
    return found


def _metadata(found: object) -> dict[str, str]:
    if not isinstance(found, dict):
        raise CorruptData(f"metadata is a JSON {type(found).__name__}, expected an object of strings")
    for name, text in found.items():
        if not isinstance(text, str):
            raise CorruptData(f"metadata {name!r} is {text!r:.40}, expected a string")
    return found


def _check_tensors(header: dict[str, Any], body: int) -> None:
    """Names, dtypes, ranks and sizes against the bytes at hand; Python integers, so nothing overflows."""
    if any(MANY.fullmatch(name) for name in header):
        raise FormatVersion("holds many layers and heads; this release reads files of one: export one a file")
    if set(header) != set(RANKS):
        missing, extra = sorted(set(RANKS) - set(header)), sorted(set(header) - set(RANKS))
        raise CorruptData(f"a trace holds exactly {list(RANKS)}; missing: {missing}, not known: {extra!r:.200}")
    total = sum(_tensor_size(name, facts) for name, facts in header.items())
    if total != body:
        raise CorruptData(f"tensors of {total} bytes announced, {body} at hand: truncated or with something appended")


def _tensor_size(name: str, facts: object) -> int:
    if not isinstance(facts, dict) or set(facts) != {"dtype", "shape", "data_offsets"}:
        raise CorruptData(f"{name} needs exactly dtype, shape and data_offsets, got {facts!r:.100}")
    kinds, kind, shape = (FLOATS if RANKS[name] == 3 else INTEGERS), facts["dtype"], facts["shape"]
    if not isinstance(kind, str) or kind not in kinds:
        raise CorruptData(f"{name} has dtype {kind!r:.40}, expected one of {', '.join(kinds)}")
    if not isinstance(shape, list) or not all(type(length) is int and length >= 1 for length in shape):
        raise CorruptData(f"{name} has shape {shape!r:.100}, expected a list of positive integers")
    if len(shape) != RANKS[name]:
        raise CorruptData(f"{name} has shape {shape!r:.100}, expected {RANKS[name]} axes")
    return prod(shape) * np.dtype(kinds[kind]).itemsize


def _body(data: bytes, header: dict[str, Any]) -> dict[str, tuple[str, NDArray[Any]]]:
    try:
        found = dict(deserialize(data))  # type: ignore[no-untyped-call]
    except SafetensorError as error:
        raise CorruptData(f"not a valid safetensors file: {error}") from error
    arrays = {}
    for name, facts in header.items():
        # A file that changes while it is read can differ from the header that was checked.
        if name not in found or any(found[name][key] != facts[key] for key in ("dtype", "shape")):
            raise CorruptData("changed while it was being read")
        kind = facts["dtype"]
        dtype = np.dtype((FLOATS | INTEGERS)[kind])
        array = np.frombuffer(found[name]["data"], dtype).reshape(facts["shape"])
        arrays[name] = (kind, array.astype(dtype.newbyteorder("="), copy=False))
    return arrays
