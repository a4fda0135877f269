"""A graph to walk in: who makes a tensor, who reads it, and which tensors hang on nothing that is fed."""

from collections.abc import Iterable

import onnx

# Operators that move numbers about and change none; the data comes in first.
MOVES = frozenset({"Unsqueeze", "Squeeze", "Expand", "Reshape", "Transpose", "Slice", "Cast", "Identity"})
SCALES = frozenset({"Mul", "Div"})

# Operators that make a number out of shapes and constants, as exporters compute 1/sqrt(head_dim).
_SCALAR_MAKERS = MOVES | SCALES | {"Shape", "Gather", "Sqrt", "Pow", "Reciprocal", "Constant", "ConstantOfShape", "Add"}


class Graph:
    """The main graph of a model, indexed by tensor names."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.makers = {name: node for node in model.graph.node for name in node.output if name}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in model.graph.node:
            for name in dict.fromkeys(node.input):
                self.readers.setdefault(name, []).append(node)
        self.stored = {tensor.name for tensor in model.graph.initializer}
        self.fed = {one.name for one in model.graph.input} - self.stored

    def readers_of(self, name: str) -> list[onnx.NodeProto]:
        """Nodes that read a tensor, those of its unchanged copies included."""
        found = []
        for node in self.readers.get(name, []):
            if node.op_type in ("Identity", "Cast"):
                found += self.readers_of(node.output[0])
            else:
                found.append(node)
        return found

    def is_scalar(self, name: str, depth: int = 24) -> bool:
        """Whether a tensor is made of constants and shapes alone, so that no token changes it."""
        if name in self.stored:
            return True
        node = self.makers.get(name)
        if name in self.fed or node is None or depth == 0 or node.op_type not in _SCALAR_MAKERS:
            return False
        if node.op_type == "Shape":
            return True
        return all(self.is_scalar(one, depth - 1) for one in node.input if one)

    def forward(self, name: str, allowed: Iterable[str], targets: Iterable[str]) -> tuple[str, onnx.NodeProto] | None:
        """The first node of `targets` that a tensor reaches through `allowed` ones, and the tensor that enters it.

        Moves are followed as data only, scalings by what no token changes only; None where anything else comes first.
        """
        allowed, targets = frozenset(allowed), frozenset(targets)
        for _ in range(64):
            readers = [node for node in self.readers.get(name, []) if node.op_type != "Shape"]
            ends = [node for node in readers if node.op_type in targets]
            if ends:
                return name, ends[0]
            steps = [node for node in readers if node.op_type in allowed and self._passes(node, name)]
            if len(steps) != 1:
                return None
            name = steps[0].output[0]
        return None

    def _passes(self, node: onnx.NodeProto, name: str) -> bool:
        if node.op_type in SCALES:
            others = [one for one in node.input if one != name]
            return len(others) == 1 and self.is_scalar(others[0])
        return bool(node.input[0] == name)


def attributes(node: onnx.NodeProto) -> dict[str, int | float]:
    """The numbers among a node's attributes."""
    found: dict[str, int | float] = {}
    for one in node.attribute:
        if one.type == onnx.AttributeProto.INT:
            found[one.name] = one.i
        elif one.type == onnx.AttributeProto.FLOAT:
            found[one.name] = one.f
    return found
