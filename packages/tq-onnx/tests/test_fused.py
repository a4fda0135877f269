"""Mode fused: attention on the packed cache gives what reconstruct gives, and no float cache exists."""

import re
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper

from tq_core import InvalidSpec
from tq_onnx import Bundle, DecoderRunner, UnsupportedBundle
from tq_onnx.surgery import CannotCut, fused_graph

FIXTURES = [parent / "fixtures" / "bundles" for parent in Path(__file__).resolve().parents]
BUNDLES = next((folder for folder in FIXTURES if folder.is_dir()), Path())
if not BUNDLES.name:
    pytest.skip("fixtures/bundles is only in the repository", allow_module_level=True)

NAMES = sorted(folder.name for folder in BUNDLES.glob("*/"))
REFUSED = ("genai-integer-cache",)
HALF = {"optimum-half": 5e-3, "optimum-half-throughout": 5e-3}
LIMITS = {"dynamo-qwen3-23": 5e-4}  # its norms are computed in another order in each session
POLICIES = ("k=mse4,v=mse4", "k=mse3,v=mse4,kmean=6,sinks=1,window=3")


def ids_of(rows: int, tokens: int, vocabulary: int) -> NDArray[np.int64]:
    return np.random.default_rng(5).integers(0, min(vocabulary, 250), (rows, tokens))


def compare(folder: Path, policy: str, *, rows: int) -> tuple[float, DecoderRunner, DecoderRunner]:
    """Largest difference of logits as a share of the largest, over prefills and single steps."""
    bundle = Bundle.open(folder, threads=1)
    ids = ids_of(rows, 30, bundle.signature.vocabulary or 250)
    fused, plain = (DecoderRunner(bundle, policy, mode, batch=rows) for mode in ("fused", "reconstruct"))
    worst = 0.0
    for start, stop in ((0, 9), (9, 10), (10, 11), (11, 24), (24, 25)):
        if rows > 1 and bundle.file.has("GroupQueryAttention"):
            pytest.skip("this operator takes one token a step for several rows")
        expected, found = (runner.step(ids[:, start:stop]) for runner in (plain, fused))
        worst = max(worst, float(np.abs(expected - found).max() / np.abs(expected).max()))
    return worst, fused, plain


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", [name for name in NAMES if name not in REFUSED])
def test_fused_gives_the_logits_of_reconstruct(name: str, policy: str) -> None:
    worst, fused, plain = compare(BUNDLES / name, policy, rows=1)
    assert worst <= HALF.get(name, LIMITS.get(name, 1e-5))
    assert fused.cache_bytes == plain.cache_bytes
    assert (fused.float_bytes, fused.tokens) == (0, 25)
    assert fused.cache is not None
    assert plain.cache is not None
    for layer in range(len(fused.bundle.signature.layers)):
        close = {"rtol": 0.0, "atol": HALF.get(name, 1e-3) * float(np.abs(plain.cache.keys(layer)).max())}
        same = np.isclose(fused.cache.keys(layer), plain.cache.keys(layer), **close)
        assert same.mean() > (0.95 if name in HALF else 0.99)  # rounding moves what lies on a threshold


def test_window_and_soft_cap_of_an_operator_are_kept(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(BUNDLES / "genai-llama", tmp_path / "capped"))
    model = onnx.load(str(folder / "model.onnx"), load_external_data=False)
    for node in model.graph.node:
        if node.op_type == "GroupQueryAttention":
            kept = [item for item in node.attribute if item.name not in ("local_window_size", "softcap")]
            del node.attribute[:]
            node.attribute.extend([*kept, *helper.make_node("x", [], [], local_window_size=5, softcap=0.5).attribute])
    onnx.save(model, str(folder / "model.onnx"))
    worst, fused, _ = compare(folder, POLICIES[0], rows=1)
    assert worst <= 1e-5
    assert [(site.window, site.softcap) for site in fused.bundle.fused().sites] == [(5, 0.5)] * 2


@pytest.mark.parametrize("name", ["optimum-gpt2", "optimum-mla", "optimum-half"])
def test_rows_of_a_batch_do_not_see_each_other(name: str) -> None:
    worst, _, _ = compare(BUNDLES / name, POLICIES[0], rows=2)
    assert worst <= HALF.get(name, 1e-5)


def test_padded_rows_are_decoded_as_if_alone() -> None:
    bundle = Bundle.open(BUNDLES / "optimum-gpt2", threads=1)
    ids = ids_of(2, 20, bundle.signature.vocabulary or 250)
    mask = np.ones((2, 12), np.int64)
    mask[1, :5] = 0
    both = DecoderRunner(bundle, POLICIES[0], "fused", batch=2)
    both.step(ids[:, :12], mask)
    found = both.step(ids[:, 12:13])
    for row, pad in ((0, 0), (1, 5)):
        alone = DecoderRunner(bundle, POLICIES[0], "fused")
        alone.step(ids[row : row + 1, pad:12])
        np.testing.assert_allclose(found[row], alone.step(ids[row : row + 1, 12:13])[0], atol=2e-4)
    assert both.cache is not None
    assert both.cache.lengths == (13, 8)


