"""The exported decoder with its attentions replaced by GroupQueryAttention, over one buffer that it appends to.

This is what onnxruntime itself offers for a long context, and what its own int8 and int4 caches are: the operator
rotates queries and keys, writes the new token where it lies, and reads a cache of floats, or of integers under scales
that are fixed beforehand, one a channel. Everything else of the graph is as it was exported.
"""

from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import OrtValue

from tq_onnx import Bundle
from tq_onnx.sessions import open_session

Held = list[tuple[NDArray[np.float32], NDArray[np.float32]]]  # keys and values of each layer, (heads, tokens, dim)

BITS: Final = {"float32": 0, "int8": 8, "int4": 4}
OPERATOR: Final = "GroupQueryAttention"


def grouped_model(bundle: Bundle, kind: str, scales: Held, positions: int) -> onnx.ModelProto:
    """The bundle's graph over a cache of that kind; `scales` (heads, 1, dim) of each layer, unused for float32."""
    model = onnx.load(str(bundle.model_path))
    graph, signature = model.graph, bundle.signature
    heads, dim, config = signature.kv_heads, signature.key_dim, bundle.config
    for layer in range(len(signature.layers)):
        at = f"/model/layers.{layer}/self_attn"
        output = next(node for node in graph.node if node.name == f"{at}/o_proj/MatMul")
        inputs = [f"{at}/{side}_proj/MatMul_output_0" for side in "qkv"]
        inputs += [f"past.{layer}.key", f"past.{layer}.value", "held", "tokens", "cosines", "sines"]
        options: dict[str, Any] = {}
        if BITS[kind]:
            inputs += ["", "", "", f"scales.{layer}.key", f"scales.{layer}.value"]
            options = {"kv_cache_bit_width": BITS[kind], "k_quant_type": "PER_CHANNEL", "v_quant_type": "PER_CHANNEL"}
            for side, values in zip(("key", "value"), scales[layer], strict=True):
                graph.initializer.append(numpy_helper.from_array(values, f"scales.{layer}.{side}"))
        graph.node.insert(
            list(graph.node).index(output),
            helper.make_node(
                OPERATOR,
                inputs,
                [f"attended.{layer}", f"after.{layer}.key", f"after.{layer}.value"],
                domain="com.microsoft",
                num_heads=int(config["num_attention_heads"]),
                kv_num_heads=heads,
                do_rotary=1,
                **options,
            ),
        )
        output.input[0] = f"attended.{layer}"
    angles = np.arange(positions)[:, None] * float(config["rope_theta"]) ** (-np.arange(0, dim, 2) / dim)
    for name, table in (("cosines", np.cos(angles)), ("sines", np.sin(angles))):
        graph.initializer.append(numpy_helper.from_array(table.astype(np.float32), name))
    _sign(model, bundle, kind)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return model


