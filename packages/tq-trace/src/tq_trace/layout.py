"""The trace file: which tensors it holds, under which names, and how they are written.

One layer and head: four tensors, in the single-file layout of the `turboquant` crate. Many: the same four for each
place, their names behind `layers.{layer}.heads.{head}.`. Either is a safetensors container, and writing one needs no
package: 8 bytes of length, a JSON header, the tensors.
"""

import json
import re
import sys
from collections.abc import Mapping
from typing import Any, BinaryIO, Final

from numpy.typing import NDArray

# Tensor names and ranks.
RANKS: Final = {"keys": 3, "values": 3, "queries": 3, "query_positions": 2}
MANY: Final = re.compile(
    r"layers\.(0|[1-9][0-9]{0,8})\.heads\.(0|[1-9][0-9]{0,8})\.(keys|values|queries|query_positions)"
)

# What the header calls a dtype, and how its bytes are read; BF16 as bits.
FLOATS: Final = {"F16": "<f2", "BF16": "<u2", "F32": "<f4", "F64": "<f8"}
INTEGERS: Final = {f"{kind}{8 * size}": f"<{kind.lower()}{size}" for kind in "IU" for size in (1, 2, 4, 8)}

# A hundred layers of a hundred heads need 4.5 MB; safetensors itself would allow 100 MB of JSON.
MAX_HEADER: Final = 1 << 23

Place = tuple[int, int]
"""Layer and head, both from 0."""

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


def prefix(place: Place) -> str:
    """What stands before a tensor's name in a file of many layers and heads."""
    return f"layers.{place[0]}.heads.{place[1]}."
