"""Reading a trace file: the header is checked against the file's size, then tensors are mapped, not read.

Guarantees names, ranks, dtypes and sizes before anything is allocated; values are checked by who uses them.
"""

import json
import os
from collections.abc import Mapping
from math import prod
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from tq_cache.atomic_file import as_path, regular_file
from tq_core import CorruptData, InvalidSpec
from tq_trace.errors import FILES, TraceAccess
from tq_trace.layout import FLOATS, INTEGERS, MANY, MAX_HEADER, RANKS, Place, Stored
from tq_trace.metadata import Metadata


class Container(NamedTuple):
    """The tensors of a file by place (None: the only one, whose place the metadata tells), and its metadata."""

    places: Mapping[Place | None, Stored]
    metadata: Mapping[str, str]


def read(path: str | os.PathLike[str]) -> Container:
    """Map a file; its tensors are read-only views of it, in file order of bytes, bfloat16 as uint16 bits.

    Raises TraceNotFound, TraceAccess, CorruptData; every message begins with the path. The file must not be changed
    while a tensor is in use; it may be deleted or replaced on systems that keep open files alive.
    """
    name = os.fspath(path)
    with (
        regular_file(as_path(path), "a trace file", FILES) as (descriptor, size),
        open(descriptor, "rb", closefd=False) as file,
    ):
        try:
            header, length = _header(file, size)
            metadata = _metadata(header.pop("__metadata__", {}))
            names = _places(header)
            _check_tensors(header, size - 8 - length)
            _check_container(path)
            body = np.memmap(file, np.uint8, "r", 8 + length, (size - 8 - length,)).view(np.ndarray)
        except CorruptData as error:
            raise CorruptData(f"{name}: {error}") from error
        except MemoryError as error:
            raise TraceAccess(f"{name}: {size} bytes do not fit in memory") from error
    places = {
        place: {tensor: _mapped(body, header[full]) for tensor, full in tensors.items()}
        for place, tensors in sorted(names.items(), key=lambda item: item[0] or (0, 0))
    }
    return Container(places, metadata)


def place_of(found: Container, path: str, layer: int | None, head: int | None) -> Place | None:
    """The place asked for; InvalidSpec where it is not in the file, or where nothing is asked of a file of many."""
    if None in found.places:
        told = Metadata.from_strings(found.metadata) if layer is not None or head is not None else None
        if told and (layer not in (None, told.layer) or head not in (None, told.head)):
            raise InvalidSpec(f"{path}: holds layer {told.layer} head {told.head} alone, not {layer}, {head}")
        return None
    chosen = [
        place for place in found.places if place is not None and layer in (None, place[0]) and head in (None, place[1])
    ]
    if len(chosen) != 1:
        places = [place for place in found.places if place]
        raise InvalidSpec(
            f"{path}: holds {len(places)} traces, layers {places[0][0]}..{places[-1][0]}; give layer= and head= of one "
            f"that is there (got {layer}, {head}), or open all with TraceSet.open"
        )
    return chosen[0]


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


def _places(header: dict[str, Any]) -> dict[Place | None, dict[str, str]]:
    """Place -> tensor -> the tensor's name in the file; every place has all four tensors and nothing is left over."""
    found: dict[Place | None, dict[str, str]] = {}
    unknown = []
    for name in header:
        match = MANY.fullmatch(name)
        if match:
            found.setdefault((int(match[1]), int(match[2])), {})[match[3]] = name
        elif name in RANKS:
            found.setdefault(None, {})[name] = name
        else:
            unknown.append(name)
    if not found or unknown or (None in found and len(found) > 1):
        missing = [] if found else sorted(RANKS)
        extra = sorted(unknown) or (sorted(found[None].values()) if None in found else [])
        raise CorruptData(
            f"a trace holds exactly {list(RANKS)}, or these of many places as layers.0.heads.0.keys; "
            f"missing: {missing}, not known: {extra!r:.200}"
        )
    for place, tensors in found.items():
        missing = sorted(set(RANKS) - set(tensors))
        if missing:
            where = "" if place is None else f"layer {place[0]} head {place[1]}: "
            raise CorruptData(f"{where}a trace holds exactly {list(RANKS)}; missing: {missing}, not known: []")
    return found


def _check_tensors(header: dict[str, Any], body: int) -> None:
    """Dtypes, ranks and sizes against the bytes at hand; Python integers, so nothing overflows."""
    total = sum(_tensor_size(name, facts) for name, facts in header.items())
    if total != body:
        raise CorruptData(f"tensors of {total} bytes announced, {body} at hand: truncated or with something appended")
    for name, facts in header.items():
        _check_offsets(name, facts)
    at = 0
    for begin, end, name in sorted((*facts["data_offsets"], name) for name, facts in header.items()):
        if begin != at:
            raise CorruptData(f"not a valid safetensors file: {name} begins at byte {begin}, expected {at}")
        at = end


def _tensor_size(name: str, facts: object) -> int:
    rank = RANKS[name.rpartition(".")[2]]
    if not isinstance(facts, dict) or set(facts) != {"dtype", "shape", "data_offsets"}:
        raise CorruptData(f"{name} needs exactly dtype, shape and data_offsets, got {facts!r:.100}")
    kinds, kind, shape = (FLOATS if rank == 3 else INTEGERS), facts["dtype"], facts["shape"]
    if not isinstance(kind, str) or kind not in kinds:
        raise CorruptData(f"{name} has dtype {kind!r:.40}, expected one of {', '.join(kinds)}")
    if not isinstance(shape, list) or not all(type(length) is int and length >= 1 for length in shape):
        raise CorruptData(f"{name} has shape {shape!r:.100}, expected a list of positive integers")
    if len(shape) != rank:
        raise CorruptData(f"{name} has shape {shape!r:.100}, expected {rank} axes")
    return prod(shape) * np.dtype(kinds[kind]).itemsize


def _check_offsets(name: str, facts: dict[str, Any]) -> None:
    size, offsets = _tensor_size(name, facts), facts["data_offsets"]
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(type(at) is int and at >= 0 for at in offsets):
        raise CorruptData(f"not a valid safetensors file: {name} has data_offsets {offsets!r:.100}")
    if offsets[1] - offsets[0] != size:
        raise CorruptData(
            f"not a valid safetensors file: {name} of shape {facts['shape']!r:.100} takes {size} bytes, "
            f"its data_offsets {offsets} hold {offsets[1] - offsets[0]}"
        )


def _check_container(path: str | os.PathLike[str]) -> None:
    """The safetensors package's own opinion of the container; it maps the file and reads the header alone."""
    try:
        with safe_open(path, "np"):
            pass
    except (SafetensorError, OSError) as error:
        raise CorruptData(f"not a valid safetensors file: {error}") from error


def _mapped(body: NDArray[np.uint8], facts: Mapping[str, Any]) -> tuple[str, NDArray[Any]]:
    kind, (begin, end) = facts["dtype"], facts["data_offsets"]
    dtype = np.dtype((FLOATS | INTEGERS)[kind])
    array = body[begin:end].view(dtype).reshape(facts["shape"])
    return kind, array.astype(dtype.newbyteorder("="), copy=False)
