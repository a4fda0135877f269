"""The sealed container: magic, version, lengths, checksum, JSON header, payload (docs/format.md, section 8)."""

import hashlib
import json
import struct
from typing import Any, Final

from tq_core.errors import CorruptData, FormatVersion, InvalidDtype, TurboQuantError
from tq_core.spec import Spec, validated

FORMAT_VERSION: Final = 1
MAGIC: Final = b"TQv\0"
PREFIX: Final = 52
MAX_HEADER: Final = 1 << 16
_FIXED: Final = struct.Struct("<4sIIQ")


def seal(header: dict[str, Any], payload: bytes) -> bytes:
    """One self-contained byte string."""
    text = _canonical(header)
    fixed = _FIXED.pack(MAGIC, FORMAT_VERSION, len(text), len(payload))
    digest = hashlib.sha256(fixed + text + payload).digest()
    return b"".join((fixed, digest, text, payload))


def open_sealed(data: bytes | bytearray | memoryview) -> tuple[dict[str, Any], memoryview]:
    """Header and payload of verified bytes. Checks magic, version, lengths and checksum, in this order."""
    try:
        view = memoryview(data).cast("B")
    except TypeError as error:
        raise InvalidDtype(f"expected bytes, a bytearray or a contiguous buffer, got {type(data).__name__}") from error
    if len(view) < PREFIX:
        raise CorruptData(f"{len(view)} bytes are too few: the fixed part alone has {PREFIX}")
    magic, version, header_size, payload_size = _FIXED.unpack(view[: _FIXED.size])
    if magic != MAGIC:
        raise CorruptData(f"these bytes begin with {bytes(magic)!r}, not with {MAGIC!r}: not TurboQuant codes")
    if version != FORMAT_VERSION:
        raise FormatVersion(f"format version {version}; this release reads {FORMAT_VERSION}: upgrade tq-core")
    if header_size > MAX_HEADER:
        raise CorruptData(f"header of {header_size} bytes; at most {MAX_HEADER} are allowed")
    expected = PREFIX + header_size + payload_size
    if expected != len(view):
        raise CorruptData(f"{expected} bytes announced, {len(view)} at hand: truncated or with something appended")
    digest = hashlib.sha256(view[: _FIXED.size])
    digest.update(view[PREFIX:])
    if digest.digest() != view[_FIXED.size : PREFIX]:
        raise CorruptData("checksum does not match: the bytes were changed after they were written")
    return _header(view[PREFIX : PREFIX + header_size]), view[PREFIX + header_size :]


def _header(text: memoryview) -> dict[str, Any]:
    try:
        header = json.loads(bytes(text).decode("ascii"))
    except (ValueError, RecursionError) as error:
        raise CorruptData(f"header is not JSON: {error}") from error
    if not isinstance(header, dict):
        raise CorruptData(f"header is a JSON {type(header).__name__}, expected an object")
    try:
        is_canonical = _canonical(header) == text
    except RecursionError as error:
        raise CorruptData("header is nested too deep") from error
    if not is_canonical:
        # duplicated keys, spaces or other spellings: two readers could disagree about such a header
        raise CorruptData("header is not canonical JSON: no writer of this format would have spelled it so")
    return header


def _canonical(header: dict[str, Any]) -> bytes:
    return json.dumps(header, sort_keys=True, separators=(",", ":")).encode("ascii")


def checked_spec(spec: object) -> Spec:
    """The spec of a header, validated; any fault is CorruptData."""
    try:
        return validated(spec)
    except TurboQuantError as error:
        raise CorruptData(f"header holds a bad spec: {error}") from error
