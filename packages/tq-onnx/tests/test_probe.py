"""Probes: what a graph does beside plain causal attention is seen or refused, never passed over."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from tq_onnx import Bundle, DecoderRunner, inspection
from tq_onnx.surgery import CannotCut, Site
from tq_onnx.surgery.probe import Model, probe

Floats = NDArray[np.floating]
SITE = Site(layer=0, query="q", key="k", value="v", output="out", scale=0.25, number=5)
MODEL = Model(1, 2, (16, 8), "float32", 100, 0, ())


def attending(window: int = 0, cap: float = 0.0, sink: float = -np.inf, dtype: str = "float32") -> Callable[..., Any]:
    """A graph of one attention of 4 query heads over 2, as `probe` runs it."""

    def run(ids: NDArray[np.int64], held: Sequence[tuple[Floats, Floats]]) -> Mapping[str, NDArray[Any]]:
        random, count = np.random.default_rng(int(ids[0, 0])), ids.shape[1]
        query, key, value = (
            random.standard_normal((1, heads, count, dim)).astype(dtype) for heads, dim in ((4, 16), (2, 16), (2, 8))
        )
        keys, values = (
            np.repeat(np.concatenate(pair, axis=2), 2, axis=1).astype(np.float64)
            for pair in zip(held[0], (key, value), strict=True)
        )
        scores = 0.25 * query.astype(np.float64) @ keys.swapaxes(2, 3)
        if cap:
            scores = cap * np.tanh(scores / cap)
        rows, columns = np.arange(keys.shape[2])[-count:, None], np.arange(keys.shape[2])
        seen = (columns <= rows) & ((columns > rows - window) if window else True)
        weights = np.exp(np.where(seen, scores, -np.inf) - scores.max())
        weights /= weights.sum(axis=3, keepdims=True) + np.exp(sink - scores.max())
        return {"q": query, "k": key, "v": value, "out": (weights @ values).astype(dtype)}

    return run


def alike(query_heads: int, kv_heads: int) -> Callable[..., Any]:
    """A graph whose tokens are all ones, so that its attention gives ones."""

    def run(ids: NDArray[np.int64], held: Sequence[tuple[Floats, Floats]]) -> Mapping[str, NDArray[Any]]:
        forms = {"q": (query_heads, 16), "k": (kv_heads, 16), "v": (kv_heads, 8), "out": (query_heads, 8)}
        return {name: np.ones((1, heads, ids.shape[1], dim), "f") for name, (heads, dim) in forms.items()}

    return run


def test_a_window_is_found_among_those_of_the_configs() -> None:
    (found,) = probe([SITE], MODEL._replace(windows=(7, 300)), attending(window=300))
    assert found == replace(SITE, window=300, query_heads=4)


def test_half_precision_tells_windows_apart_that_differ_by_one_token() -> None:
    half = MODEL._replace(dtype="float16", windows=(60000,))
    for window in (60000, 60001):
        (found,) = probe([SITE], half, attending(window=window, dtype="float16"))
        assert found.window == window


def test_a_window_that_only_the_operator_names_is_passed() -> None:
    with pytest.raises(CannotCut, match="layer 5: attention on a past of 290 tokens differs"):
        probe([replace(SITE, window=250)], MODEL, attending(window=249))


def test_windows_that_hide_nothing_are_not_passed() -> None:
    (found,) = probe([SITE], MODEL._replace(context=40, windows=(1 << 19,)), attending())
    assert found.window == 0


def test_a_window_too_large_to_probe_is_refused() -> None:
    wide = MODEL._replace(kv_heads=2048, windows=((1 << 20) - 1,))
    with pytest.raises(CannotCut, match=r"a past of \d+ tokens, beyond its sliding window, would take \d+ bytes"):
        probe([SITE], wide, alike(2048, 2048))


def test_an_unseen_soft_cap_shows_at_large_logits() -> None:
    with pytest.raises(CannotCut, match="layer 5: attention on logits up to 60 differs"):
        probe([SITE], MODEL, attending(cap=500.0))


def test_a_sink_shows_on_a_short_prompt() -> None:
    with pytest.raises(CannotCut, match="layer 5: attention on a short prompt differs"):
        probe([SITE], MODEL, attending(sink=0.0))


def test_queries_of_other_heads_are_refused() -> None:
    with pytest.raises(CannotCut, match=r"layer 5: queries of shape \(1, 4, 24, 16\) do not meet 3 heads"):
        probe([SITE], MODEL._replace(kv_heads=3), alike(4, 3))


def capped(model: onnx.ModelProto, cap: float) -> onnx.ModelProto:
    """The model with each layer's scores capped softly."""
    nodes = []
    for node in model.graph.node:
        nodes.append(node)
        if node.op_type == "Div":
            name = node.output[0]
            node.output[0] = f"{name}.scaled"
            nodes.append(helper.make_node("Div", [f"{name}.scaled", "cap"], [f"{name}.small"]))
            nodes.append(helper.make_node("Tanh", [f"{name}.small"], [f"{name}.turned"]))
            nodes.append(helper.make_node("Mul", [f"{name}.turned", "cap"], [name]))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.append(numpy_helper.from_array(np.array(cap, np.float32), "cap"))
    return model


