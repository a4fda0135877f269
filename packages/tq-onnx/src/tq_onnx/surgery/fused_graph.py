"""A decoder whose attention is computed outside the graph: segments run in turn, attention between them."""

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tq_onnx.errors import StepFailed, one_line
from tq_onnx.surgery.cut import cut
from tq_onnx.surgery.graph import Graph
from tq_onnx.surgery.layout import as_output, by_head
from tq_onnx.surgery.locate import locate
from tq_onnx.surgery.past_shapes import KEY_SHAPE, VALUE_SHAPE, past_shapes, without_past_shapes
from tq_onnx.surgery.probe import attended
from tq_onnx.surgery.sessions import segment_model, session_of
from tq_onnx.surgery.shown_graph import SAME_LOGITS, ShownGraph, off_by, unfolded
from tq_onnx.surgery.site import CannotCut, Site
from tq_onnx.surgery.subject import Subject
from tq_onnx.surgery.unfold import POSITIONS, positions

Floats = NDArray[np.floating]
# the site, queries, new keys, new values; (batch, query heads, n, value dim) float32 comes back
Attend = Callable[[Site, Floats, Floats, Floats], NDArray[np.float32]]

PROVED_PAST: Final = 20
PROVED_NEW: Final = 4

NUMPY: Final = {"tensor(float)": "float32", "tensor(float16)": "float16"}


class FusedGraph:
    """Segments of a bundle's graph, proved to give its logits with the attention that `sites` describe between them."""

    def __init__(self, subject: Subject) -> None:
        """Locates, cuts and probes; CannotCut says which layer is in the way and why."""
        self._signature = signature = subject.signature
        whole = unfolded(subject)
        sites = locate(whole, signature.layers)
        cut_graph = Graph(without_past_shapes(whole.model, signature.layers))
        pasts = [name for layer in signature.layers for name in (layer.past_key, layer.past_value)]
        states = [state.present for state in signature.states]
        self._segments = cut(cut_graph, sites, pasts, [signature.logits_name], states)
        crossing = [name for segment in self._segments for name in segment.outputs if whole.producer(name)]
        shown = ShownGraph(subject, whole, [*(name for site in sites for name in site.tensors), *crossing])
        self._types = shown.types | {KEY_SHAPE: "tensor(int64)", VALUE_SHAPE: "tensor(int64)"}
        for site in sites:
            given = self._types[site.output]
            if given not in NUMPY:
                raise CannotCut(f"layer {site.number}: its attention gives {given}, expected {' or '.join(NUMPY)}")
        self.sites = shown.prove(sites, signature.layers)
        self._order = sorted(range(len(sites)), key=lambda index: whole.producer_index(sites[index].output) or 0)
        self._sessions = [
            session_of(segment_model(cut_graph, segment, self._types, f"segment {number}"), subject.threads)
            for number, segment in enumerate(self._segments)
        ]
        self._prove(subject, shown)

    def step(
        self, feeds: Mapping[str, NDArray[Any]], past: int, padding: NDArray[np.int64], attend: Attend
    ) -> tuple[Floats, dict[str, NDArray[Any]]]:
        """Logits of the new tokens, and the states that the step leaves, by their past's name.

        `feeds` holds every input of the graph but its pasts; `attend` is called once a layer, in the graph's order.
        """
        signature, shape = self._signature, feeds[self._signature.ids_name].shape
        values: dict[str, Any] = {
            **feeds,
            POSITIONS: positions(shape, past, padding),
            **past_shapes(signature, shape[0], past),
        }
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

    def _prove(self, subject: Subject, shown: ShownGraph) -> None:
        """One step over a short random past, in segments, against the model as it came; or CannotCut."""
        signature, random, rows = self._signature, np.random.default_rng(1), subject.rows
        fits = not subject.context or subject.context >= PROVED_PAST + PROVED_NEW
        past, count = (PROVED_PAST, PROVED_NEW) if fits else (0, 1)
        ids = random.integers(0, signature.vocabulary or 2, (rows, count)).astype(signature.ids_dtype)
        padding, carried = np.zeros(rows, np.int64), shown.empty(rows, past)
        for layer in signature.layers:
            for name in (layer.past_key, layer.past_value):
                carried[name][...] = random.standard_normal(carried[name].shape)

        def attend(site: Site, queries: Floats, keys: Floats, values: Floats) -> NDArray[np.float32]:
            layer = signature.layers[site.layer]
            held = ((carried[layer.past_key], keys), (carried[layer.past_value], values))
            return attended(site, queries, *(np.concatenate(pair, axis=2) for pair in held)).astype(np.float32)

        feeds = subject.inputs.values(past, past + count, padding, last_only=False) | carried
        try:
            logits, _ = self.step({**feeds, signature.ids_name: ids}, past, padding, attend)
            difference = off_by(logits, shown.original(ids, carried, past))
        except StepFailed as error:
            raise CannotCut(f"its segments do not run: {error}") from error
        if not difference <= SAME_LOGITS[signature.cache_dtype]:
            raise CannotCut(f"its segments give other logits than the graph (off by {difference:.2g})")
