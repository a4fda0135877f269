"""Takes the branch with a past out of a merged decoder, whose graph is one If on `use_cache_branch`."""

from typing import Final

import onnx

from tq_onnx.surgery.site import CannotCut

CONDITION: Final = "use_cache_branch"


def branch_with_past(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model of the branch that runs where there is a past; the model itself where it does not branch."""
    choices = [node for node in model.graph.node if node.op_type == "If"]
    if not any(entry.name == CONDITION for entry in model.graph.input) or not choices:
        return model
    if len(choices) != 1 or choices[0].input[0] != CONDITION:
        raise CannotCut(f"the graph branches {len(choices)} times, expected one If on {CONDITION!r}")
    taken = next(item.g for item in choices[0].attribute if item.name == "then_branch")
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    del graph.node[:]
    graph.node.extend(node for node in model.graph.node if node.op_type != "If")
    graph.node.extend(taken.node)
    known = {item.name for item in graph.initializer}
    graph.initializer.extend(item for item in taken.initializer if item.name not in known)
    # an If hands its branch's outputs on in order, under names of its own
    for inside, outside in zip(taken.output, choices[0].output, strict=True):
        if inside.name != outside:
            graph.node.append(onnx.helper.make_node("Identity", [inside.name], [outside]))
    kept = [entry for entry in graph.input if entry.name != CONDITION]
    del graph.input[:]
    graph.input.extend(kept)
    return copy
