"""Sessions of the runtime, and what they declare; the runtime's errors become typed ones."""

import re
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime  # type: ignore[import-untyped]

from tq_core import CorruptData
from tq_onnx.cache_inputs import Tensor
from tq_onnx.errors import UnsupportedBundle, one_line
from tq_onnx.inputs import Signature

# numpy's name of each element type that a session reports and that this package reads or refuses by name.
DTYPES: Final = {"float": "float32", "double": "float64"}


def session_options(threads: int) -> onnxruntime.SessionOptions:
    """Options of every session: quiet, on that many threads an operator, which do not spin."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # fatal; whatever else it has to say comes as an exception
    options.intra_op_num_threads = threads
    # Spinning threads burn the cores that quantize between two steps.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def open_session(model_path: Path, threads: int) -> onnxruntime.InferenceSession:
    """A session on the CPU, from the path: from bytes, relative external data would not be found."""
    try:
        return onnxruntime.InferenceSession(
            str(model_path), session_options(threads), providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # the runtime's errors share no base class
        if type(error).__name__ == "NotImplemented":
            raise UnsupportedBundle(f"the runtime cannot run {model_path.name}: {one_line(error)}") from error
        raise CorruptData(f"the runtime cannot load {model_path.name}: {one_line(error)}") from error


def declared(nodes: list[Any]) -> list[Tensor]:
    """Inputs or outputs of a session as tensors."""
    return [Tensor(node.name, tuple(node.shape), _dtype(node.type)) for node in nodes]


def _dtype(name: str) -> str:
    """`tensor(float)` as numpy would say it; a sequence or map stays as it is and matches nothing."""
    match = re.fullmatch(r"tensor\((\w+)\)", name)
    return DTYPES.get(match[1], match[1]) if match else name


def prove(session: onnxruntime.InferenceSession, signature: Signature) -> None:
    """One step of one token, which shows whether dims that came from a config are those of the graph.

    Raises UnsupportedBundle, which names the first input in doubt.
    """
    batch = signature.fixed_batch or 1
    feeds: dict[str, Any] = {signature.ids_name: np.zeros((batch, 1), signature.ids_dtype)}
    for name, tensor in signature.optional.items():
        shape = tuple({0: batch, 1: 1}[axis] for axis in range(len(tensor.shape)))
        shape = (1,) * len(tensor.shape) if name.endswith("to_keep") or len(tensor.shape) == 1 else shape
        value = 1 if name == "attention_mask" else 0
        feeds[tensor.name] = np.full(shape, value, tensor.dtype)
    for state in signature.states:
        feeds[state.past] = np.zeros((batch, *state.shape), state.dtype)
    for layer in signature.layers:
        for name, dim in ((layer.past_key, layer.key_dim), (layer.past_value, layer.value_dim)):
            feeds[name] = np.zeros((batch, layer.kv_heads, 0, dim), signature.cache_dtype)
    expected = {layer.present_key: (batch, layer.kv_heads, 1, layer.key_dim) for layer in signature.layers}
    expected |= {layer.present_value: (batch, layer.kv_heads, 1, layer.value_dim) for layer in signature.layers}
    doubt = f"input {signature.guessed[0]!r} has dims that the graph leaves open, and those of the config do not fit: "
    try:
        found = session.run([*expected], feeds)
    except Exception as error:  # the runtime's errors share no base class
        raise UnsupportedBundle(f"{doubt}{one_line(error)}") from error
    for (name, shape), array in zip(expected.items(), found, strict=True):
        if array.shape != shape:
            raise UnsupportedBundle(f"{doubt}output {name!r} has the shape {array.shape}, expected {shape}")
