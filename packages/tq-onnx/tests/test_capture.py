"""Recorded heads against attention computed by hand, located tensors by form, and what is refused with its reason."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from tq_core import InvalidSpec
from tq_onnx import Bundle, DecoderRunner, UnsupportedBundle, capture
from tq_onnx.cli import main
from tq_onnx.surgery import Graph, locate
from tq_onnx.surgery.sessions import exposed, session_of
from tq_trace import KvTrace

# Every fixture whose cache can be read: MatMul and Softmax of three exporters, the standard operator, the contributed
# one with its rotation inside, a merged decoder and a hybrid.
FIXTURES = [
    "dynamo-llama-18",
    "dynamo-qwen3-23",
    "genai-lfm2",
    "genai-llama",
    "genai-qwen2-int4",
    "optimum-external",
    "optimum-gemma3",
    "optimum-gpt2",
    "optimum-half",
    "optimum-half-throughout",
    "optimum-merged",
    "optimum-mla",
    "optimum-mqa",
]


@pytest.fixture(scope="module")
def fixtures() -> Path:
    """fixtures/bundles; skips outside the repository."""
    for parent in Path(__file__).resolve().parents:
        if (parent / "fixtures" / "bundles").is_dir():
            return parent / "fixtures" / "bundles"
    pytest.skip("fixtures/bundles is only in the repository")


@pytest.mark.parametrize("name", FIXTURES)
def test_every_form_of_attention_is_recorded(fixtures: Path, words: str, name: str) -> None:
    bundle = Bundle.open(fixtures / name)
    traces = capture(bundle, text=words, tokens=20, windows=2, queries=5)
    first = bundle.signature.layers[0]
    assert len(traces) == len(bundle.signature.layers) * first.kv_heads
    assert traces[0].keys.shape == (2, 20, first.key_dim)
    assert traces[0].values.shape == (2, 20, first.value_dim)
    assert traces[0].query_positions.max() == 19
    assert np.abs(traces[0].queries).max() > 0.01


def test_window_of_a_layer_is_told(fixtures: Path, words: str) -> None:
    traces = capture(Bundle.open(fixtures / "optimum-gemma3"), text=words, tokens=20, windows=1, heads=[0])
    assert ["looks back" in trace.note for trace in traces] == [True, False]


def test_snapshot_with_links_is_recorded(fixtures: Path, words: str, tmp_path: Path) -> None:
    source = fixtures / "optimum-external"
    blobs, snapshot = tmp_path / "models--a--b" / "blobs", tmp_path / "models--a--b" / "snapshots" / "f00d"
    blobs.mkdir(parents=True)
    (snapshot / "onnx").mkdir(parents=True)
    for number, path in enumerate(sorted(path for path in source.rglob("*") if path.is_file())):
        (blobs / str(number)).write_bytes(path.read_bytes())
        (snapshot / path.relative_to(source)).symlink_to(blobs / str(number))
    linked, plain = (
        capture(Bundle.open(folder), text=words, tokens=12, windows=1, heads=[0])[0] for folder in (snapshot, source)
    )
    np.testing.assert_array_equal(linked.keys, plain.keys)


def by_hand(bundle: Bundle, ids: np.ndarray, layer: int, head: int) -> tuple[np.ndarray, np.ndarray]:
    """Query and attention output of one head of the test's own decoder, from its named tensors."""
    graph = Graph(onnx.load(bundle.model_path))
    site = locate(graph, bundle.signature.layers)[layer]
    session = session_of(exposed(graph, site.tensors), 1)
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "position_ids": np.arange(ids.shape[1])[None]}
    for one in bundle.signature.layers:
        feeds |= {name: np.zeros((1, 2, 0, 8), np.float32) for name in (one.past_key, one.past_value)}
    query, output = session.run([site.query, site.output], feeds)
    return query[0, head], output[0, head]


def test_traces_reproduce_the_attention_of_the_graph(build, words) -> None:
    bundle = Bundle.open(build())
    traces = capture(bundle, text=words, tokens=30, windows=3, queries=30)
    assert [(trace.layer, trace.head) for trace in traces] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    from tq_onnx.windows import cut_windows

    windows = cut_windows(bundle.encode(words), 3, 30, 0)
    for trace in traces:
        for sample, ids in zip(trace.samples, windows, strict=True):
            query, expected = by_hand(bundle, ids[None], trace.layer, trace.head)
            np.testing.assert_allclose(sample.queries, query, atol=1e-4)
            logits = sample.queries @ sample.keys.T / math.sqrt(8)
            logits[np.arange(30)[None] > sample.query_positions[:, None]] = -np.inf
            weights = np.exp(logits - logits.max(axis=1, keepdims=True))
            np.testing.assert_allclose(
                weights / weights.sum(axis=1, keepdims=True) @ sample.values, expected, atol=1e-4
            )


def test_keys_and_values_are_those_of_the_cache(build, words) -> None:
    bundle = Bundle.open(build())
    trace = capture(bundle, text=words, tokens=12, windows=1, layers=[1], heads=[1])[0]
    ids = np.array([[0, *bundle.encode(words)[:11]]])
    runner = DecoderRunner(bundle, "k=float32,v=float32")
    runner.step(ids)
    np.testing.assert_array_equal(trace.keys[0], runner.cache.keys(1)[0, 1])
    np.testing.assert_array_equal(trace.values[0], runner.cache.values(1)[0, 1])


