"""Refuses a model whose weights lie outside its folder, before the runtime opens any of them.

The truth about external data is each tensor's `location`; file names beside the model prove nothing. A location is text
from a stranger: an absolute path, a `..` or a link would let a model file read whatever this process can.
"""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx

from tq_core import CorruptData
from tq_onnx.errors import BundleNotFound, UnsupportedBundle, one_line


def external_files(model_path: Path, folder: Path) -> tuple[Path, ...]:
    """Every file of external data that the model names, each proved to exist inside `folder`; sorted.

    Locations are relative to the model file, as the format says. Nothing but the model file itself is opened.
    """
    try:
        model = onnx.load(str(model_path), load_external_data=False)
    except Exception as error:  # of protobuf, whose classes are no part of what onnx promises
        raise CorruptData(f"{model_path.name} is not an ONNX model: {one_line(error)}") from error
    places = {(tensor.name, location) for tensor in _tensors(model) for location in _locations(tensor)}
    if places and model_path.resolve().parent != model_path.parent.resolve():
        raise UnsupportedBundle(
            f"{model_path.name} is a link to another folder and has external data, which the runtime would look for "
            "there; copy the files into the bundle"
        )
    return tuple(sorted({_inside(name, location, model_path, folder) for name, location in places}))


def _inside(tensor: str, location: str, model_path: Path, folder: Path) -> Path:
    """The file at `location`, or UnsupportedBundle if it is not a file inside the folder."""
    said = f"tensor {tensor!r} of {model_path.name} has its data at {location!r}"
    pure = PurePosixPath(location)
    if not location or "\0" in location or "\\" in location or PureWindowsPath(location).drive or pure.is_absolute():
        raise UnsupportedBundle(f"{said}; expected a relative path inside the bundle")
    if ".." in pure.parts:
        raise UnsupportedBundle(f"{said}, which climbs out with '..'; move the file into the bundle and name it there")
    path = model_path.parent / pure
    real = path.resolve()
    if not real.is_relative_to(folder.resolve()):
        raise UnsupportedBundle(f"{said}, a link that leaves the bundle; copy the file into the folder")
    if not real.is_file():
        raise BundleNotFound(f"{said}, and there is no such file; download it beside the model")
    return path


def _locations(tensor: onnx.TensorProto) -> Iterator[str]:
    """The location entries of a tensor; one that is external without any yields the empty string."""
    if tensor.data_location != onnx.TensorProto.EXTERNAL and not tensor.external_data:
        return
    found = [entry.value for entry in tensor.external_data if entry.key == "location"]
    yield from found or [""]


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