def _sign(model: onnx.ModelProto, bundle: Bundle, kind: str) -> None:
    """Give the graph the inputs and outputs of the operator, and drop what nothing asks for any more."""
    graph, signature = model.graph, bundle.signature
    element, width = {
        "float32": (TensorProto.FLOAT, signature.key_dim),
        "int8": (TensorProto.INT8, signature.key_dim),
        "int4": (TensorProto.UINT8, signature.key_dim // 2),
    }[kind]
    ids = next(tensor for tensor in graph.input if tensor.name == signature.ids_name)
    logits = next(tensor for tensor in graph.output if tensor.name == signature.logits_name)
    inputs = [ids, helper.make_tensor_value_info("held", TensorProto.INT32, [1])]
    inputs.append(helper.make_tensor_value_info("tokens", TensorProto.INT32, []))
    outputs = [logits]
    for layer in range(len(signature.layers)):
        for side in ("key", "value"):
            for prefix, found in (("past", inputs), ("after", outputs)):
                shape = [1, signature.kv_heads, "room", width]
                found.append(helper.make_tensor_value_info(f"{prefix}.{layer}.{side}", element, shape))
    wanted, kept = {tensor.name for tensor in outputs}, []
    for node in reversed(graph.node):
        if wanted.intersection(node.output):
            kept.append(node)
            wanted.update(node.input)
    for field, items in (("node", kept[::-1]), ("input", inputs), ("output", outputs)):
        del getattr(graph, field)[:]
        getattr(graph, field).extend(items)
    del graph.value_info[:]


def channel_scales(held: Held, kind: str) -> Held:
    """The largest magnitude of each channel over the largest code, as onnxruntime-genai calibrates."""
    largest = {8: 127, 4: 7}.get(BITS[kind], 1)

    def of(side: NDArray[np.float32]) -> NDArray[np.float32]:
        found = np.abs(side).max(axis=1, keepdims=True) / np.float32(largest)
        return np.maximum(found, np.float32(1e-6))

    return [(of(keys), of(values)) for keys, values in held]


def stored(side: NDArray[np.float32], scales: NDArray[np.float32], kind: str) -> NDArray[Any]:
    """(heads, tokens, dim) floats as the operator keeps them; two codes a byte for int4, the first in the low half."""
    if not BITS[kind]:
        return side
    least, most = -(1 << (BITS[kind] - 1)), (1 << (BITS[kind] - 1)) - 1
    codes = np.clip(np.rint(side / scales), least, most).astype(np.int8)
    if kind == "int8":
        return codes
    shifted = (codes + 8).astype(np.uint8)
    return shifted[..., ::2] | shifted[..., 1::2] << 4


class GroupedDecoder:
    """One token a step, with everything bound once: a step changes three numbers and runs."""

    def __init__(self, bundle: Bundle, kind: str, scales: Held, held: Held, room: int, folder: Path) -> None:
        path = folder / f"{kind}.onnx"
        onnx.save(grouped_model(bundle, kind, scales, room), str(path))
        self._session = open_session(path, 1)
        self._binding = self._session.io_binding()
        self._ids = np.zeros((1, 1), bundle.signature.ids_dtype)
        self._held, self._total = np.zeros(1, np.int32), np.zeros((), np.int32)
        self._logits = np.empty((1, 1, bundle.signature.vocabulary), np.float32)
        self.tokens = held[0][0].shape[1]
        self.buffers: list[NDArray[Any]] = []
        for name, array in ((bundle.signature.ids_name, self._ids), ("held", self._held), ("tokens", self._total)):
            self._binding.bind_ortvalue_input(name, OrtValue.ortvalue_from_numpy(array))
        self._binding.bind_ortvalue_output(bundle.signature.logits_name, OrtValue.ortvalue_from_numpy(self._logits))
        for layer, (sides, factors) in enumerate(zip(held, scales, strict=True)):
            for name, side, factor in zip(("key", "value"), sides, factors, strict=True):
                codes = stored(side, factor, kind)
                buffer = np.zeros((1, codes.shape[0], room, codes.shape[2]), codes.dtype)
                buffer[0, :, : self.tokens] = codes
                self.buffers.append(buffer)
                value = OrtValue.ortvalue_from_numpy(buffer)  # shares its memory
                self._binding.bind_ortvalue_input(f"past.{layer}.{name}", value)
                self._binding.bind_ortvalue_output(f"after.{layer}.{name}", value)

    def step(self, token: int) -> NDArray[np.float32]:
        """Logits (vocabulary,) after one more token; valid until the next step."""
        self._ids[0, 0] = token
        self._held[0], self._total[...] = self.tokens, self.tokens + 1
        self._session.run_with_iobinding(self._binding)
        self.tokens += 1
        return self._logits[0, 0]

    @property
    def cache_bytes(self) -> int:
        """Bytes of the tokens so far; the scales are constants of the graph."""
        return sum(buffer.nbytes // buffer.shape[2] * self.tokens for buffer in self.buffers)
