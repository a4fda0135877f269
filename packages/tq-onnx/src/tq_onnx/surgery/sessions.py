"""Builds runnable models of segments, and a copy of the whole graph that shows what is inside."""

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import onnx
import onnxruntime  # type: ignore[import-untyped]
from onnx import TensorProto, helper

from tq_onnx.errors import one_line
from tq_onnx.sessions import session_options
from tq_onnx.surgery.cut import Segment
from tq_onnx.surgery.graph import Graph
from tq_onnx.surgery.site import CannotCut

LARGEST_IN_MEMORY: Final = 1 << 30  # bytes; protobuf ends at 2 GiB, and a model is in memory twice while it is parsed

ELEMENTS: Final = {
    "tensor(float)": TensorProto.FLOAT,
    "tensor(float16)": TensorProto.FLOAT16,
    "tensor(double)": TensorProto.DOUBLE,
    "tensor(int64)": TensorProto.INT64,
    "tensor(int32)": TensorProto.INT32,
    "tensor(bool)": TensorProto.BOOL,
}


def exposed(graph: Graph, names: Iterable[str]) -> onnx.ModelProto:
    """The whole model with these tensors among its outputs, whose types the runtime finds; CannotCut for a constant."""
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    there = set(graph.outputs)
    for name in dict.fromkeys(names):
        if graph.producer(name) is None:
            raise CannotCut(f"tensor {name!r} is made by no operator, so that no step can show it")
        if name not in there:
            model.graph.output.append(onnx.ValueInfoProto(name=name))
    return model


def segment_model(graph: Graph, segment: Segment, types: dict[str, str], name: str) -> onnx.ModelProto:
    """A model of one segment; shapes are left open but for the inputs that the graph itself declares."""
    declared = {entry.name: entry for entry in graph.model.graph.input}
    inputs = [
        declared[entry] if entry in declared else helper.make_tensor_value_info(entry, _element(types, entry), None)
        for entry in segment.inputs
    ]
    outputs = [helper.make_tensor_value_info(entry, _element(types, entry), None) for entry in segment.outputs]
    cut = helper.make_graph(
        [graph.nodes[index] for index in segment.nodes],
        name,
        inputs,
        outputs,
        initializer=[graph.initializers[entry] for entry in segment.initializers],
    )
    return helper.make_model(
        cut,
        opset_imports=list(graph.model.opset_import),
        ir_version=graph.model.ir_version,
        functions=list(graph.model.functions),
    )


def session_of(model: onnx.ModelProto, threads: int) -> onnxruntime.InferenceSession:
    """A session on the CPU, or CannotCut; large models go through files of a temporary folder."""
    options = session_options(threads)
    try:
        if model.ByteSize() < LARGEST_IN_MEMORY:
            return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "part.onnx"
            onnx.save_model(model, str(path), save_as_external_data=True, location="part.data")
            return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's errors share no base class
        raise CannotCut(f"the runtime cannot load a part of the graph: {one_line(error)}") from error


def types_of(session: onnxruntime.InferenceSession) -> dict[str, str]:
    """Declared type of each input and output of a session."""
    nodes: Sequence[Any] = [*session.get_inputs(), *session.get_outputs()]
    return {node.name: node.type for node in nodes}


def _element(types: dict[str, str], name: str) -> int:
    if types.get(name) not in ELEMENTS:
        raise CannotCut(f"tensor {name!r} crosses a cut with the type {types.get(name)}, which no segment can take")
    return int(ELEMENTS[types[name]])
