"""Finds the attention of every layer in a graph, starting from its past and taking only steps it understands.

Anything unexpected on the way means "not found", with the reason; nothing is guessed.
"""

import onnx

from tq_onnx.signature import LayerTensors, Signature
from tq_onnx.surgery.attention import Attention, Missing
from tq_onnx.surgery.graph import MOVES, SCALES, Graph, attributes

WALK = MOVES | SCALES
MASKS = frozenset({"Add", "Where"})

# Inputs of GroupQueryAttention: what may come after the tables of the rotation and is understood.
_GQA_REFUSED = {10: "attention_bias", 11: "head_sink", 12: "k_scale", 13: "v_scale", 14: "q_norm", 15: "k_norm"}


def locate(model: onnx.ModelProto, signature: Signature) -> list[Attention | Missing]:
    """For each layer its attention, or why it was not found."""
    graph = Graph(model)
    return [_layer(graph, layer) for layer in signature.layers]


def _layer(graph: Graph, layer: LayerTensors) -> Attention | Missing:
    readers = [node for node in graph.readers_of(layer.past_key) if node.op_type != "Shape"]
    kinds = [node.op_type for node in readers]
    for kind, handler in (
        ("GroupQueryAttention", _group_query),
        ("MultiHeadAttention", _multi_head),
        ("Attention", _attention),
    ):
        if kind in kinds:
            return handler(graph, layer, readers[kinds.index(kind)])
    if "If" in kinds or not readers:
        return Missing(layer.number, f"{layer.past_key!r} is read inside a branch of the graph only")
    if "Concat" not in kinds:
        return Missing(layer.number, f"{layer.past_key!r} goes into {', '.join(sorted(set(kinds)))}, not into a Concat")
    return _spelt_out(graph, layer, readers[kinds.index("Concat")])


def _spelt_out(graph: Graph, layer: LayerTensors, concat: onnx.NodeProto) -> Attention | Missing:
    """Attention of MatMul, mask, Softmax and MatMul; or one operator behind a Concat outside of it."""
    found = graph.forward(concat.output[0], WALK, {"MatMul", "Attention"})
    if found is None:
        return Missing(layer.number, f"from {concat.output[0]!r} no MatMul is reached through reshapes and scalings")
    keys, product = found
    if product.op_type == "Attention":
        return _attention(graph, layer, product)
    query = next(name for name in product.input if name != keys)
    linear, capped, reason = _to_softmax(graph, product.output[0])
    if reason:
        return Missing(layer.number, reason)
    output = _mixture(graph, layer)
    if output is None:
        return Missing(layer.number, f"from {layer.past_value!r} no MatMul is reached through reshapes alone")
    return Attention(layer.number, "MatMul", query, output, linear=linear, capped=capped)


def _to_softmax(graph: Graph, name: str) -> tuple[str, str | None, str]:
    """From the scores to Softmax: the last linear tensor, the one after a soft cap, and what was in the way."""
    linear, capped, masked = name, None, False
    for _ in range(16):
        readers = [node for node in graph.readers.get(name, []) if node.op_type not in ("Shape", "IsNaN")]
        if len(readers) != 1:
            return linear, capped, f"{name!r} on the way to Softmax is read {len(readers)} times"
        node = readers[0]
        kind = node.op_type
        if kind == "Softmax":
            return linear, capped, ""
        scaled = kind in SCALES and all(graph.is_scalar(one) for one in node.input if one != name)
        if kind == "Tanh" and capped is None and not masked:
            capped = node.output[0]
        elif (scaled or kind in ("Cast", "Identity")) and not masked:
            linear, capped = (node.output[0], None) if capped is None else (linear, node.output[0])
        elif kind in MASKS:
            masked = True
        elif not (masked and kind in ("Cast", "Identity")):
            return linear, capped, f"{kind} stands between the scores of layer {name!r} and Softmax"
        name = node.output[0]
    return linear, capped, "no Softmax follows the scores"


def _mixture(graph: Graph, layer: LayerTensors) -> str | None:
    for node in graph.readers_of(layer.past_value):
        if node.op_type == "Concat":
            found = graph.forward(node.output[0], MOVES, {"MatMul"})
            return None if found is None else found[1].output[0]
    return None


def _attention(graph: Graph, layer: LayerTensors, node: onnx.NodeProto) -> Attention | Missing:
    """The standard operator of opset 23."""
    found = attributes(node)
    return Attention(
        layer.number,
        "Attention",
        node.input[0],
        node.output[0],
        query_heads=int(found.get("q_num_heads", 0)),
        scale=float(found.get("scale", 0.0)),
        softcap=float(found.get("softcap", 0.0)),
    )


def _multi_head(graph: Graph, layer: LayerTensors, node: onnx.NodeProto) -> Attention | Missing:
    """The contributed operator with as many key as query heads."""
    if len(node.input) < 3 or not node.input[1] or not node.input[2] or (len(node.input) > 3 and node.input[3]):
        return Missing(layer.number, "MultiHeadAttention has its query packed with others or adds a bias to it")
    found = attributes(node)
    return Attention(
        layer.number,
        "MultiHeadAttention",
        node.input[0],
        node.output[0],
        query_heads=int(found.get("num_heads", 0)),
        scale=float(found.get("scale", 0.0)),
    )


def _group_query(graph: Graph, layer: LayerTensors, node: onnx.NodeProto) -> Attention | Missing:
    """The contributed operator, which may rotate query and key itself."""
    found = attributes(node)
    for place, what in _GQA_REFUSED.items():
        if len(node.input) > place and node.input[place]:
            return Missing(layer.number, f"GroupQueryAttention has an input {what}, which is not understood")
    if found.get("smooth_softmax", 0) > 0:
        return Missing(layer.number, "GroupQueryAttention has a smooth Softmax, which is not understood")
    tables = None
    if found.get("do_rotary", 0):
        tables = (node.input[7], node.input[8])
    return Attention(
        layer.number,
        "GroupQueryAttention",
        node.input[0],
        node.output[0],
        query_heads=int(found.get("num_heads", 0)),
        packed=len(node.input) < 2 or not node.input[1],
        rotary=tables,
        interleaved=bool(found.get("rotary_interleaved", 0)),
        scale=float(found.get("scale", 0.0)),
        softcap=float(found.get("softcap", 0.0)),
    )
