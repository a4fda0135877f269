"""A decoder whose attention is computed outside the graph: segments run in turn, attention between them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime  # type: ignore[import-untyped]
from numpy.typing import NDArray

from tq_onnx.errors import StepFailed, one_line
from tq_onnx.feeds import StepInputs
from tq_onnx.inputs import Signature
from tq_onnx.surgery.branch import branch_with_past
from tq_onnx.surgery.cut import cut
from tq_onnx.surgery.graph import Graph
from tq_onnx.surgery.layout import as_output, by_head
from tq_onnx.surgery.locate import locate
from tq_onnx.surgery.past_shapes import KEY_SHAPE, VALUE_SHAPE, without_past_shapes
from tq_onnx.surgery.probe import Model, probe
from tq_onnx.surgery.sessions import exposed, segment_model, session_of, types_of
from tq_onnx.surgery.site import CannotCut, Site
from tq_onnx.surgery.unfold import POSITIONS, unfold

Floats = NDArray[np.floating]
# the site, queries, new keys, new values; (batch, query heads, n, value dim) float32 comes back
Attend = Callable[[Site, Floats, Floats, Floats], NDArray[np.float32]]

NUMPY: Final = {"tensor(float)": "float32", "tensor(float16)": "float16"}


class FusedGraph:
    """Segments of a bundle's graph, proved to give the graph's own attention when put together."""

    def __init__(
        self,
        model: onnx.ModelProto,
        signature: Signature,
        inputs: StepInputs,
        original: onnxruntime.InferenceSession,
        context: int,
        windows: Sequence[int],
        threads: int,
    ) -> None:
        """Locates, cuts and probes; CannotCut says which layer is in the way and why.

        `inputs` fills the optional inputs of one row; `original` is a session of the model as it came: what surgery
        unfolds has to give its logits.
        """
        self._signature = signature
        layers = signature.layers
        model = branch_with_past(model)
        model = unfold(model, signature.kv_heads, signature.key_dim, signature.value_dim)
        whole = Graph(model)
        sites = locate(whole, layers)
        cut_graph = Graph(without_past_shapes(model, layers))
        pasts = [name for layer in layers for name in (layer.past_key, layer.past_value)]
        states = [state.present for state in signature.states]
        self._segments = cut(cut_graph, sites, pasts, [signature.logits_name], states)
        crossing = [name for segment in self._segments for name in segment.outputs if whole.producer(name)]
        names = [name for site in sites for name in site.tensors]
        inspection = session_of(exposed(whole, [*names, *crossing]), threads)
        self._types = types_of(inspection) | {KEY_SHAPE: "tensor(int64)", VALUE_SHAPE: "tensor(int64)"}
        described = Model(
            signature.kv_heads,
            (signature.key_dim, signature.value_dim),
            signature.cache_dtype,
            signature.vocabulary or 2,
            context,
            tuple(windows),
        )
        self.sites = probe(sites, described, _Inspection(self, inspection, original, inputs).run)
        self._order = sorted(range(len(sites)), key=lambda index: whole.producer_index(sites[index].output) or 0)
        self._sessions = [
            session_of(segment_model(cut_graph, segment, self._types, f"segment {number}"), threads)
            for number, segment in enumerate(self._segments)
        ]

    def step(
        self, feeds: Mapping[str, NDArray[Any]], past: int, padding: NDArray[np.int64], attend: Attend
    ) -> tuple[Floats, dict[str, NDArray[Any]]]:
        """Logits of the new tokens, and the states that the step leaves, by their past's name.

        `feeds` holds every input of the graph but its pasts; `attend` is called once a layer, in the graph's order.
        """
        signature = self._signature
        values: dict[str, Any] = {**feeds, **self.added(feeds[signature.ids_name].shape, past, padding)}
        for number, (session, segment) in enumerate(zip(self._sessions, self._segments, strict=True)):
            try:
                found = session.run(segment.outputs, {name: values[name] for name in segment.inputs})
            except Exception as error:  # the runtime's errors share no base class
                raise StepFailed(
                    f"the runtime failed in segment {number}, token {past}: {one_line(error)}; the runner is unchanged"
                ) from error
            values.update(zip(segment.outputs, found, strict=True))
            if number < len(self._order):
                site, heads = self.sites[self._order[number]], signature.kv_heads
                attended = attend(
                    site,
                    by_head(values[site.query], site.query_heads, site),
                    by_head(values[site.key], heads, site),
                    by_head(values[site.value], heads, site),
                )
                values[site.output] = as_output(attended, site, NUMPY[self._types[site.output]])
        return values[signature.logits_name], {state.past: values[state.present] for state in signature.states}

    def added(self, shape: tuple[int, ...], past: int, padding: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """The inputs that surgery added to the graph."""
        signature, (batch, count) = self._signature, shape
        positions = np.maximum(np.arange(past, past + count) - padding[:, None], 0)
        lead = (batch, signature.kv_heads, past)
        return {
            POSITIONS: np.ascontiguousarray(np.broadcast_to(positions, shape), np.int64),
            KEY_SHAPE: np.array([*lead, signature.key_dim], np.int64),
            VALUE_SHAPE: np.array([*lead, signature.value_dim], np.int64),
        }


class _Inspection:
    """Runs the whole graph with its inner tensors shown, beside the model as it came."""

    def __init__(
        self,
        fused: FusedGraph,
        shown: onnxruntime.InferenceSession,
        original: onnxruntime.InferenceSession,
        inputs: StepInputs,
    ) -> None:
        self._fused, self._shown, self._original, self._inputs = fused, shown, original, inputs
        self._signature = fused._signature

    def run(self, ids: NDArray[np.int64], held: Sequence[tuple[Floats, Floats]]) -> Mapping[str, NDArray[Any]]:
        """Tensors by name of a run over given pasts; CannotCut where logits are not those of the original."""
        signature, past, none = self._signature, held[0][0].shape[2], np.zeros(1, np.int64)
        values: dict[str, NDArray[Any]] = {
            **self._inputs.values(past, past + ids.shape[1], none, last_only=False),
            **self._fused.added(ids.shape, past, none),
            **{state.past: np.zeros((1, *state.shape), state.dtype) for state in signature.states},
            signature.ids_name: ids.astype(signature.ids_dtype),
        }
        for layer, (key, value) in zip(signature.layers, held, strict=True):
            values[layer.past_key], values[layer.past_value] = key, value
        wanted = [node.name for node in self._shown.get_outputs()]
        found = dict(zip(wanted, _run(self._shown, wanted, values), strict=True))
        logits = _run(self._original, [signature.logits_name], values)[0]
        _require_same(found[signature.logits_name], logits, signature.cache_dtype)
        return found


def _run(session: onnxruntime.InferenceSession, wanted: list[str], values: Mapping[str, Any]) -> list[NDArray[Any]]:
    declared = {node.name for node in session.get_inputs()}
    found: list[NDArray[Any]] = session.run(wanted, {name: value for name, value in values.items() if name in declared})
    return found


def _require_same(unfolded: Floats, original: Floats, dtype: str) -> None:
    close = 1e-4 if dtype == "float32" else 1e-2
    difference = float(np.abs(unfolded.astype(np.float64) - original.astype(np.float64)).max())
    if not difference <= close * float(np.abs(original).max() or 1.0):
        raise CannotCut(f"the graph with its attention unfolded gives other logits (off by {difference:.2g})")


__all__ = ["CannotCut", "FusedGraph"]
