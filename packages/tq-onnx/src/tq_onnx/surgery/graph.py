"""A graph indexed by tensor: who makes it, who reads it, and its value where that is a constant."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

LARGEST_CONSTANT: Final = 4096  # numbers; only scalars and shapes are ever read


class Graph:
    """Read access to a model's main graph. Tensors are known by name, which ONNX makes unique in a graph."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.nodes: list[onnx.NodeProto] = list(model.graph.node)
        self.inputs: tuple[str, ...] = tuple(entry.name for entry in model.graph.input)
        self.outputs: tuple[str, ...] = tuple(entry.name for entry in model.graph.output)
        self.initializers: Mapping[str, onnx.TensorProto] = {item.name: item for item in model.graph.initializer}
        self._producer: dict[str, int] = {}
        self._consumers: dict[str, list[int]] = {}
        for index, node in enumerate(self.nodes):
            for name in node.output:
                if name:
                    self._producer[name] = index
            for name in set(reads(node)):
                self._consumers.setdefault(name, []).append(index)

    def producer(self, name: str) -> onnx.NodeProto | None:
        """The node that makes a tensor; None for inputs and initializers."""
        index = self._producer.get(name)
        return None if index is None else self.nodes[index]

    def producer_index(self, name: str) -> int | None:
        """Place of that node in `nodes`, which ONNX keeps in an order in which they can run."""
        return self._producer.get(name)

    def consumers(self, name: str) -> list[onnx.NodeProto]:
        """The nodes that read a tensor, in order."""
        return [self.nodes[index] for index in self._consumers.get(name, [])]

    def constant(self, name: str) -> NDArray[Any] | None:
        """The value of a small constant; None for anything else."""
        tensor = self.initializers.get(name)
        if tensor is None:
            node = self.producer(name)
            if node is None:
                return None
            if node.op_type in ("Cast", "Identity"):
                return self.constant(node.input[0])
            if node.op_type != "Constant":
                return None
            return _constant_of(node)
        if tensor.data_location == onnx.TensorProto.EXTERNAL or int(np.prod(tensor.dims)) > LARGEST_CONSTANT:
            return None
        return numpy_helper.to_array(tensor)

    def scalar(self, name: str) -> float | None:
        """The value of a constant that is one number, in whatever shape."""
        value = self.constant(name)
        return float(value.reshape(-1)[0]) if value is not None and value.size == 1 else None


def reads(node: onnx.NodeProto) -> Iterator[str]:
    """Names of the tensors that a node reads, those of the enclosing graph that its subgraphs use included."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            made = {item.name for item in graph.initializer} | {entry.name for entry in graph.input}
            for inner in graph.node:
                yield from (name for name in reads(inner) if name not in made)
                made.update(inner.output)
            yield from (entry.name for entry in graph.output if entry.name not in made)


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """The value of a node's attribute, or the default where it has none."""
    for item in node.attribute:
        if item.name == name:
            return onnx.helper.get_attribute_value(item)
    return default


def _constant_of(node: onnx.NodeProto) -> NDArray[Any] | None:
    for item in node.attribute:
        if item.name == "value" and int(np.prod(item.t.dims)) <= LARGEST_CONSTANT:
            return numpy_helper.to_array(item.t)
        if item.name in ("value_float", "value_int", "value_floats", "value_ints"):
            return np.asarray(onnx.helper.get_attribute_value(item))
    return None
