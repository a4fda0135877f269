"""Cuts a graph into segments between its attentions.

Segment i makes the queries, keys and values of attention i, the last one the logits; what attention gives comes in
from outside. A tensor that depends on nothing of a step is made again in each segment that needs it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from tq_onnx.surgery.graph import Graph, reads
from tq_onnx.surgery.site import CannotCut, Site


@dataclass
class Segment:
    """Nodes of one segment, in order, and the tensors that it reads and makes."""

    wanted: list[str]
    nodes: list[int] = field(default_factory=list)
    initializers: list[str] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)


def cut(
    graph: Graph, sites: Sequence[Site], forbidden: Sequence[str], last: Sequence[str], states: Sequence[str] = ()
) -> list[Segment]:
    """The segments, first to last; CannotCut where one still needs a `forbidden` input, a past.

    `last` is what the last one makes: the logits. `states` are further outputs of the graph, made by the first
    segment that can: what hybrid layers carry on.
    """
    order = sorted(sites, key=lambda site: graph.producer_index(site.output) or 0)
    levels = _levels(graph, order)
    wanted = [[site.query, site.key, site.value] for site in order] + [list(last)]
    for name in states:
        wanted[levels.get(name, 0)].append(name)
    segments = [Segment(list(names), outputs=list(dict.fromkeys(names))) for names in wanted]
    attended = {site.output for site in order}
    for number in reversed(range(len(segments))):
        for crossing in _fill(graph, segments[number], number, levels, attended):
            made = segments[levels[crossing]].outputs
            if crossing not in made:
                made.append(crossing)
    for number, segment in enumerate(segments):
        for name in segment.inputs:
            if name in forbidden:
                raise CannotCut(f"the part of the graph before attention {number} needs {name!r} outside attention")
    return segments


def _levels(graph: Graph, order: Sequence[Site]) -> dict[str, int]:
    """Level of each tensor that depends on a step: how many attentions come before it. Constants have none."""
    levels = dict.fromkeys(graph.inputs, 0)
    outputs = {site.output: site for site in order}
    for node in graph.nodes:
        known = [levels[name] for name in reads(node) if name in levels]
        for name in node.output:
            site = outputs.get(name)
            if site is not None:
                if site.query not in levels:
                    raise CannotCut(f"the queries of layer {site.number} depend on nothing")
                levels[name] = levels[site.query] + 1
            elif known and name:
                levels[name] = max(known)
    for number, site in enumerate(order):
        found = [levels.get(name, number) for name in (site.query, site.key, site.value)]
        if found != [number] * 3:
            raise CannotCut(f"its attentions do not follow one another (attention {number} stands at {found})")
    return levels


def _fill(graph: Graph, segment: Segment, number: int, levels: dict[str, int], attended: set[str]) -> list[str]:
    """Walk back from what a segment must make; returns the tensors that earlier segments hand on."""
    crossing: list[str] = []
    nodes: set[int] = set()
    seen: set[str] = set()
    stack = list(segment.outputs)
    while stack:
        name = stack.pop()
        if name in seen:
            continue
        seen.add(name)
        if name in graph.initializers:
            segment.initializers.append(name)
        elif name in attended or name in graph.inputs:
            segment.inputs.append(name)
        elif name in levels and levels[name] < number:
            segment.inputs.append(name)
            crossing.append(name)
        else:
            index = graph.producer_index(name)
            if index is None:
                raise CannotCut(f"nothing makes tensor {name!r}")
            if index not in nodes:
                nodes.add(index)
                stack.extend(reads(graph.nodes[index]))
    segment.nodes = sorted(nodes)
    return crossing
