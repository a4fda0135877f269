"""Records what attention heads of a bundle see on a text: a KvTrace for each chosen layer and head."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tq_core import InvalidSpec
from tq_onnx.bundle import Bundle
from tq_onnx.errors import StepFailed, UnsupportedBundle, one_line
from tq_onnx.external_data import whole_model
from tq_onnx.feeds import StepInputs
from tq_onnx.inputs import LayerTensors
from tq_onnx.packed import refuse_mixed_forms
from tq_onnx.surgery import CannotCut, Graph, Site, locate
from tq_onnx.surgery.branch import branch_with_past
from tq_onnx.surgery.layout import by_head
from tq_onnx.surgery.probe import Model, probe
from tq_onnx.surgery.sessions import exposed, session_of
from tq_onnx.surgery.unfold import POSITIONS, unfold
from tq_onnx.windows import cut_windows
from tq_trace import KvTrace

TOKENS: Final = 448
CHUNK: Final = 256  # tokens of a window that run together

Floats = NDArray[np.floating]


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
        signature = bundle.signature
        self._bundle, self._plan = bundle, plan
        self._inputs = StepInputs(1, signature.optional, bundle.first_position)
        model = branch_with_past(whole_model(bundle.model_path, bundle.folder))
        graph = Graph(unfold(model, signature.kv_heads, signature.key_dim, signature.value_dim))
        sites = locate(graph, plan.layers)
        self._session = session_of(exposed(graph, [name for site in sites for name in site.tensors]), threads)
        self._takes = {node.name for node in self._session.get_inputs()}
        self._names = [node.name for node in self._session.get_outputs()]
        self._kept: dict[tuple[int, str], list[NDArray[Any]]] = {}
        described = Model(
            signature.kv_heads,
            (signature.key_dim, signature.value_dim),
            signature.cache_dtype,
            signature.vocabulary or 2,
            bundle.context or 0,
            bundle.windows,
        )
        self._sites = probe(sites, described, self._probed)

    def record(self, index: int) -> None:
        """One window, in chunks; keys and values are read off the last cache."""
        ids, carried, plan = self._plan.windows[index : index + 1], self._empty(0), self._plan
        parts: dict[int, list[NDArray[Any]]] = {layer.number: [] for layer in plan.layers}
        for start in range(0, ids.shape[1], CHUNK):
            chunk = ids[:, start : start + CHUNK]
            outputs = self._step(chunk, carried, start)
            carried = self._carried(outputs)
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

    def _empty(self, tokens: int) -> dict[str, NDArray[Any]]:
        """What a decoder carries after that many tokens that left nothing."""
        signature = self._bundle.signature
        found = {state.past: np.zeros((1, *state.shape), state.dtype) for state in signature.states}
        for layer in signature.layers:
            for name, dim in ((layer.past_key, layer.key_dim), (layer.past_value, layer.value_dim)):
                found[name] = np.zeros((1, layer.kv_heads, tokens, dim), signature.cache_dtype)
        return found

    def _carried(self, outputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        signature = self._bundle.signature
        pairs = [(state.past, state.present) for state in signature.states]
        for layer in signature.layers:
            pairs += [(layer.past_key, layer.present_key), (layer.past_value, layer.present_value)]
        return {past: outputs[present] for past, present in pairs}

    def _probed(self, ids: NDArray[np.int64], pasts: Sequence[tuple[Floats, Floats]]) -> dict[str, NDArray[Any]]:
        """A run over given pasts of the planned layers, as a probe wants it; other layers have pasts of zeros."""
        carried: dict[str, NDArray[Any]] = self._empty(int(pasts[0][0].shape[2]))
        for layer, (key, value) in zip(self._plan.layers, pasts, strict=True):
            carried |= {layer.past_key: key, layer.past_value: value}
        return self._step(ids, carried, int(pasts[0][0].shape[2]))

    def _step(self, ids: NDArray[np.int64], carried: Mapping[str, NDArray[Any]], start: int) -> dict[str, NDArray[Any]]:
        signature, stop = self._bundle.signature, start + ids.shape[1]
        feeds = {**carried, **self._inputs.values(start, stop, np.zeros(1, np.int64), last_only=True)}
        feeds |= {signature.ids_name: ids.astype(signature.ids_dtype), POSITIONS: np.arange(start, stop)[None]}
        given = {name: value for name, value in feeds.items() if name in self._takes}
        try:
            return dict(zip(self._names, self._session.run(self._names, given), strict=True))
        except Exception as error:  # the runtime's errors share no base class
            raise StepFailed(f"the runtime failed on tokens {start}..{stop - 1}: {one_line(error)}") from error


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
    if signature.vocabulary is not None and cut.max() >= signature.vocabulary:
        raise InvalidSpec(
            f"the tokenizer of {bundle.folder.name} gives token {cut.max()}, its model knows {signature.vocabulary} "
            "tokens only; the two do not belong together"
        )
    return Plan(cut, [by_number[number] for number in sorted(chosen)], picked, positions)
