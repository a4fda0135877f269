"""What surgery is done on: a decoder's model in memory, and what it takes to run it as it came."""

from dataclasses import dataclass

import onnx
import onnxruntime  # type: ignore[import-untyped]

from tq_onnx.feeds import StepInputs
from tq_onnx.inputs import Signature


@dataclass(frozen=True)
class Subject:
    """A model with its weights, its signature, and a session of it as it came.

    `inputs` fills its optional inputs for `rows` rows; `context` is 0 where no config says how many positions there
    are; `windows` are sizes of sliding windows that configs mention. Sessions made of it run on `threads` threads.
    """

    model: onnx.ModelProto
    signature: Signature
    session: onnxruntime.InferenceSession
    inputs: StepInputs
    rows: int
    context: int
    windows: tuple[int, ...]
    threads: int
