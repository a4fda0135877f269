"""The whole graph, unfolded, with the tensors around its attentions shown: what probes look at and captures record."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import onnxruntime  # type: ignore[import-untyped]
from numpy.typing import NDArray

from tq_onnx.errors import StepFailed, one_line
from tq_onnx.inputs import LayerTensors
from tq_onnx.surgery.branch import branch_with_past
from tq_onnx.surgery.graph import Graph
from tq_onnx.surgery.probe import Model, probe
from tq_onnx.surgery.sessions import exposed, session_of, types_of
from tq_onnx.surgery.site import CannotCut, Site
from tq_onnx.surgery.subject import Subject
from tq_onnx.surgery.unfold import POSITIONS, positions, unfold

Floats = NDArray[np.floating]

SAME_LOGITS: Final = {"float32": 1e-4, "float16": 1e-2}  # of the largest logit


def unfolded(subject: Subject) -> Graph:
    """The graph in which attention is to be located: one branch, and nothing but attention inside attentions."""
    signature = subject.signature
    if not signature.is_uniform:
        raise CannotCut("its layers have different heads or dims")
    model = branch_with_past(subject.model)
    return Graph(unfold(model, signature.kv_heads, signature.key_dim, signature.value_dim))


class ShownGraph:
    """A session of an unfolded graph that gives inner tensors beside its outputs; the model itself is not kept."""

    def __init__(self, subject: Subject, graph: Graph, names: Iterable[str]) -> None:
        """`names` are the inner tensors to show; CannotCut where the runtime cannot show them."""
        self._signature, self._inputs, self._original = subject.signature, subject.inputs, subject.session
        self._probed = Model(
            subject.rows,
            subject.signature.kv_heads,
            (subject.signature.key_dim, subject.signature.value_dim),
            subject.signature.cache_dtype,
            subject.signature.vocabulary or 2,
            subject.context,
            subject.windows,
        )
        self._session = session_of(exposed(graph, names), subject.threads)
        self.types = types_of(self._session)

    def prove(self, sites: Sequence[Site], layers: Sequence[LayerTensors]) -> tuple[Site, ...]:
        """The sites of those layers with scale and window as numbers show them; CannotCut where numbers disagree.

        Every run has to give the logits of the model as it came. Other layers than those have pasts of zeros.
        """

        def run(ids: NDArray[np.int64], held: Sequence[tuple[Floats, Floats]]) -> Mapping[str, NDArray[Any]]:
            start = int(held[0][0].shape[2])
            carried = self.empty(len(ids), start)
            for layer, (key, value) in zip(layers, held, strict=True):
                carried |= {layer.past_key: key, layer.past_value: value}
            try:
                found, logits = self.run(ids, carried, start), self.original(ids, carried, start)
            except StepFailed as error:
                raise CannotCut(f"a probe over a past of {start} tokens does not run: {error}") from error
            difference = off_by(found[self._signature.logits_name], logits)
            if not difference <= SAME_LOGITS[self._signature.cache_dtype]:
                raise CannotCut(f"the graph with its attention unfolded gives other logits (off by {difference:.2g})")
            return found

        return probe(sites, self._probed, run)

    def run(
        self,
        ids: NDArray[np.int64],
        carried: Mapping[str, NDArray[Any]],
        start: int,
        wanted: Sequence[str] | None = None,
        *,
        last_only: bool = False,
    ) -> dict[str, NDArray[Any]]:
        """Tensors by name, all or those wanted, of a step of (rows, n) tokens behind `start` carried ones."""
        names = [node.name for node in self._session.get_outputs()] if wanted is None else list(wanted)
        return self._run(self._session, names, ids, carried, start, last_only=last_only)

    def original(self, ids: NDArray[np.int64], carried: Mapping[str, NDArray[Any]], start: int) -> Floats:
        """Logits of the model as it came, for the same step."""
        name = self._signature.logits_name
        found: Floats = self._run(self._original, [name], ids, carried, start)[name]
        return found

    def empty(self, rows: int, tokens: int) -> dict[str, NDArray[Any]]:
        """What a decoder carries after that many tokens that left nothing: pasts and states of zeros."""
        signature = self._signature
        found = {state.past: np.zeros((rows, *state.shape), state.dtype) for state in signature.states}
        for layer in signature.layers:
            for name, dim in ((layer.past_key, layer.key_dim), (layer.past_value, layer.value_dim)):
                found[name] = np.zeros((rows, layer.kv_heads, tokens, dim), signature.cache_dtype)
        return found

    def _run(
        self,
        session: onnxruntime.InferenceSession,
        wanted: list[str],
        ids: NDArray[np.int64],
        carried: Mapping[str, NDArray[Any]],
        start: int,
        *,
        last_only: bool = False,
    ) -> dict[str, NDArray[Any]]:
        stop, none = start + ids.shape[1], np.zeros(len(ids), np.int64)
        feeds = {
            **carried,
            **self._inputs.values(start, stop, none, last_only=last_only),
            self._signature.ids_name: ids.astype(self._signature.ids_dtype),
            POSITIONS: positions(ids.shape, start, none),
        }
        given = {node.name: feeds[node.name] for node in session.get_inputs()}
        try:
            return dict(zip(wanted, session.run(wanted, given), strict=True))
        except Exception as error:  # the runtime's errors share no base class
            raise StepFailed(f"the runtime failed on tokens {start}..{stop - 1}: {one_line(error)}") from error


def off_by(logits: Floats, original: Floats) -> float:
    """Largest difference, as a share of the largest of the original ones."""
    difference = np.abs(logits.astype(np.float64) - original.astype(np.float64)).max()
    return float(difference / (np.abs(original).max() or 1.0))