def test_memory_stays_far_below_a_float_cache(trained: Path) -> None:
    bundle, peaks = Bundle.open(trained, threads=1), {}
    ids = ids_of(4, 401, 1024)
    for mode in ("fused", "reconstruct"):
        DecoderRunner(bundle, POLICIES[0], mode, batch=4).step(ids[:, :1])  # what is made once
        tracemalloc.start()
        runner = DecoderRunner(bundle, POLICIES[0], mode, batch=4)
        runner.prefill(ids[:, :400], chunk=50)
        runner.step(ids[:, 400:])
        peaks[mode] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    # numpy's memory, which every float cache is; no segment takes or gives a past
    assert peaks["fused"] < runner.exact_bytes("float32") / 2 < peaks["reconstruct"] / 2


def test_a_cache_goes_on_in_another_runner(tmp_path: Path) -> None:
    bundle = Bundle.open(BUNDLES / "optimum-gpt2", threads=1)
    ids = ids_of(1, 20, bundle.signature.vocabulary or 250)
    first = DecoderRunner(bundle, POLICIES[0], "fused")
    first.step(ids[:, :15])
    assert first.cache is not None
    first.cache.save(tmp_path / "cache.safetensors")
    second = DecoderRunner(bundle, POLICIES[0], "fused")
    second.restore(type(first.cache).load(tmp_path / "cache.safetensors"))
    np.testing.assert_array_equal(second.step(ids[:, 15:16]), first.step(ids[:, 15:16]))
    first.reset()
    assert (first.tokens, len(first.cache)) == (0, 0)


def test_a_failing_step_leaves_the_runner_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = Bundle.open(BUNDLES / "optimum-gpt2", threads=1)
    ids = ids_of(1, 20, bundle.signature.vocabulary or 250)
    runner, other = (DecoderRunner(bundle, POLICIES[0], "fused") for _ in range(2))
    for one in (runner, other):
        one.step(ids[:, :8])
    assert runner.cache is not None

    def broken(*_: object, **__: object) -> None:
        raise InvalidSpec("attention fails in the second layer")

    whole = type(runner.cache).attend
    monkeypatch.setattr(
        type(runner.cache), "attend", lambda self, q, layer, **o: broken() if layer else whole(self, q, layer, **o)
    )
    with pytest.raises(InvalidSpec, match="second layer"):
        runner.step(ids[:, 8:10])
    monkeypatch.undo()
    np.testing.assert_array_equal(runner.step(ids[:, 8:10]), other.step(ids[:, 8:10]))


def test_segments_that_do_not_add_up_to_the_graph_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = Bundle.open(BUNDLES / "optimum-gemma3", threads=1)
    shapes = fused_graph.past_shapes
    monkeypatch.setattr(fused_graph, "past_shapes", lambda signature, batch, past: shapes(signature, batch, past // 2))
    with pytest.raises(CannotCut, match="its segments give other logits than the graph"):
        bundle.fused()


def edited(tmp_path: Path, change: str) -> Path:
    """optimum-gpt2 with its first softmax changed."""
    folder = tmp_path / change
    folder.mkdir()
    source = BUNDLES / "optimum-gpt2"
    for file in source.glob("*.json"):
        (folder / file.name).write_bytes(file.read_bytes())
    model = onnx.load(str(source / "model.onnx"))
    nodes = list(model.graph.node)
    index = next(place for place, node in enumerate(nodes) if node.op_type == "Softmax")
    scores = nodes[index].input[0]
    if change == "operator":
        extra = [helper.make_node("Floor", [scores], ["changed"])]
    else:  # a bias along the tokens, which looks like a mask and is none
        extra = [
            helper.make_node("Cast", ["attention_mask"], ["as_float"], to=onnx.TensorProto.FLOAT),
            helper.make_node("CumSum", ["as_float", "last_axis"], ["counted"]),
            helper.make_node("Unsqueeze", ["counted", "middle_axes"], ["bias"]),
            helper.make_node("Add", [scores, "bias"], ["changed"]),
        ]
        model.graph.initializer.append(helper.make_tensor("last_axis", onnx.TensorProto.INT64, [], [1]))
        model.graph.initializer.append(helper.make_tensor("middle_axes", onnx.TensorProto.INT64, [2], [1, 2]))
    nodes[index].input[0] = "changed"
    del model.graph.node[:]
    model.graph.node.extend([*nodes[:index], *extra, *nodes[index:]])
    onnx.save(model, str(folder / "model.onnx"))
    return folder


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ("operator", "layer 0: Floor stands between its scores and its softmax"),
        ("bias", "layer 0: attention on a short prompt differs from the graph's by"),
    ],
)
def test_what_cannot_be_cut_is_said(tmp_path: Path, change: str, match: str) -> None:
    bundle = Bundle.open(edited(tmp_path, change), threads=1)
    with pytest.raises(CannotCut, match=match):
        bundle.fused()
    with pytest.raises(UnsupportedBundle, match=re.compile("mode 'fused' cannot run .*use mode 'reconstruct'", re.S)):
        DecoderRunner(bundle, POLICIES[0], "fused")
    assert DecoderRunner(bundle, POLICIES[0], "reconstruct").step([[1, 2, 3]]).shape[1] == 3
