"""True end-to-end decoding of ONNX language models with a quantized key/value cache, and its measurement."""

from tq_onnx.bundle import Bundle
from tq_onnx.capturing import capture
from tq_onnx.errors import BundleNotFound, InvalidText, StepFailed, UnsupportedBundle
from tq_onnx.evaluation import evaluate
from tq_onnx.generation import generate, generate_batch
from tq_onnx.inspection import inspection
from tq_onnx.report import Report
from tq_onnx.rows import Row
from tq_onnx.runner import DecoderRunner
from tq_onnx.sampling import Sampler
from tq_onnx.survey import DEFAULT_POLICIES
from tq_onnx.text_stream import TextStream

__all__ = [
    "DEFAULT_POLICIES",
    "Bundle",
    "BundleNotFound",
    "DecoderRunner",
    "InvalidText",
    "Report",
    "Row",
    "Sampler",
    "StepFailed",
    "TextStream",
    "UnsupportedBundle",
    "capture",
    "evaluate",
    "generate",
    "generate_batch",
    "inspection",
]
