"""Runs the graph as it came: pasts in, presents out, floats in buffers that take turns."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnxruntime import OrtValue  # type: ignore[import-untyped]

from tq_onnx.buffers import GrownInPlace, StateBuffer, TurnBuffer
from tq_onnx.bundle import Bundle
from tq_onnx.errors import StepFailed, UnsupportedBundle, one_line
from tq_onnx.feeds import StepInputs
from tq_onnx.packed import PackedCache

Ints = NDArray[np.integer]


class WholeGraph:
    """One session and its float caches; with `packed`, new tokens become what their codes decode to."""

    def __init__(
        self, bundle: Bundle, batch: int, capacity: int, threads: int | None, packed: PackedCache | None
    ) -> None:
        signature = bundle.signature
        self._signature, self._packed = signature, packed
        self._inputs = StepInputs(batch, signature.optional, bundle.first_position)
        self._buffers = {
            name: _buffer(bundle, name, (batch, layer.kv_heads, dim), capacity)
            for layer in signature.layers
            for name, dim in ((layer.past_key, layer.key_dim), (layer.past_value, layer.value_dim))
        }
        self._states = {state.past: StateBuffer(batch, state.shape, state.dtype) for state in signature.states}
        self._presents = {layer.past_key: layer.present_key for layer in signature.layers}
        self._presents |= {layer.past_value: layer.present_value for layer in signature.layers}
        self._presents |= {state.past: state.present for state in signature.states}
        self._session = bundle.session(threads)
        self._binding = self._session.io_binding()

    def step(self, ids: Ints, start: int, padding: NDArray[np.int64], *, last_only: bool) -> NDArray[np.float32]:
        """Logits of the new tokens, which join the caches; nothing has changed where it raises."""
        stop = start + ids.shape[1]
        targets = {name: buffer.target(stop) for name, buffer in self._buffers.items()}
        logits = self._run(ids, start, stop, targets, padding, last_only=last_only)
        if self._packed is not None:
            self._packed.write(targets, start, stop, padding)
        for buffer in self._buffers.values():
            buffer.turn()
        for state in self._states.values():
            state.turn()
        return logits

    def clear(self) -> None:
        """Forget states; pasts are as long as a step says they are."""
        for state in self._states.values():
            state.clear()

    def restore(self, tokens: int) -> None:
        """Read the first `tokens` tokens back from the packed cache."""
        if self._packed is not None:
            self._packed.read({name: buffer.target(tokens) for name, buffer in self._buffers.items()})
        for buffer in self._buffers.values():
            buffer.turn()

    @property
    def state_bytes(self) -> int:
        """Bytes of states of fixed size."""
        return sum(state.nbytes for state in self._states.values())

    @property
    def float_bytes(self) -> int:
        """Bytes of the float buffers that the runtime reads and writes."""
        return sum(buffer.nbytes for buffer in self._buffers.values())

    def _run(
        self,
        ids: Ints,
        start: int,
        stop: int,
        targets: dict[str, NDArray[Any]],
        padding: NDArray[np.int64],
        *,
        last_only: bool,
    ) -> NDArray[np.float32]:
        """One run of the graph from the past into the targets."""
        signature, binding = self._signature, self._binding
        binding.clear_binding_inputs()
        binding.clear_binding_outputs()
        feeds = self._inputs.values(start, stop, padding, last_only=last_only)
        feeds[signature.ids_name] = ids
        feeds |= {name: buffer.past(start) for name, buffer in self._buffers.items()}
        feeds |= {name: state.past for name, state in self._states.items()}
        written = {**targets, **{name: state.target for name, state in self._states.items()}}
        for name, array in feeds.items():
            binding.bind_ortvalue_input(name, OrtValue.ortvalue_from_numpy(array))
        binding.bind_output(signature.logits_name, "cpu")
        for name, array in written.items():
            binding.bind_ortvalue_output(self._presents[name], OrtValue.ortvalue_from_numpy(array))
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:  # the runtime's errors share no base class
            raise StepFailed(
                f"the runtime failed on tokens {start}..{stop - 1}: {one_line(error)}; the runner is unchanged"
            ) from error
        found = binding.get_outputs()[0].numpy()
        return of_new_tokens(found, ids.shape, signature.logits_name, last_only=last_only)


def _buffer(bundle: Bundle, name: str, form: tuple[int, int, int], capacity: int) -> TurnBuffer | GrownInPlace:
    """Memory of a past: grown where it lies if the operator that reads it can, and positions have a known end."""
    dtype, limit = bundle.signature.cache_dtype, bundle.file.grown_in_place.get(name, 0)
    if limit and bundle.context is not None:
        return GrownInPlace(*form, dtype, capacity, min(limit, bundle.context))
    return TurnBuffer(*form, dtype, capacity)


def of_new_tokens(
    logits: NDArray[np.floating], shape: tuple[int, ...], name: str, *, last_only: bool
) -> NDArray[np.float32]:
    """Logits of all new tokens, or of the last, as a float32 copy; UnsupportedBundle where the graph gives others."""
    if last_only and logits.ndim == 3 and logits.shape[1] > 1:
        logits = logits[:, -1:]
    if logits.shape[:2] != (shape[0], 1 if last_only else shape[1]):
        raise UnsupportedBundle(
            f"output {name!r} has shape {logits.shape} for tokens {shape}: the graph returns logits of some tokens "
            "only; feed one token a step"
        )
    # A copy, because the runtime may reuse its memory in the next step.
    return np.array(logits, np.float32, order="C")