def test_soft_caps_are_those_of_the_graph(tiny_model: Callable[..., Any], write: Callable[..., Path]) -> None:
    bundle = Bundle.open(write(capped(tiny_model(), 0.5)), threads=1)
    np.testing.assert_allclose([site.softcap for site in bundle.fused().sites], 0.5)
    ids = np.random.default_rng(1).integers(0, 32, (1, 30))
    fused, plain = (DecoderRunner(bundle, "k=mse4,v=mse4", mode) for mode in ("fused", "reconstruct"))
    for step in (slice(0, 20), slice(20, 30)):
        np.testing.assert_allclose(fused.step(ids[:, step]), plain.step(ids[:, step]), atol=1e-4)


def test_a_negative_soft_cap_is_refused(tiny_model: Callable[..., Any], write: Callable[..., Path]) -> None:
    with pytest.raises(CannotCut, match="layer 0: what caps its scores, 'Mul', is no constant above 0"):
        Bundle.open(write(capped(tiny_model(), -0.5)), threads=1).fused()


def test_a_graph_of_a_fixed_batch_is_probed_with_it(build: Callable[..., Path]) -> None:
    bundle = Bundle.open(build(batch=2), threads=1)
    ids = np.random.default_rng(1).integers(0, 32, (2, 30))
    fused, plain = (DecoderRunner(bundle, "k=mse4,v=mse4", mode, batch=2) for mode in ("fused", "reconstruct"))
    for step in (slice(0, 20), slice(20, 30)):
        np.testing.assert_allclose(fused.step(ids[:, step]), plain.step(ids[:, step]), atol=1e-4)


def test_a_probe_that_does_not_run_is_a_reason(build: Callable[..., Path]) -> None:
    folder = build()
    (folder / "config.json").write_text(json.dumps({"bos_token_id": 0}))  # says nothing of 64 positions
    modes = {one["mode"]: one["why_not"] for one in inspection(Bundle.open(folder, threads=1))["modes"]}
    assert modes["fused"].startswith("a probe over a past of 160 tokens does not run: the runtime failed")
    assert not modes["reconstruct"]


def test_a_chain_without_end_is_refused(tiny_model: Callable[..., Any], write: Callable[..., Path]) -> None:
    model = tiny_model()
    nodes, name = list(model.graph.node), "past_key_values.0.key"
    chain = [helper.make_node("Identity", [f"link{i}" if i else name], [f"link{i + 1}"]) for i in range(3000)]
    for node in nodes:
        if node.op_type == "Concat" and node.input[0] == name:
            node.input[0] = "link3000"
    del model.graph.node[:]
    model.graph.node.extend([*chain, *nodes])
    with pytest.raises(CannotCut, match="layer 0: its operators form a chain too long to follow"):
        Bundle.open(write(model), threads=1).fused()
