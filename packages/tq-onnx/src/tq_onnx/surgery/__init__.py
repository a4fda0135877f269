"""Cuts attention out of a decoder's graph: locate each attention, cut the graph between them, probe with numbers.

A graph is cut only where its structure is understood and its numbers agree; anything else raises CannotCut, with the
layer and the reason, and the model still runs in the other modes.
"""

from tq_onnx.surgery.cut import Segment, cut
from tq_onnx.surgery.graph import Graph
from tq_onnx.surgery.locate import locate
from tq_onnx.surgery.site import CannotCut, Site

__all__ = ["CannotCut", "Graph", "Segment", "Site", "cut", "locate"]
