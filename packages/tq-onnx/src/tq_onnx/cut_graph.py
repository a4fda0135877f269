"""Runs a graph cut at its attentions, which are computed on the packed cache: no float cache exists."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tq_onnx.bundle import Bundle
from tq_onnx.errors import UnsupportedBundle
from tq_onnx.feeds import StepInputs
from tq_onnx.packed import PackedCache
from tq_onnx.surgery import CannotCut, Site
from tq_onnx.surgery.fused_graph import FusedGraph
from tq_onnx.whole_graph import of_new_tokens

Floats = NDArray[np.floating]
F32 = NDArray[np.float32]


class CutGraph:
    """Segments of the graph, a packed cache between them, and the states that hybrid models carry.

    A token is exact in the step that brings it, as in mode reconstruct: new tokens are attended to as they are, and
    packed when the step has gone through all layers.
    """

    def __init__(self, bundle: Bundle, batch: int, threads: int | None, packed: PackedCache) -> None:
        self._signature, self._packed = bundle.signature, packed
        self._inputs = StepInputs(batch, bundle.signature.optional, bundle.first_position)
        self._batch = batch
        try:
            self._graph: FusedGraph = bundle.fused(threads)
        except CannotCut as error:
            raise UnsupportedBundle(
                f"mode 'fused' cannot run {bundle.folder.name}: {error}; use mode 'reconstruct', which has the same "
                "quality"
            ) from error
        self._states: dict[str, NDArray[Any]] = {}
        self.clear()

    def step(self, ids: NDArray[np.integer], start: int, padding: NDArray[np.int64], *, last_only: bool) -> F32:
        """Logits of the new tokens, which join the cache; nothing has changed where it raises."""
        feeds = self._inputs.values(start, start + ids.shape[1], padding, last_only=last_only)
        feeds[self._signature.ids_name] = ids
        feeds |= self._states
        new: dict[int, tuple[Floats, Floats]] = {}

        def attend(site: Site, queries: Floats, keys: Floats, values: Floats) -> F32:
            new[site.layer] = keys, values
            return self._packed.attend(site, queries, keys, values, start, padding)

        found, states = self._graph.step(feeds, start, padding, attend)
        logits = of_new_tokens(found, ids.shape, self._signature.logits_name, last_only=last_only)
        self._packed.append([new[layer] for layer in range(len(self._signature.layers))], start, padding)
        self._states = states
        return logits

    def clear(self) -> None:
        """States back to zeros."""
        self._states = {
            state.past: np.zeros((self._batch, *state.shape), state.dtype) for state in self._signature.states
        }

    def restore(self, tokens: int) -> None:
        """Nothing to read back: the packed cache is all there is."""

    @property
    def state_bytes(self) -> int:
        """Bytes of states of fixed size."""
        return sum(int(state.nbytes) for state in self._states.values())

    @property
    def float_bytes(self) -> int:
        """No floats of the cache are kept."""
        return 0
