"""Finding attention in a graph: locate its tensors, expose them, and prove by numbers that they are the right ones.

Each part is a pure function of the model; nothing here runs a decoder for its own sake.
"""

from tq_onnx.surgery.attention import Attention, Missing
from tq_onnx.surgery.expose import exposed_session
from tq_onnx.surgery.locate import locate
from tq_onnx.surgery.probe import Proved, prove

__all__ = ["Attention", "Missing", "Proved", "exposed_session", "locate", "prove"]
