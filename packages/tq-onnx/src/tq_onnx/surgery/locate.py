"""Finds the attention of each layer, in whichever of the known forms a graph has it."""

from collections.abc import Sequence
from dataclasses import replace

from tq_onnx.inputs import LayerTensors
from tq_onnx.surgery import matmul_softmax, operators
from tq_onnx.surgery.graph import Graph
from tq_onnx.surgery.site import CannotCut, Site


def locate(graph: Graph, layers: Sequence[LayerTensors]) -> tuple[Site, ...]:
    """A site for each layer, in the order given, or CannotCut for the first that is not understood."""
    return tuple(_site(graph, index, layer) for index, layer in enumerate(layers))


def _site(graph: Graph, index: int, layer: LayerTensors) -> Site:
    try:
        for past in (layer.past_key, layer.past_value):
            if not any(node.op_type != "Shape" for node in graph.consumers(past)):
                raise CannotCut(f"nothing in the main graph reads {past!r}")
        found = operators.find(graph, index, layer) or matmul_softmax.find(graph, index, layer)
    except CannotCut as error:
        raise CannotCut(f"layer {layer.number}: {error}") from None
    except RecursionError:
        raise CannotCut(f"layer {layer.number}: its operators form a chain too long to follow") from None
    return replace(found, number=layer.number)
