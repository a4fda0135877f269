"""Sealed safetensors files: the container of snapshots (docs/format.md, section 9).

Any safetensors reader reads them. On top, every tensor and the header have a checksum, and there is one way only to
spell a header, so that no byte can change unnoticed. Reading maps the file and copies nothing.
"""

import hashlib
import json
import mmap
import reprlib
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tq_cache.atomic_file import SNAPSHOT, regular_file
from tq_core import CorruptData, FormatVersion, InvalidSpec

Array = NDArray[Any]

DTYPES: Final = {"U8": "|u1", "F16": "<f2", "F32": "<f4", "F64": "<f8", "I64": "<i8"}
NAMES: Final = {np.dtype(code).str: name for name, code in DTYPES.items()}
MAX_HEADER: Final = 1 << 24  # some 70,000 tensors; parsing takes memory in proportion, and a stranger may have made it
MAX_AXES: Final = 4
MAX_LENGTH: Final = 1 << 31
MAX_BYTES: Final = 1 << 62
SEAL: Final = "header_sha256"
DIGEST: Final = "sha256."
NO_SEAL: Final = "0" * 64


class Stored(NamedTuple):
    """A tensor of a file: a read-only view of the mapped bytes, and what they should hash to."""

    array: Array
    sha256: str


class SealedFile(NamedTuple):
    """A file whose header is verified; the tensors are not yet: `verify` each before use."""

    path: Path
    metadata: dict[str, str]
    tensors: dict[str, Stored]

    def verify(self, name: str) -> None:
        """Raise CorruptData unless the tensor's bytes are those that were written."""
        stored = self.tensors[name]
        if _digest([stored.array]) != stored.sha256:
            raise CorruptData(f"{self.path}: checksum of {name} does not match: changed after it was written")


def encoded(
    kind: tuple[str, str], metadata: Mapping[str, str], tensors: Mapping[str, Array]
) -> list[bytes | memoryview]:
    """The blocks of a file, in order. Equal arguments, whatever their memory, give equal bytes.

    `kind`: format name and version. Tensors follow each other widest dtype first, so that each is aligned, otherwise
    in the order given; nothing is copied that is contiguous.
    """
    order = sorted(tensors, key=lambda name: -tensors[name].dtype.itemsize)
    facts = {"format": kind[0], "format_version": kind[1], **metadata, SEAL: NO_SEAL}
    header: dict[str, Any] = {"__metadata__": facts}
    blocks: list[bytes | memoryview] = [b""]
    start = 0
    for name in order:
        array = tensors[name]
        parts = list(_contiguous(array))
        facts[DIGEST + name] = _digest(parts)
        shape, end = list(array.shape), start + array.nbytes
        header[name] = {"dtype": NAMES[array.dtype.newbyteorder("<").str], "shape": shape, "data_offsets": [start, end]}
        blocks += [_bytes(part) for part in parts if part.nbytes]
        start = end
    facts[SEAL] = _seal(_spelled(header))
    blocks[0] = _spelled(header)
    if len(blocks[0]) - 8 > MAX_HEADER:
        raise InvalidSpec(
            f"{len(order)} tensors need a header of {len(blocks[0]) - 8} bytes, at most {MAX_HEADER} are allowed; "
            "save the rows of the batch in several files (`split`)"
        )
    return blocks


def opened(path: Path, kind: tuple[str, str]) -> SealedFile:
    """A mapped file of that format name and version with a verified header; costs the header, not the tensors.

    Raises CorruptData, FormatVersion, SnapshotNotFound or SnapshotAccess; every message begins with the path.
    """
    mapped, size = _mapped(path)
    try:
        header, length = _header(mapped, size)
        facts = _metadata(header, kind)
        _check_seal(header, facts, mapped[: 8 + length])
        tensors = _tensors(header, facts, mapped, 8 + length, size)
    except (CorruptData, FormatVersion) as error:
        raise type(error)(f"{path}: {error}") from error
    return SealedFile(path, facts, tensors)


def _contiguous(array: Array) -> Iterator[Array]:
    """The array's bytes in little-endian C order, as few parts as its memory allows."""
    dtype = array.dtype.newbyteorder("<")
    if array.flags.c_contiguous or array.ndim < 2:
        yield np.ascontiguousarray(array, dtype)
    else:
        for part in array:
            yield np.ascontiguousarray(part, dtype)


def _bytes(part: Array) -> memoryview:
    return part.reshape(-1).view(np.uint8).data


