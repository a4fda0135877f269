"""True end-to-end decoding of ONNX language models with a quantized key/value cache, and its measurement."""

from tq_onnx.bundle import Bundle
from tq_onnx.errors import BundleNotFound, InvalidText, StepFailed, UnsupportedBundle
from tq_onnx.evaluation import DEFAULT_POLICIES, evaluate
from tq_onnx.report import Report, Row
from tq_onnx.runner import DecoderRunner

__all__ = [
    "DEFAULT_POLICIES",
    "Bundle",
    "BundleNotFound",
    "DecoderRunner",
    "InvalidText",
    "Report",
    "Row",
    "StepFailed",
    "UnsupportedBundle",
    "evaluate",
]
