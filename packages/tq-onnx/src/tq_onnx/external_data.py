"""Proves a model file sound before the runtime opens it: every tensor whole, all external data inside the bundle.

The truth about external data is each tensor's `location`; file names beside the model prove nothing. A location is text
from a stranger: an absolute path, a `..` or a link would let a model file read whatever this process can, and the
runtime takes one reserved name for an address in its own memory.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Final

import onnx

from tq_core import CorruptData
from tq_onnx.errors import BundleNotFound, UnsupportedBundle, one_line
from tq_onnx.files import is_inside
from tq_onnx.past_use import evicted_pasts, grown_in_place

MEMORY_MARK: Final = "_ORT_MEM_ADDR_"  # in a location: the offset is an address in this process

_TYPES: Final = onnx.TensorProto.DataType
# Bits of each element type; strings have none and are no weights.
_BITS: Final[Mapping[int, int]] = {
    _TYPES.Value(name): bits
    for bits, names in {
        64: ("DOUBLE", "INT64", "UINT64", "COMPLEX64"),
        128: ("COMPLEX128",),
        32: ("FLOAT", "INT32", "UINT32"),
        16: ("FLOAT16", "BFLOAT16", "INT16", "UINT16"),
        8: ("INT8", "UINT8", "BOOL", "FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2", "FLOAT8E5M2FNUZ", "FLOAT8E8M0"),
        4: ("INT4", "UINT4", "FLOAT4E2M1"),
        2: ("INT2", "UINT2"),
    }.items()
    for name in names
    if name in _TYPES.keys()  # noqa: SIM118 - an enum of protobuf is no mapping
}
LARGEST_TENSOR: Final = 1 << 40  # bytes; the largest real ones have a few times 2^30


@dataclass(frozen=True)
class ModelFile:
    """What was found in a model file: its external data, and every kind of operator, as (domain, name).

    `grown_in_place` and `evicted` say which pasts operators treat in a way of their own (`past_use`).
    """

    external_files: tuple[Path, ...]
    operators: frozenset[tuple[str, str]]
    grown_in_place: Mapping[str, int] = field(default_factory=dict)
    evicted: tuple[str, ...] = ()

    def has(self, *names: str) -> bool:
        """Whether any operator has one of these names."""
        return any(name in names for _, name in self.operators)


def check_model(model_path: Path, folder: Path) -> ModelFile:
    """The model file, checked; nothing but the file itself is opened, and external data only asked for its size.

    Locations are relative to the model file, as the format says.
    """
    try:
        model = onnx.load(str(model_path), load_external_data=False)
    except Exception as error:  # of protobuf, whose classes are no part of what onnx promises
        raise CorruptData(f"{model_path.name} is not an ONNX model: {one_line(error)}") from error
    files = set()
    for tensor in _tensors(model):
        if tensor.data_location != onnx.TensorProto.EXTERNAL and not tensor.external_data:
            _check_stored(tensor, model_path.name)
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        path = _inside(tensor.name, entries.get("location", ""), model_path, folder)
        _check_span(tensor, entries, path, model_path.name)
        files.add(path)
    if files and model_path.resolve().parent != model_path.parent.resolve() and not _is_snapshot(model_path, folder):
        raise UnsupportedBundle(
            f"{model_path.name} is a link to another folder and has external data, which the runtime would look for "
            "there; copy the files into the bundle"
        )
    return ModelFile(
        tuple(sorted(files)),
        frozenset(_operators(model)),
        grown_in_place(model.graph),
        tuple(evicted_pasts(model.graph)),
    )


def whole_model(model_path: Path, folder: Path) -> onnx.ModelProto:
    """The model with all its weights in memory, read from nowhere but the proved files."""
    check_model(model_path, folder)
    model = onnx.load(str(model_path), load_external_data=False)
    for tensor in _tensors(model):
        if tensor.data_location != onnx.TensorProto.EXTERNAL and not tensor.external_data:
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        size = _size(tensor, model_path.name) or 0
        with _inside(tensor.name, entries["location"], model_path, folder).open("rb") as file:
            file.seek(int(entries.get("offset", "0")))
            tensor.raw_data = file.read(size)
        del tensor.external_data[:]
        tensor.data_location = onnx.TensorProto.DEFAULT
    return model


def _is_snapshot(model_path: Path, folder: Path) -> bool:
    """Whether the model is a link into the blobs of its snapshot, where all its data was found too."""
    return not model_path.resolve().is_relative_to(folder.resolve()) and is_inside(model_path, folder)


def _inside(tensor: str, location: str, model_path: Path, folder: Path) -> Path:
    """The file at `location`, or UnsupportedBundle if it is not a file inside the folder."""
    said = f"tensor {tensor!r} of {model_path.name} has its data at {location!r}"
    pure = PurePosixPath(location)
    if not location or "\0" in location or "\\" in location or PureWindowsPath(location).drive or pure.is_absolute():
        raise UnsupportedBundle(f"{said}; expected a relative path inside the bundle")
    if MEMORY_MARK in location:
        raise UnsupportedBundle(f"{said}, an address in memory; expected a relative path inside the bundle")
    if ".." in pure.parts:
        raise UnsupportedBundle(f"{said}, which climbs out with '..'; move the file into the bundle and name it there")
    path = model_path.parent / pure
    if not is_inside(path, folder):
        raise UnsupportedBundle(f"{said}, a link that leaves the bundle; copy the file into the folder")
    if not path.is_file():
        raise BundleNotFound(f"{said}, and there is no such file; download it beside the model")
    return path


def _size(tensor: onnx.TensorProto, where: str) -> int | None:
    """Bytes that the tensor's dims and element type ask for; None for strings."""
    said = f"tensor {tensor.name!r} of {where}"
    dims = list(tensor.dims)
    if any(dim < 0 for dim in dims):
        raise CorruptData(f"{said} has the dims {dims}, expected none below 0")
    if tensor.data_type == onnx.TensorProto.STRING:
        return None
    bits = _BITS.get(tensor.data_type)
    if bits is None:
        raise CorruptData(f"{said} has the unknown element type {tensor.data_type}")
    size = int(math.prod(dims) * bits + 7) // 8
    if size > LARGEST_TENSOR:
        raise CorruptData(f"{said} has the dims {dims}, which are {size} bytes; expected at most {LARGEST_TENSOR}")
    return size