def _digest(parts: list[Array]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        if part.nbytes:
            digest.update(_bytes(part))
    return digest.hexdigest()


def _spelled(header: dict[str, Any]) -> bytes:
    """The first bytes of a file: length, canonical JSON, spaces up to a multiple of 8."""
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode("ascii")
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _seal(head: bytes) -> str:
    return hashlib.sha256(head).hexdigest()


def _mapped(path: Path) -> tuple[mmap.mmap, int]:
    """The regular file at path, mapped for reading, and its size."""
    with regular_file(path, "a snapshot", SNAPSHOT) as (descriptor, size):
        if size < 10:
            raise CorruptData(f"{path}: {size} bytes are too few for a snapshot: empty or truncated")
        return mmap.mmap(descriptor, size, access=mmap.ACCESS_READ), size


def _header(mapped: mmap.mmap, size: int) -> tuple[dict[str, Any], int]:
    length = int.from_bytes(mapped[:8], "little")
    if length > size - 8:
        raise CorruptData(f"header of {length} bytes announced, {size - 8} at hand: truncated, or no snapshot")
    if length > MAX_HEADER:
        raise CorruptData(f"header of {length} bytes; at most {MAX_HEADER} are read")
    try:
        header = json.loads(mapped[8 : 8 + length].decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise CorruptData(f"header is not JSON ({error!s:.100}): no snapshot, or changed") from error
    if not isinstance(header, dict):
        raise CorruptData(f"header is a JSON {type(header).__name__}, expected an object")
    return header, length


def _metadata(header: dict[str, Any], kind: tuple[str, str]) -> dict[str, str]:
    facts = header.get("__metadata__")
    if not isinstance(facts, dict) or facts.get("format") != kind[0]:
        found = facts.get("format") if isinstance(facts, dict) else None
        raise CorruptData(f"format is {reprlib.repr(found)}, expected {kind[0]!r}: not a file of this package")
    for name, text in facts.items():
        if not isinstance(text, str):
            raise CorruptData(f"metadata {reprlib.repr(name)} is {reprlib.repr(text)}, expected a string")
    if facts.get("format_version") != kind[1]:
        found = reprlib.repr(facts.get("format_version"))
        raise FormatVersion(f"format version {found}; this release reads {kind[1]!r}: upgrade tq-cache")
    return facts


def _check_seal(header: dict[str, Any], facts: dict[str, str], head: bytes) -> None:
    """Refuse another spelling first (keys given twice, spaces): two readers could disagree about such a header."""
    seal = facts.get(SEAL, "")
    try:
        if _spelled(header) != head:
            raise CorruptData("header is not in canonical form: changed, or written by another program")
        facts[SEAL] = NO_SEAL
        expected = _seal(_spelled(header))
    except RecursionError as error:
        raise CorruptData("header is nested too deep") from error
    if expected != seal:
        raise CorruptData("checksum of the header does not match: changed after it was written")


def _tensors(
    header: dict[str, Any], facts: dict[str, str], mapped: mmap.mmap, begin: int, size: int
) -> dict[str, Stored]:
    """Every tensor as a view, and the digests taken out of `facts`; exact cover of the file, checked before views."""
    spans = {name: _span(name, entry) for name, entry in header.items() if name != "__metadata__"}
    at = 0
    for name, (start, end, _, _) in sorted(spans.items(), key=lambda item: item[1][:2]):
        if start != at:
            raise CorruptData(f"{reprlib.repr(name)} begins at byte {start}, expected {at}: a gap or an overlap")
        at = end
    if at != size - begin:
        raise CorruptData(f"tensors of {at} bytes announced, {size - begin} at hand: truncated or something appended")
    found = {}
    for name, (start, end, dtype, shape) in spans.items():
        digest = facts.pop(DIGEST + name, None)
        if digest is None:
            raise CorruptData(f"{reprlib.repr(name)} has no checksum")
        flat = np.frombuffer(mapped, dtype, prod(shape), begin + start) if end > start else np.empty(0, dtype)
        flat.setflags(write=False)
        found[name] = Stored(flat.reshape(shape), digest)
    if any(name.startswith(DIGEST) for name in facts):
        raise CorruptData("header has checksums of tensors that are not there")
    del facts[SEAL], facts["format"], facts["format_version"]
    return found


def _span(name: str, entry: object) -> tuple[int, int, "np.dtype[Any]", tuple[int, ...]]:
    shown = reprlib.repr(name)
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise CorruptData(f"{shown} needs exactly dtype, shape and data_offsets, got {reprlib.repr(entry)}")
    kind, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(kind, str) or kind not in DTYPES:
        raise CorruptData(f"{shown} has dtype {reprlib.repr(kind)}, expected one of {', '.join(DTYPES)}")
    if not isinstance(shape, list) or len(shape) > MAX_AXES or not all(map(_is_length, shape)):
        raise CorruptData(f"{shown} has shape {reprlib.repr(shape)}, expected up to {MAX_AXES} lengths below 2**31")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(type(at) is int for at in offsets):
        raise CorruptData(f"{shown} has data_offsets {reprlib.repr(offsets)}, expected two integers")
    dtype, (start, end) = np.dtype(DTYPES[kind]), offsets
    if prod(max(length, 1) for length in shape) * dtype.itemsize > MAX_BYTES:
        raise CorruptData(f"{shown} has the absurd shape {shape}")
    if start < 0 or end - start != prod(shape) * dtype.itemsize:
        raise CorruptData(f"{shown} of shape {shape} and dtype {kind} cannot lie at {reprlib.repr(offsets)}")
    if start % dtype.itemsize:
        raise CorruptData(f"{shown} of dtype {kind} begins at byte {start}, which is not aligned")
    return start, end, dtype, tuple(shape)


def _is_length(length: object) -> bool:
    return type(length) is int and 0 <= length < MAX_LENGTH
