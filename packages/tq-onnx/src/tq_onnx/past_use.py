"""What a graph's operators do with its pasts, as far as a runner has to know before it allocates memory."""

from collections.abc import Iterator, Mapping
from typing import Final

import onnx

GROUP_QUERY: Final = "GroupQueryAttention"
_PAST_PLACES: Final = (3, 4)  # of its inputs; outputs 1 and 2 carry them on
_COSINES: Final = 7
UNLIMITED: Final = 1 << 31


def grown_in_place(graph: onnx.GraphProto) -> Mapping[str, int]:
    """Pasts that only a GroupQueryAttention reads, which can append to them where they lie, and to how many tokens.

    The memory must not be longer than the operator's table of rotations; where that is no plain constant, its length is
    not known and the past is left out.
    """
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in set(node.input):
            readers.setdefault(name, []).append(node)
    outputs = {output.name for output in graph.output}
    rows = {tensor.name: int(tensor.dims[0]) for tensor in graph.initializer if tensor.dims}
    found: dict[str, int] = {}
    for given in graph.input:
        nodes = readers.get(given.name, [])
        if len(nodes) != 1 or nodes[0].op_type != GROUP_QUERY or len(nodes[0].output) < 3:
            continue
        node = nodes[0]
        places = [place for place in _PAST_PLACES if len(node.input) > place and node.input[place] == given.name]
        if len(places) != 1 or node.output[places[0] - 2] not in outputs:
            continue
        table = node.input[_COSINES] if len(node.input) > _COSINES else ""
        limit = rows.get(table, 0) if table else UNLIMITED
        if limit:
            found[given.name] = limit
    return found


def evicted_pasts(graph: onnx.GraphProto) -> Iterator[str]:
    """Pasts of operators that drop old tokens themselves, so that what comes out is not past and new tokens."""
    for node in graph.node:
        if node.op_type == GROUP_QUERY and any(one.name == "sliding_window_cache" and one.i for one in node.attribute):
            yield from (node.input[place] for place in _PAST_PLACES if len(node.input) > place)
