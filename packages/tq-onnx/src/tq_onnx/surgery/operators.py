"""Attention in one operator: the standard Attention, and GroupQueryAttention once its inputs are unfolded."""

from typing import Final

import onnx

from tq_onnx.inputs import LayerTensors
from tq_onnx.surgery.graph import Graph, attribute
from tq_onnx.surgery.matmul_softmax import joined, product_of
from tq_onnx.surgery.site import CannotCut, Site

GROUP_QUERY: Final = "GroupQueryAttention"
PAST_KEY: Final = {"Attention": 4, GROUP_QUERY: 3}


def find(graph: Graph, index: int, layer: LayerTensors) -> Site | None:
    """The site of a layer whose attention is one operator, None where it is not; CannotCut for one with extras."""
    for node in graph.consumers(layer.past_key):
        place = PAST_KEY.get(node.op_type)
        if place is not None and _input(node, place) == layer.past_key:
            if _input(node, place + 1) != layer.past_value:
                raise CannotCut(f"{node.op_type} reads {layer.past_key!r} without {layer.past_value!r}")
            if node.op_type == GROUP_QUERY:
                return _group_query(node, index)
            return _standard(node, index, node.input[1], node.input[2])
    return _joined_standard(graph, index, layer)


def _joined_standard(graph: Graph, index: int, layer: LayerTensors) -> Site | None:
    """A standard Attention whose past is joined with the new tokens, and repeated for grouped heads, before it."""
    if not any(node.op_type == "Attention" for node in graph.nodes):
        return None
    keys, values = joined(graph, layer.past_key), joined(graph, layer.past_value)
    key_reader, key_place = product_of(graph, keys.whole, "Attention")
    value_reader, value_place = product_of(graph, values.whole, "Attention")
    if key_reader.output[0] != value_reader.output[0] or (key_place, value_place) != (1, 2):
        raise CannotCut("keys and values do not reach one Attention as its keys and values")
    return _standard(key_reader, index, keys.new, values.new)


def _standard(node: onnx.NodeProto, index: int, key: str, value: str) -> Site:
    by_token = attribute(node, "q_num_heads", 0) > 0
    return Site(
        layer=index,
        query=node.input[0],
        key=key,
        value=value,
        output=node.output[0],
        scale=float(attribute(node, "scale", 0.0)),  # 0: 1/sqrt(dim), as the operator has it
        softcap=max(0.0, float(attribute(node, "softcap", 0.0))),
        by_token=by_token,
        query_heads=int(attribute(node, "q_num_heads", 0)),
    )


def _group_query(node: onnx.NodeProto, index: int) -> Site:
    for place, what in ((10, "an attention bias"), (11, "an attention sink"), (12, "a quantized cache")):
        if _input(node, place):
            raise CannotCut(f"its {GROUP_QUERY} has {what}")
    if any(node.input[13:]):
        raise CannotCut(f"its {GROUP_QUERY} has inputs beyond those known")
    if attribute(node, "smooth_softmax", 0) == 1:
        raise CannotCut(f"its {GROUP_QUERY} has a smooth softmax (an attention sink of logit 0)")
    if attribute(node, "sliding_window_cache", 0):
        raise CannotCut(f"its {GROUP_QUERY} evicts old tokens itself")
    if attribute(node, "do_rotary", 0) or not (_input(node, 1) and _input(node, 2)):
        raise CannotCut(f"its {GROUP_QUERY} rotates or splits inside; unfold the graph first")
    return Site(
        layer=index,
        query=node.input[0],
        key=node.input[1],
        value=node.input[2],
        output=node.output[0],
        scale=float(attribute(node, "scale", 0.0)),
        softcap=max(0.0, float(attribute(node, "softcap", 0.0))),
        window=max(0, int(attribute(node, "local_window_size", -1))),
        by_token=True,
        query_heads=int(attribute(node, "num_heads", 0)),
    )


def _input(node: onnx.NodeProto, place: int) -> str:
    return str(node.input[place]) if place < len(node.input) else ""
