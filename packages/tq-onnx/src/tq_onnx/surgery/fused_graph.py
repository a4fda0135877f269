"""A decoder whose attention is computed outside the graph: segments run in turn, attention between them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime  # type: ignore[import-untyped]
from numpy.typing import NDArray

from tq_onnx.errors import StepFailed, one_line
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
Feeds = Callable[[NDArray[np.int64], int], Mapping[str, NDArray[Any]]]  # ids, past tokens -> inputs but the pasts
# number of the layer, queries, new keys, new values, the site; (batch, query heads, n, value dim) float32 comes back
Attend = Callable[[int, Floats, Floats, Floats, Site], NDArray[np.float32]]

NUMPY: Final = {"tensor(float)": "float32", "tensor(float16)": "float16"}


class FusedGraph:
    """Segments of a bundle's graph, proved to give the graph's own attention when put together."""

    def __init__(
        self,
        model: onnx.ModelProto,
        signature: Signature,
        feeds: Feeds,
        original: onnxruntime.InferenceSession,
        context: int,
        windows: Sequence[int],
        threads: int,
    ) -> None:
        """Locates, cuts and probes; CannotCut says which layer is in the way and why.

        `original` is a session of the model as it came: what surgery unfolds has to give its logits.
        """
        self._signature = signature
        layers = signature.layers
        model = branch_with_past(model)
        model = unfold(model, signature.kv_heads, signature.key_dim, signature.value_dim)
        whole = Graph(model)
        sites = locate(whole, layers)
        cut_graph = Graph(without_past_shapes(model, layers))
        pasts = [name for layer in layers for name in (layer.past_key, layer.past_value)]
        segments = cut(cut_graph, sites, pasts)
        names = [name for site in sites for name in site.tensors]
        crossing = [name for segment in segments for name in segment.outputs]
        inspection = session_of(exposed(whole, [*names, *(name for name in crossing if whole.producer(name))]), threads)
        types = types_of(inspection) | {KEY_SHAPE: "tensor(int64)", VALUE_SHAPE: "tensor(int64)"}
        wanted = list(dict.fromkeys([*names, "logits"]))

        def run(ids: NDArray[np.int64], held: Sequence[tuple[Floats, Floats]]) -> Mapping[str, NDArray[Any]]:
            inputs = dict(self._inputs(feeds, ids, held[0][0].shape[2]))
            for layer, (key, value) in zip(layers, held, strict=True):
                inputs[layer.past_key], inputs[layer.past_value] = key, value
            found = dict(zip(wanted, _run(inspection, wanted, inputs), strict=True))
            _require_same(found["logits"], _run(original, ["logits"], inputs)[0], signature.cache_dtype)
            return found

        described = Model(
            signature.kv_heads,
            (signature.key_dim, signature.value_dim),
            signature.cache_dtype,
            signature.vocabulary or 2,
            context,
            tuple(windows),
        )
        self.sites = probe(sites, described, run)
        self._order = sorted(range(len(sites)), key=lambda index: whole.producer_index(sites[index].output) or 0)
        self._types, self._feeds = types, feeds
        self._sessions = [
            session_of(segment_model(cut_graph, segment, types, f"segment {number}"), threads)
            for number, segment in enumerate(segments)
        ]
        self._segments = segments

    def step(self, ids: NDArray[np.int64], past: int, attend: Attend) -> NDArray[np.floating]:
        """Logits of the new tokens; `attend` is called once a layer, in the graph's order."""
        values: dict[str, Any] = dict(self._inputs(self._feeds, ids, past))
        for number, (session, segment) in enumerate(zip(self._sessions, self._segments, strict=True)):
            try:
                found = session.run(segment.outputs, {name: values[name] for name in segment.inputs})
            except Exception as error:  # the runtime's errors share no base class
                raise StepFailed(f"the runtime failed in segment {number}: {one_line(error)}") from error
            values.update(zip(segment.outputs, found, strict=True))
            if number < len(self._order):
                site = self.sites[self._order[number]]
                heads = self._signature.kv_heads
                attended = attend(
                    site.layer,
                    by_head(values[site.query], site.query_heads, site),
                    by_head(values[site.key], heads, site),
                    by_head(values[site.value], heads, site),
                    site,
                )
                values[site.output] = as_output(attended, site, NUMPY[self._types[site.output]])
        logits: NDArray[np.floating] = values["logits"]
        return logits

    def _inputs(self, feeds: Feeds, ids: NDArray[np.int64], past: int) -> Mapping[str, NDArray[Any]]:
        """Everything that a step may need but pasts: the graph's own inputs and those that surgery added."""
        signature, (batch, count) = self._signature, ids.shape
        positions = np.broadcast_to(np.arange(past, past + count, dtype=np.int64), ids.shape)
        return {
            **feeds(ids, past),
            POSITIONS: np.ascontiguousarray(positions),
            KEY_SHAPE: np.array([batch, signature.kv_heads, past, signature.key_dim], np.int64),
            VALUE_SHAPE: np.array([batch, signature.kv_heads, past, signature.value_dim], np.int64),
        }


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
