"""Lets a graph ask for the shape of its pasts without having them: two small inputs take their place."""

from collections.abc import Sequence
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from tq_onnx.inputs import LayerTensors, Signature
from tq_onnx.surgery.graph import attribute

KEY_SHAPE: Final = "turboquant.key_shape"  # (4,) int64: batch, heads, past tokens, key dim
VALUE_SHAPE: Final = "turboquant.value_shape"


def without_past_shapes(model: onnx.ModelProto, layers: Sequence[LayerTensors]) -> onnx.ModelProto:
    """A copy in which nothing asks a past for its shape; the model itself where nothing does."""
    shapes = {layer.past_key: KEY_SHAPE for layer in layers} | {layer.past_value: VALUE_SHAPE for layer in layers}
    if not any(_asks(node, shapes) for node in model.graph.node):
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.node[:]
    for node in model.graph.node:
        if not _asks(node, shapes):
            copy.graph.node.append(node)
            continue
        start, end = int(attribute(node, "start", 0)), int(attribute(node, "end", 4))
        bounds = [f"{node.output[0]}.start", f"{node.output[0]}.end"]
        for name, value in zip(bounds, (start, end), strict=True):
            copy.graph.initializer.append(helper.make_tensor(name, TensorProto.INT64, [1], [value]))
        copy.graph.node.append(
            helper.make_node("Slice", [shapes[node.input[0]], *bounds], list(node.output), name=node.name)
        )
    used = {name for node in copy.graph.node for name in node.input}
    for name in (KEY_SHAPE, VALUE_SHAPE):
        if name in used:
            copy.graph.input.append(helper.make_tensor_value_info(name, TensorProto.INT64, [4]))
    return copy


def past_shapes(signature: Signature, batch: int, past: int) -> dict[str, NDArray[np.int64]]:
    """What the two inputs are fed in a step behind `past` tokens."""
    return {
        name: np.array([batch, signature.kv_heads, past, dim], np.int64)
        for name, dim in ((KEY_SHAPE, signature.key_dim), (VALUE_SHAPE, signature.value_dim))
    }


def _asks(node: onnx.NodeProto, shapes: dict[str, str]) -> bool:
    return node.op_type == "Shape" and node.input[0] in shapes
