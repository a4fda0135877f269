"""Records what attention heads of a bundle see on a text: a KvTrace for each chosen layer and head."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray

from tq_core import InvalidSpec
from tq_onnx.bundle import Bundle
from tq_onnx.errors import StepFailed, UnsupportedBundle, one_line
from tq_onnx.feeds import StepInputs
from tq_onnx.signature import LayerTensors
from tq_onnx.surgery import Attention, Missing, Proved, exposed_session, locate, prove
from tq_onnx.surgery.probe import queries
from tq_onnx.windows import cut_windows
from tq_trace import KvTrace

PROBE_TOKENS: Final = 6  # shorter than any window of a model worth recording
CHUNK: Final = 256
TOKENS: Final = 448


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
    in the way, for a layer whose queries are not found or do not reproduce the graph's own attention.
    """
    tokens = min(TOKENS, bundle.context or TOKENS) if tokens is None else tokens
    plan = _plan(bundle, text, tokens, windows, queries, layers, heads)
    model = onnx.load(str(bundle.model_path), load_external_data=False)
    wanted = {layer.number for layer in plan.layers}
    found = {one.layer: _found(one) for one in locate(model, bundle.signature) if one.layer in wanted}
    session = exposed_session(
        model,
        [name for one in found.values() for name in one.tensors],
        bundle.model_path,
        bundle.external_files,
        bundle.threads if threads is None else threads,
    )
    recorder = Recorder(bundle, session, plan)
    proved = recorder.prove(found)
    for index in range(len(plan.windows)):
        recorder.record(index, proved)
        if progress is not None:
            progress(index + 1, len(plan.windows), "windows")
    return recorder.traces(proved, benchmark)


def _found(one: Attention | Missing | Proved) -> Any:
    if isinstance(one, Missing):
        raise UnsupportedBundle(f"the queries of layer {one.layer} cannot be recorded: {one.reason}")
    return one


class Recorder:
    """Runs windows through a session with exposed tensors and keeps what a plan asks for."""

    def __init__(self, bundle: Bundle, session: Any, plan: Plan) -> None:
        self._bundle, self._session, self._plan = bundle, session, plan
        self._inputs = StepInputs(1, bundle.signature.optional, bundle.first_position)
        self._names = [output.name for output in session.get_outputs()]
        self._kept: dict[tuple[int, str], list[NDArray[Any]]] = {}

    def prove(self, found: Mapping[int, Attention]) -> dict[int, Proved]:
        """Every attention checked against the graph's on the first few tokens."""
        count = min(PROBE_TOKENS, self._plan.windows.shape[1])
        outputs = self._step(self._plan.windows[:1, :count], self._empty(), 0)
        dtype = self._bundle.signature.cache_dtype
        return {layer.number: _found(prove(found[layer.number], layer, outputs, dtype)) for layer in self._plan.layers}

    def record(self, index: int, proved: Mapping[int, Proved]) -> None:
        """One window, in chunks; keys and values are read off the last cache."""
        ids, carried = self._plan.windows[index : index + 1], self._empty()
        parts: dict[int, list[NDArray[Any]]] = {layer.number: [] for layer in self._plan.layers}
        for start in range(0, ids.shape[1], CHUNK):
            chunk = ids[:, start : start + CHUNK]
            outputs = self._step(chunk, carried, start)
            carried = self._carried(outputs)
            positions = np.arange(start, start + chunk.shape[1])
            for layer in self._plan.layers:
                query = queries(proved[layer.number].attention, layer, outputs, positions)
                assert query is not None  # its shape was proved
                parts[layer.number].append(query[:, np.isin(positions, self._plan.positions)])
        for layer in self._plan.layers:
            factor = proved[layer.number].scale * layer.key_dim**0.5
            query = np.concatenate(parts[layer.number], axis=1) * factor
            self._keep(layer.number, "queries", query.astype(np.float32))
            self._keep(layer.number, "keys", outputs[layer.present_key][0])
            self._keep(layer.number, "values", outputs[layer.present_value][0])

    def traces(self, proved: Mapping[int, Proved], benchmark: str) -> list[KvTrace]:
        """A trace for each layer and head."""
        plan, found = self._plan, []
        for layer in plan.layers:
            keys, values, asked = (np.stack(self._kept[layer.number, name]) for name in ("keys", "values", "queries"))
            group = asked.shape[1] // layer.kv_heads
            one = proved[layer.number]
            cap = f"; the model caps logits softly at {one.softcap:.6g}" if one.softcap else ""
            for head in plan.heads:
                mine = asked[:, head * group : (head + 1) * group].transpose(0, 2, 1, 3)
                where = np.tile(np.repeat(plan.positions, group), (len(asked), 1))
                found.append(
                    KvTrace(
                        keys[:, head],
                        values[:, head],
                        mine.reshape(len(asked), -1, layer.key_dim),
                        where,
                        model=self._bundle.folder.resolve().name,
                        benchmark=benchmark,
                        suite="real model",
                        layer=layer.number,
                        head=head,
                        note=f"{group} query heads, recorded while decoding exactly{cap}",
                    )
                )
        return found

    def _keep(self, layer: int, name: str, array: NDArray[Any]) -> None:
        self._kept.setdefault((layer, name), []).append(array)

    def _empty(self) -> dict[str, NDArray[Any]]:
        """What a decoder carries before its first token."""
        signature = self._bundle.signature
        found = {state.past: np.zeros((1, *state.shape), state.dtype) for state in signature.states}
        for layer in signature.layers:
            for name, dim in ((layer.past_key, layer.key_dim), (layer.past_value, layer.value_dim)):
                found[name] = np.zeros((1, layer.kv_heads, 0, dim), signature.cache_dtype)
        return found

    def _carried(self, outputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        signature = self._bundle.signature
        pairs = [(state.past, state.present) for state in signature.states]
        for layer in signature.layers:
            pairs += [(layer.past_key, layer.present_key), (layer.past_value, layer.present_value)]
        return {past: outputs[present] for past, present in pairs}

    def _step(self, ids: NDArray[np.int64], carried: Mapping[str, NDArray[Any]], start: int) -> dict[str, NDArray[Any]]:
        signature, stop = self._bundle.signature, start + ids.shape[1]
        feeds = {**carried, **self._inputs.values(start, stop, np.zeros(1, np.int64), last_only=True)}
        feeds[signature.ids_name] = ids.astype(signature.ids_dtype)
        try:
            return dict(zip(self._names, self._session.run(self._names, feeds), strict=True))
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
