"""Takes what GroupQueryAttention does besides attention out of it: splitting packed projections, rotary positions.

The unfolded graph computes the same, and its attention reads queries and keys as they are after rotation.
"""

from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from tq_onnx.surgery.graph import attribute
from tq_onnx.surgery.operators import GROUP_QUERY
from tq_onnx.surgery.site import CannotCut

POSITIONS: Final = "turboquant.position_ids"  # (batch, n) int64: an input added where positions were inside
DOMAIN: Final = "com.microsoft"


def unfold(model: onnx.ModelProto, kv_heads: int, key_dim: int, value_dim: int) -> onnx.ModelProto:
    """A copy in which no GroupQueryAttention splits or rotates; the model itself where none does."""
    if not any(_folds(node) for node in model.graph.node):
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.node[:]
    for node in model.graph.node:
        copy.graph.node.extend(_unfolded(copy.graph, node, kv_heads, key_dim, value_dim) if _folds(node) else [node])
    if any(POSITIONS in node.input for node in copy.graph.node):
        shape = ["batch_size", "sequence_length"]
        copy.graph.input.append(helper.make_tensor_value_info(POSITIONS, TensorProto.INT64, shape))
    return copy


def positions(shape: tuple[int, ...], past: int, padding: NDArray[np.int64]) -> NDArray[np.int64]:
    """What POSITIONS is fed for new tokens of that (batch, n) behind `past` columns: each row counts from its first."""
    count = np.arange(past, past + shape[1]) - padding[:, None]
    return np.ascontiguousarray(np.broadcast_to(np.maximum(count, 0), shape), np.int64)


def _folds(node: onnx.NodeProto) -> bool:
    if node.op_type != GROUP_QUERY:
        return False
    packed = len(node.input) < 3 or not (node.input[1] and node.input[2])
    return packed or bool(attribute(node, "do_rotary", 0))


def _unfolded(
    graph: onnx.GraphProto, node: onnx.NodeProto, kv_heads: int, key_dim: int, value_dim: int
) -> list[onnx.NodeProto]:
    inputs = [*node.input, *[""] * (12 - len(node.input))]
    if any(node.input[14:]):
        raise CannotCut(f"{node.name!r} has inputs that this package does not know")
    query_heads = int(attribute(node, "num_heads", 0))
    stem = node.output[0]
    nodes: list[onnx.NodeProto] = []
    if not (inputs[1] and inputs[2]):
        sizes = helper.make_tensor(
            f"{stem}.sizes", TensorProto.INT64, [3], [query_heads * key_dim, kv_heads * key_dim, kv_heads * value_dim]
        )
        graph.initializer.append(sizes)
        names = [f"{stem}.query", f"{stem}.key", f"{stem}.value"]
        nodes.append(helper.make_node("Split", [inputs[0], sizes.name], names, name=f"{stem}.split", axis=-1))
        inputs[:3] = names
    if attribute(node, "do_rotary", 0):
        positions = inputs[9] or POSITIONS
        interleaved = int(attribute(node, "rotary_interleaved", 0))
        cosines = next((item for item in graph.initializer if item.name == inputs[7]), None)
        rotary_dim = 2 * cosines.dims[1] if cosines is not None and len(cosines.dims) == 2 else key_dim
        for place, heads in ((0, query_heads), (1, kv_heads)):
            turned = f"{inputs[place]}.rotated"
            settings: dict[str, Any] = {"interleaved": interleaved}
            if rotary_dim != key_dim:
                settings |= {"num_heads": heads, "rotary_embedding_dim": rotary_dim}
            nodes.append(
                helper.make_node(
                    "RotaryEmbedding",
                    [inputs[place], positions, inputs[7], inputs[8]],
                    [turned],
                    name=f"{turned}.node",
                    domain=DOMAIN,
                    **settings,
                )
            )
            inputs[place] = turned
        inputs[7] = inputs[8] = inputs[9] = ""
    plain = onnx.NodeProto()
    plain.CopyFrom(node)
    del plain.input[:]
    while inputs and not inputs[-1]:
        inputs.pop()
    plain.input.extend(inputs)
    for item in list(plain.attribute):
        if item.name in ("do_rotary", "rotary_interleaved"):
            plain.attribute.remove(item)
    return [*nodes, plain]