def _check_stored(tensor: onnx.TensorProto, where: str) -> None:
    """CorruptData where a tensor in the model file itself is not as large as its dims say."""
    if not tensor.data_type and not tensor.name and not tensor.dims and not tensor.raw_data:
        return  # an attribute that holds no tensor
    size = _size(tensor, where)
    if tensor.HasField("raw_data") and size is not None and len(tensor.raw_data) != size:
        raise CorruptData(
            f"tensor {tensor.name!r} of {where} has {len(tensor.raw_data)} bytes, its dims {list(tensor.dims)} need "
            f"{size}; the file is damaged"
        )


def _check_span(tensor: onnx.TensorProto, entries: Mapping[str, str], path: Path, where: str) -> None:
    """CorruptData where external data is not as long as the dims say, or does not lie within its file."""
    size, said = _size(tensor, where), f"tensor {tensor.name!r} of {where}"
    if size is None:
        raise UnsupportedBundle(f"{said} has strings in external data; weights are numbers")
    span = {}
    for key in ("offset", "length"):
        value = entries.get(key, "0")
        if not (value.isascii() and value.isdigit() and len(value) < 20):
            raise CorruptData(f"{said} has the {key} {value!r:.40} in {path.name}, expected a whole number")
        span[key] = int(value)
    if "length" in entries and span["length"] != size:
        raise CorruptData(f"{said} has {span['length']} bytes in {path.name}, its dims {list(tensor.dims)} need {size}")
    end, held = span["offset"] + size, path.stat().st_size
    if end > held:
        raise CorruptData(
            f"{said} ends at byte {end} of {path.name}, which has {held}: the file is cut off; download it again"
        )


def _operators(model: onnx.ModelProto) -> Iterator[tuple[str, str]]:
    for graph in (model.graph, *(function for function in model.functions)):
        yield from _node_kinds(graph.node)


def _node_kinds(nodes: "Iterator[onnx.NodeProto]") -> Iterator[tuple[str, str]]:
    for node in nodes:
        yield node.domain, node.op_type
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                yield from _node_kinds(graph.node)


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor stored in a model: initializers and attributes of its graphs, at any depth, and of its functions."""
    yield from _graph_tensors(model.graph)
    for training in model.training_info:
        yield from _graph_tensors(training.initialization)
        yield from _graph_tensors(training.algorithm)
    for function in model.functions:
        for attribute in function.attribute_proto:
            yield from _attribute_tensors(attribute)
        for node in function.node:
            for attribute in node.attribute:
                yield from _attribute_tensors(attribute)


def _graph_tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            yield from _attribute_tensors(attribute)


def _attribute_tensors(attribute: onnx.AttributeProto) -> Iterator[onnx.TensorProto]:
    yield from (attribute.t, *attribute.tensors)
    for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
        yield from (sparse.values, sparse.indices)
    for graph in (attribute.g, *attribute.graphs):
        yield from _graph_tensors(graph)
