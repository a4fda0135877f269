"""Attention written out as MatMul, mask, Softmax, MatMul.

From each past's Concat the walk goes forward through operators that only reshape or scale, to the one MatMul that reads
it. Every operator on the way from the scores to the output is on a list; anything else means that the graph is not cut.
"""

from typing import Final, NamedTuple

import onnx

from tq_onnx.inputs import LayerTensors
from tq_onnx.surgery.graph import Graph, attribute
from tq_onnx.surgery.site import CannotCut, Site

RESHAPES: Final = ("Unsqueeze", "Squeeze", "Expand", "Reshape", "Transpose", "Slice", "Cast", "Identity")
SAME: Final = ("Cast", "Identity", "Dropout")


class Joined(NamedTuple):
    """Where the new tokens of a side join the past: their tensor, and the tensor of all tokens."""

    new: str
    whole: str


def find(graph: Graph, index: int, layer: LayerTensors) -> Site:
    """The site of a layer, or CannotCut."""
    keys, values = joined(graph, layer.past_key), joined(graph, layer.past_value)
    score_product, _ = product_of(graph, keys.whole, "MatMul")
    value_product, _ = product_of(graph, values.whole, "MatMul")
    weights = _Path(graph, score_product.output[0])
    if not weights.reaches(value_product.input[0]):
        raise CannotCut("what its softmax gives is not what multiplies the values")
    return Site(
        layer=index,
        query=score_product.input[0],
        key=keys.new,
        value=values.new,
        output=value_product.output[0],
        scale=weights.scale,
        scores=weights.scores,
        softcap=weights.softcap,
    )


def joined(graph: Graph, past: str) -> Joined:
    """The Concat along the length axis that appends the new tokens to a past."""
    readers = [node for node in graph.consumers(past) if node.op_type != "Shape"]
    if len(readers) == 1 and readers[0].op_type in SAME:
        return joined(graph, readers[0].output[0])
    if len(readers) != 1 or readers[0].op_type != "Concat":
        raise CannotCut(f"{past!r} is read by {_names(readers)}, expected one Concat with the new tokens")
    node = readers[0]
    if len(node.input) != 2 or node.input[0] != past or attribute(node, "axis", 0) not in (2, -2):
        raise CannotCut(f"{past!r} is not joined with the new tokens behind it, along axis 2")
    return Joined(node.input[1], node.output[0])


def product_of(graph: Graph, name: str, operator: str) -> tuple[onnx.NodeProto, int]:
    """The one node of that kind which reads a tensor, reshaped or scaled on the way, and at which of its inputs."""
    found: list[tuple[onnx.NodeProto, int]] = []
    _collect(graph, name, operator, found)
    if len(found) != 1:
        raise CannotCut(f"{name!r} reaches {len(found)} {operator} nodes, expected one")
    return found[0]


def _collect(graph: Graph, name: str, operator: str, found: list[tuple[onnx.NodeProto, int]]) -> None:
    for node in graph.consumers(name):
        if node.op_type == "Shape":
            continue
        places = [place for place, read in enumerate(node.input) if read == name]
        if node.op_type == operator:
            if operator == "MatMul" and places != [1]:
                raise CannotCut(f"{name!r} is not the right-hand factor of its MatMul")
            found.append((node, places[0]))
        elif (node.op_type in RESHAPES and places == [0]) or _scalar_operand(graph, node, name) is not None:
            _collect(graph, node.output[0], operator, found)
        else:
            raise CannotCut(f"{name!r} is read by {node.op_type} on its way to {operator}")


class _Path:
    """The operators from the product of queries and keys to attention weights: scale, soft cap, mask, softmax.

    `scores` is the tensor behind the scale, before cap and mask. How large the scale is, numbers tell later: it need
    not be a constant of the graph.
    """

    def __init__(self, graph: Graph, product: str) -> None:
        self.graph = graph
        self.scale, self.softcap = 1.0, 0.0
        self.scores = product
        self._after = self._walk(product)

    def reaches(self, name: str) -> bool:
        """Whether the weights, cast or guarded against NaN at most, are that tensor."""
        name = _back(self.graph, name)
        if name == self._after:
            return True
        node = self.graph.producer(name)
        if node is None or node.op_type != "Where":
            return False
        check = self.graph.producer(node.input[0])
        guarded = check is not None and check.op_type == "IsNaN" and _back(self.graph, check.input[0]) == self._after
        return guarded and self.graph.scalar(node.input[1]) == 0 and _back(self.graph, node.input[2]) == self._after

    def _walk(self, product: str) -> str:
        name, capped, masked = product, False, False
        while True:
            readers = self.graph.consumers(name)
            if len(readers) != 1 or name in self.graph.outputs:
                raise CannotCut(f"its scores {name!r} are read by {_names(readers)}, expected one node")
            node = readers[0]
            if node.op_type == "Softmax":
                if attribute(node, "axis", -1) not in (-1, 3):
                    raise CannotCut("its softmax does not go along the tokens")
                self.scale = self.softcap if capped else 1.0  # cap * tanh(scores): what enters tanh is divided by it
                return str(node.output[0])
            if node.op_type in ("Mul", "Div") and not masked:
                factor = _scalar_operand(self.graph, node, name)
                if capped:
                    if factor is None or factor <= 0:
                        raise CannotCut(f"what caps its scores, {node.name or node.op_type!r}, is no constant above 0")
                    self.softcap *= factor
                elif name == node.input[0] or node.op_type == "Mul":
                    self.scores = node.output[0]
                else:
                    raise CannotCut("something is divided by its scores")
            elif node.op_type == "Tanh" and not capped and not masked:
                capped, self.softcap = True, 1.0
            elif node.op_type == "Add" or _hides(node, name):
                masked = True
            elif node.op_type == "Concat":
                raise CannotCut("something joins its scores before the softmax (an attention sink)")
            elif node.op_type not in SAME:
                raise CannotCut(f"{node.op_type} stands between its scores and its softmax")
            name = node.output[0]


def _hides(node: onnx.NodeProto, name: str) -> bool:
    """Whether a Where keeps these scores and puts something else where they are hidden."""
    return node.op_type == "Where" and node.input[0] != name and name in node.input[1:]


def _back(graph: Graph, name: str) -> str:
    """The tensor before any casts."""
    node = graph.producer(name)
    while node is not None and node.op_type in SAME:
        name = node.input[0]
        node = graph.producer(name)
    return name


def _scalar_operand(graph: Graph, node: onnx.NodeProto, name: str) -> float | None:
    """What a Mul or Div multiplies a tensor by, where that is one constant number."""
    if node.op_type not in ("Mul", "Div"):
        return None
    if node.op_type == "Div":
        divisor = graph.scalar(node.input[1]) if node.input[0] == name else None
        return 1 / divisor if divisor else None
    other = node.input[1] if node.input[0] == name else node.input[0]
    return graph.scalar(other)


def _names(nodes: list[onnx.NodeProto]) -> str:
    return ", ".join(node.op_type for node in nodes) or "nothing"
