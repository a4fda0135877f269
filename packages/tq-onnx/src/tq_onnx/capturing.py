"""Records what attention heads of a bundle see on a text: a KvTrace for each chosen layer and head."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tq_core import InvalidSpec
from tq_onnx.bundle import Bundle
from tq_onnx.errors import UnsupportedBundle
from tq_onnx.inputs import LayerTensors
from tq_onnx.packed import refuse_mixed_forms
from tq_onnx.plan import check_known
from tq_onnx.surgery import CannotCut, Site, locate
from tq_onnx.surgery.layout import by_head
from tq_onnx.surgery.shown_graph import ShownGraph, unfolded
from tq_onnx.windows import cut_windows
from tq_trace import KvTrace

TOKENS: Final = 448
CHUNK: Final = 256  # tokens of a window that run together


@dataclass(frozen=True)
class Plan:
    """What is recorded: windows (samples, tokens), layers, heads, and the positions whose queries are kept."""

    windows: NDArray[np.int64]
    layers: list[LayerTensors]
    heads: list[int]
    positions: NDArray[np.int64]


def capture(
    bundle: Bundle,
    *,
    text: str,
    benchmark: str = "text",
    tokens: int | None = None,
    windows: int = 8,
    queries: int = 64,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    threads: int | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> list[KvTrace]:
    """Traces of exact decoding: keys and values as the cache holds them, queries as they meet those keys.

    `queries` positions of each window are kept, evenly up to the last, with those of all query heads that share a
    key/value head, one head after the other within a position. They are scaled such that 1/sqrt(head_dim) is the
    scale of attention. `layers` are the graph's numbers, all by default. Raises UnsupportedBundle, which says what is
    in the way, where queries are not found or do not reproduce the graph's own attention.
    """
    refuse_mixed_forms(bundle.signature)
    tokens = min(TOKENS, bundle.context or TOKENS) if tokens is None else tokens
    plan = _plan(bundle, text, tokens, windows, queries, layers, heads)
    try:
        recorder = Recorder(bundle, plan, bundle.threads if threads is None else threads)
    except CannotCut as error:
        raise UnsupportedBundle(f"the queries of {bundle.folder.name} cannot be recorded: {error}") from error
    for index in range(len(plan.windows)):
        recorder.record(index)
        if progress is not None:
            progress(index + 1, len(plan.windows), "windows")
    return recorder.traces(benchmark)


class Recorder:
    """Runs windows through a session that shows queries, and keeps what a plan asks for.

    The attention of each layer is located in the graph and probed with numbers first; CannotCut says what is in the
    way.
    """

    def __init__(self, bundle: Bundle, plan: Plan, threads: int) -> None:
        self._bundle, self._plan = bundle, plan
        subject = bundle.subject(threads)
        graph = unfolded(subject)
        sites = locate(graph, plan.layers)
        self._shown = ShownGraph(subject, graph, [name for site in sites for name in site.tensors])
        self._sites = self._shown.prove(sites, plan.layers)
        self._kept: dict[tuple[int, str], list[NDArray[Any]]] = {}

    def record(self, index: int) -> None:
        """One window, in chunks; keys and values are read off the last cache."""
        ids, carried, plan = self._plan.windows[index : index + 1], self._shown.empty(1, 0), self._plan
        wanted = [*self._presents(), *(site.query for site in self._sites)]
        parts: dict[int, list[NDArray[Any]]] = {layer.number: [] for layer in plan.layers}
        for start in range(0, ids.shape[1], CHUNK):
            chunk = ids[:, start : start + CHUNK]
            outputs = self._shown.run(chunk, carried, start, wanted, last_only=True)
            carried = {past: outputs[present] for present, past in self._presents().items()}
            kept = np.isin(np.arange(start, start + chunk.shape[1]), plan.positions)
            for layer, site in zip(plan.layers, self._sites, strict=True):
                query = by_head(outputs[site.query], site.query_heads, site)
                parts[layer.number].append(query[0][:, kept].astype(np.float64))
        for layer, site in zip(plan.layers, self._sites, strict=True):
            factor = site.scale * layer.key_dim**0.5
            query = np.concatenate(parts[layer.number], axis=1) * factor
            self._keep(layer.number, "queries", query.astype(np.float32))
            self._keep(layer.number, "keys", outputs[layer.present_key][0])
            self._keep(layer.number, "values", outputs[layer.present_value][0])

    def traces(self, benchmark: str) -> list[KvTrace]:
        """A trace for each layer and head."""
        return [
            self._trace(layer, site, head, benchmark)
            for layer, site in zip(self._plan.layers, self._sites, strict=True)
            for head in self._plan.heads
        ]

    def _trace(self, layer: LayerTensors, site: Site, head: int, benchmark: str) -> KvTrace:
        keys, values, asked = (np.stack(self._kept[layer.number, name]) for name in ("keys", "values", "queries"))
        group = asked.shape[1] // layer.kv_heads
        mine = asked[:, head * group : (head + 1) * group].transpose(0, 2, 1, 3)
        cap = f"; the model caps logits softly at {site.softcap:.6g}" if site.softcap else ""
        window = f"; the model looks back {site.window} tokens at most" if site.window else ""
        return KvTrace(
            keys[:, head],
            values[:, head],
            mine.reshape(len(asked), -1, layer.key_dim),
            np.tile(np.repeat(self._plan.positions, group), (len(asked), 1)),
            model=self._bundle.folder.resolve().name,
            benchmark=benchmark,
            suite="real model",
            layer=layer.number,
            head=head,
            note=f"query heads: {group}; recorded while decoding exactly{cap}{window}",
        )

    def _keep(self, layer: int, name: str, array: NDArray[Any]) -> None:
        self._kept.setdefault((layer, name), []).append(array)

    def _presents(self) -> dict[str, str]:
        """Each output that carries something on, and the input of the next step that takes it."""
        signature = self._bundle.signature
        found = {state.present: state.past for state in signature.states}
        for layer in signature.layers:
            found |= {layer.present_key: layer.past_key, layer.present_value: layer.past_value}
        return found


def _plan(
    bundle: Bundle,
    text: str,
    tokens: int,
    windows: int,
    queries: int,
    layers: Sequence[int] | None,
    heads: Sequence[int] | None,
) -> Plan:
    signature = bundle.signature
    for name, value, low in (("tokens", tokens, 2), ("windows", windows, 1), ("queries", queries, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise InvalidSpec(f"{name} must be a whole number of {low} or more, got {value!r}")
    if bundle.context is not None and tokens > bundle.context:
        raise InvalidSpec(f"windows of {tokens} tokens exceed the model's context of {bundle.context}")
    if signature.fixed_batch not in (None, 1):
        raise UnsupportedBundle(f"the graph runs a batch of {signature.fixed_batch} only; recording needs a batch of 1")
    by_number = {layer.number: layer for layer in signature.layers}
    chosen = list(by_number) if layers is None else list(dict.fromkeys(layers))
    unknown = [number for number in chosen if number not in by_number]
    if unknown or not chosen:
        raise InvalidSpec(f"layers must be among {sorted(by_number)}, got {unknown or 'none'}")
    least = min(by_number[number].kv_heads for number in chosen)
    picked = list(range(least)) if heads is None else list(dict.fromkeys(heads))
    if not picked or not all(isinstance(head, int) and 0 <= head < least for head in picked):
        raise InvalidSpec(f"heads must lie in 0..{least - 1}, got {picked or 'none'}")
    positions = np.unique(np.linspace(tokens - 1, 0, min(queries, tokens)).round().astype(np.int64))
    cut = cut_windows(bundle.encode(text), windows, tokens, bundle.start_token)
    if signature.vocabulary is not None:
        check_known(cut, bundle, signature.vocabulary)
    return Plan(cut, [by_number[number] for number in sorted(chosen)], picked, positions)