def test_chunks_change_nothing(build, words, monkeypatch) -> None:
    bundle = Bundle.open(build(states=("past_conv.5",)))
    whole = capture(bundle, text=words, tokens=30, windows=1, queries=7)
    monkeypatch.setattr("tq_onnx.capturing.CHUNK", 4)
    for one, other in zip(whole, capture(bundle, text=words, tokens=30, windows=1, queries=7), strict=True):
        np.testing.assert_array_equal(one.query_positions, other.query_positions)
        for name in ("keys", "values", "queries"):
            np.testing.assert_allclose(getattr(one, name), getattr(other, name), atol=1e-4)


def test_soft_cap_is_told(write, tiny_model, words) -> None:
    bundle = Bundle.open(write(capped(tiny_model(layers=1), 5.0)))
    assert "caps logits softly at 5" in capture(bundle, text=words, tokens=12, windows=1)[0].note


def capped(model: onnx.ModelProto, cap: float) -> onnx.ModelProto:
    """A soft cap between the scaled scores and the mask."""
    nodes = model.graph.node
    place = next(i for i, node in enumerate(nodes) if node.op_type == "Softmax") - 1
    scores = next(name for name in nodes[place].input if name.startswith("div"))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(cap, np.float32), "cap"))
    nodes[place].input[list(nodes[place].input).index(scores)] = "bent"
    for node in (
        helper.make_node("Mul", ["tanh_out", "cap"], ["bent"]),
        helper.make_node("Tanh", ["tanh_in"], ["tanh_out"]),
        helper.make_node("Div", [scores, "cap"], ["tanh_in"]),
    ):
        nodes.insert(place, node)
    return model


def test_unknown_steps_are_refused_with_the_reason(write, tiny_model, words) -> None:
    model = tiny_model(layers=1)
    nodes = model.graph.node
    place = next(i for i, node in enumerate(nodes) if node.op_type == "Softmax")
    nodes[place].input[0], before = "odd", nodes[place].input[0]
    nodes.insert(place, helper.make_node("Relu", [before], ["odd"]))
    with pytest.raises(
        UnsupportedBundle, match="queries of made cannot be recorded: layer 0: Relu stands between its scores"
    ):
        capture(Bundle.open(write(model)), text=words, tokens=12, windows=1)


def test_numbers_that_do_not_agree_are_refused(write, tiny_model, words) -> None:
    model = tiny_model(layers=1)
    nodes = model.graph.node
    place = next(i for i, node in enumerate(nodes) if node.op_type == "Softmax")
    nodes[place].input[0], before = "biased", nodes[place].input[0]
    nodes.insert(place, helper.make_node("Add", [before, "far"], ["biased"]))  # as a mask would be added
    nodes.insert(place, helper.make_node("Cast", ["columns"], ["far"], to=onnx.TensorProto.FLOAT))
    with pytest.raises(UnsupportedBundle, match=r"cannot be recorded: layer 0: attention on .* differs from the graph"):
        capture(Bundle.open(write(model)), text=words, tokens=12, windows=1)


def test_layers_of_different_form_are_refused(build, words, monkeypatch) -> None:
    bundle = Bundle.open(build())
    first, second = bundle.signature.layers
    mixed = replace(bundle.signature, layers=(first, replace(second, kv_heads=1)))
    monkeypatch.setattr(bundle, "signature", mixed)
    with pytest.raises(UnsupportedBundle, match=r"'past_key_values\.1\.key' has 1 heads of 8 and 8 numbers"):
        capture(bundle, text=words, tokens=12, windows=1)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"layers": [7]}, r"layers must be among \[0, 1\], got \[7\]"),
        ({"layers": []}, "layers must be among"),
        ({"heads": [2]}, r"heads must lie in 0\.\.1, got \[2\]"),
        ({"tokens": 65}, "exceed the model's context of 64"),
        ({"tokens": 1}, "tokens must be a whole number of 2 or more"),
        ({"queries": 0}, "queries must be a whole number of 1 or more"),
        ({"windows": True}, "windows must be a whole number of 1 or more"),
    ],
)
def test_bad_options(build, words, options, match: str) -> None:
    with pytest.raises(InvalidSpec, match=match):
        capture(Bundle.open(build()), text=words, **({"tokens": 12, "windows": 1} | options))


def test_command_writes_a_file_for_each_head(capsys, build, words, tmp_path) -> None:
    folder, out = build(), tmp_path / "traces"
    (folder / "validation.txt").write_text(words)
    arguments = ["capture", str(folder), "--tokens", "20", "--windows", "2", "--queries", "4", "--output", str(out)]
    assert main([*arguments, "--layers", "1", "--quiet"]) == 0
    assert capsys.readouterr().out == f"2 traces of 2 windows and 20 tokens in {out}\n"
    trace = KvTrace.load(out / "layer001-head001.safetensors")
    assert (trace.layer, trace.head, trace.benchmark, trace.tokens, trace.query_count) == (
        1,
        1,
        "validation.txt",
        20,
        4,
    )
    assert main([*arguments, "--layers", "0,1", "--quiet"]) == 2
    assert "layer001-head000.safetensors exists already" in capsys.readouterr().err
    assert not (out / "layer000-head000.safetensors").exists()
    assert main([*arguments, "--layers", "0,1", "--overwrite"]) == 0


@pytest.mark.parametrize(
    ("arguments", "match"),
    [(["--layers", "x"], "is no list of whole numbers"), (["--layers", "9"], "layers must be among"), ([], "--text")],
)
def test_bad_input_is_one_line_and_status_2(capsys, build, tmp_path, words, arguments, match: str) -> None:
    folder = build()
    text = []
    if arguments:
        (folder / "validation.txt").write_text(words)
        text = ["--tokens", "12", "--windows", "1"]
    assert main(["capture", str(folder), "--output", str(tmp_path / "out"), "--quiet", *text, *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert match in err
    assert not (tmp_path / "out").exists()
