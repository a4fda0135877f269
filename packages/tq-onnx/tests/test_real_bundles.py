"""Bundles as exporters write them: the repository's own small ones, and those of a folder named in TQ_BUNDLES."""

import dataclasses
import functools
import itertools
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

from tq_onnx import Bundle, DecoderRunner, UnsupportedBundle
from tq_onnx.cli import main

REFUSED = {"genai-integer-cache": "already quantizes its cache"}
# Known to differ from the model that was exported, and consistent with itself: the exporter's doing.
NOT_AS_TORCH = ("genai-qwen3", "genai-qwen2-int4")
HALF = ("optimum-half", "optimum-half-throughout")

# What each fixture is there for: form of a layer, states, dtype of the cache, what it takes beside ids and pasts.
FACTS = {
    "dynamo-llama-18": ((2, 8, 8), 0, "float32", {"attention_mask", "position_ids"}),
    "dynamo-qwen3-23": ((2, 16, 16), 0, "float32", {"attention_mask", "position_ids"}),
    "genai-lfm2": ((2, 16, 16), 1, "float32", {"attention_mask"}),
    "genai-llama": ((2, 16, 16), 0, "float32", {"attention_mask"}),
    "genai-qwen2-int4": ((2, 16, 16), 0, "float32", {"attention_mask"}),
    "optimum-external": ((2, 8, 8), 0, "float32", {"attention_mask", "position_ids"}),
    "optimum-gemma3": ((2, 16, 16), 0, "float32", {"attention_mask"}),
    "optimum-gpt2": ((4, 8, 8), 0, "float32", {"attention_mask", "position_ids"}),
    "optimum-half": ((2, 8, 8), 0, "float16", {"attention_mask", "position_ids"}),
    "optimum-half-throughout": ((2, 8, 8), 0, "float16", {"attention_mask", "position_ids"}),
    "optimum-merged": ((4, 8, 8), 0, "float32", {"attention_mask", "position_ids", "use_cache_branch"}),
    "optimum-mla": ((4, 12, 8), 0, "float32", {"attention_mask", "position_ids"}),
    "optimum-mqa": ((1, 8, 8), 0, "float32", {"attention_mask", "position_ids"}),
}


def repository() -> Path | None:
    """fixtures/bundles, found from this file; None outside the repository."""
    found = (parent / "fixtures" / "bundles" for parent in Path(__file__).resolve().parents)
    return next((folder for folder in found if folder.is_dir()), None)


def folders() -> Iterator[object]:
    """Every bundle to test, those of TQ_BUNDLES with the marker of their session."""
    own = repository()
    for folder in sorted(own.glob("*/")) if own else ():
        yield pytest.param(folder, id=folder.name)
    if os.environ.get("TQ_BUNDLES"):
        for folder in sorted(Path(os.environ["TQ_BUNDLES"]).iterdir()):
            yield pytest.param(folder, id=f"made-{folder.name}", marks=pytest.mark.exporters)
    if not own:
        yield pytest.param(None, marks=pytest.mark.skip(reason="fixtures/bundles is only in the repository"))


EVERY = pytest.mark.parametrize("folder", list(folders()))


def opened(folder: Path) -> Bundle:
    """The bundle; a skip for those that test_inspect proves to be refused."""
    if folder.name in REFUSED:
        pytest.skip("refused, as it should be")
    return _opened(folder)


@functools.cache
def _opened(folder: Path) -> Bundle:
    """Opened once for all tests, which change nothing in it."""
    return Bundle.open(folder, threads=1)


def ids_of(bundle: Bundle, batch: int, count: int) -> np.ndarray:
    known = min(bundle.signature.vocabulary or 32, 256)
    return np.random.default_rng(11).integers(0, known, (batch, count))


def tolerance(folder: Path) -> float:
    return 5e-3 if folder.name in HALF else 1e-3


def stepwise(runner: DecoderRunner, ids: np.ndarray) -> np.ndarray:
    return np.concatenate([runner.step(ids[:, i : i + 1]) for i in range(ids.shape[1])], axis=1)


@EVERY
def test_step_by_step_equals_one_full_forward(folder: Path) -> None:
    bundle = opened(folder)
    ids = ids_of(bundle, 2, 24)
    full = DecoderRunner(bundle, batch=2).step(ids)
    assert full.std() > 0.2, "logits are too flat to compare"
    np.testing.assert_allclose(stepwise(DecoderRunner(bundle, batch=2), ids), full, atol=tolerance(folder))
    chunked = DecoderRunner(bundle)
    found = np.concatenate([chunked.step(ids[:1, i : i + 7]) for i in range(0, 24, 7)], axis=1)
    np.testing.assert_allclose(found, full[:1], atol=tolerance(folder))
    prefilled = DecoderRunner(bundle, batch=2)
    np.testing.assert_allclose(prefilled.prefill(ids, chunk=7), full[:, -1], atol=tolerance(folder))


@EVERY
def test_quantized_steps_read_their_cache(folder: Path) -> None:
    bundle = opened(folder)
    ids = ids_of(bundle, 1, 24)
    exact = stepwise(DecoderRunner(bundle), ids)
    near, far, window = (
        np.abs(stepwise(DecoderRunner(bundle, policy), ids) - exact).max()
        for policy in ("k=mse8,v=mse8", "k=mse2,v=mse2", "k=mse2,v=mse2,window=24")
    )
    assert 0 < near < 0.1
    assert far > 4 * near
    assert window == 0


@EVERY
@pytest.mark.parametrize("policy", [None, "k=mse4,v=mse4,window=3"])
def test_padded_rows_equal_rows_alone(folder: Path, policy: str | None) -> None:
    bundle = opened(folder)
    ids = ids_of(bundle, 2, 20)
    mask = np.ones((2, 20), np.int64)
    mask[1, :6] = 0
    runner = DecoderRunner(bundle, policy, batch=2)
    if bundle.no_padding:
        with pytest.raises(UnsupportedBundle, match="rows of a batch must be of one length"):
            runner.step(ids, mask)
        assert runner.tokens == 0
        return
    found = np.concatenate([runner.step(ids[:, i : i + 5], mask[:, i : i + 5]) for i in range(0, 20, 5)], axis=1)
    assert runner.cached_values == 34 * bundle.signature.values_per_token
    # without position_ids a padded row has other positions: the same scores, yet other keys and so other codes
    close = 2e-4 if policy is None or "position_ids" in bundle.signature.optional else 0.3
    for row, pad in ((0, 0), (1, 6)):
        alone = DecoderRunner(bundle, policy)
        ends = sorted({max(0, end - pad) for end in range(0, 21, 5)})
        parts = [alone.step(ids[row : row + 1, pad:][:, a:b]) for a, b in itertools.pairwise(ends)]
        expected = np.concatenate(parts, axis=1)[0]
        np.testing.assert_allclose(found[row, pad:], expected, atol=max(close, folder.name in HALF and 2e-2))
        if policy is not None:
            assert runner.cache.lengths[row] == len(alone.cache) == 20 - pad


@EVERY
def test_inspect_says_which_modes_work_or_refuses_the_tensor(folder: Path, capsys) -> None:
    status = main(["inspect", str(folder), "--format", "json"])
    out, err = capsys.readouterr()
    if folder.name in REFUSED:
        assert (status, out) == (2, "")
        assert "input 'past_key_values.0.key'" in err
        assert REFUSED[folder.name] in err
        return
    data = json.loads(out)
    assert (status, err) == (0, "")
    assert {mode["mode"]: mode["works"] for mode in data["modes"]} == {
        "exact": True,
        "reconstruct": True,
        "fused": True,
    }
    if folder.name in FACTS and folder.parent == repository():
        form, states, dtype, takes = FACTS[folder.name]
        assert {(one["kv_heads"], one["key_dim"], one["value_dim"]) for one in data["caches"]} == {form}
        assert len(data["carried_states"]) == states
        assert data["cache_dtype"] == dtype
        assert set(data["optional_inputs"]) == takes
        assert data["context"] == 128


@EVERY
def test_evaluate_just_works(folder: Path, capsys, tmp_path, words) -> None:
    text = tmp_path / "text.txt"
    text.write_text(words)
    options = ["--tokens", "20", "--windows", "2", "--policy", "k=mse4,v=mse4", "--format", "json", "--quiet"]
    status = main(["evaluate", str(folder), "--text", str(text), *options])
    out, err = capsys.readouterr()
    if folder.name in REFUSED:
        assert (status, err.count("\n")) == (2, 1)
        return
    exact, row = json.loads(out)["rows"]
    assert (status, err) == (0, "")
    assert exact["kl_mean"] == 0
    assert 0 < row["kl_mean"] < 0.5


@pytest.mark.parametrize("policy", [None, "k=mse3,v=mse3,sinks=2,window=9"])
@pytest.mark.parametrize("name", ["genai-llama", "genai-lfm2"])
def test_past_grown_in_place_gives_the_same_bits_in_half_the_memory(monkeypatch, name: str, policy) -> None:
    own = repository()
    if own is None:
        pytest.skip("fixtures/bundles is only in the repository")
    bundle = Bundle.open(own / name)
    limits = bundle.file.grown_in_place
    assert set(limits.values()) == {128}, "rows of the operator's table of rotations"
    ids, runs = ids_of(bundle, 1, 128), []
    for chosen in (limits, {}):
        monkeypatch.setattr(bundle, "file", dataclasses.replace(bundle.file, grown_in_place=chosen))
        runner = DecoderRunner(bundle, policy)
        runs.append((runner.step(ids[:, :5]), stepwise(runner, ids[:, 5:]), runner.float_bytes))
    np.testing.assert_array_equal(runs[0][0], runs[1][0])
    np.testing.assert_array_equal(runs[0][1], runs[1][1])
    assert runs[0][2] == runs[1][2] // 2


def test_operator_that_drops_tokens_is_refused(tmp_path) -> None:
    own = repository()
    if own is None:
        pytest.skip("fixtures/bundles is only in the repository")
    folder = shutil.copytree(own / "genai-llama", tmp_path / "copy")
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    for node in model.graph.node:
        if node.op_type == "GroupQueryAttention":
            node.attribute.append(onnx.helper.make_attribute("sliding_window_cache", 1))
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(UnsupportedBundle, match=r"'past_key_values\.0\.key' cannot be compressed: its operator drops"):
        Bundle.open(folder)


def test_every_fixture_is_known() -> None:
    own = repository()
    if own is None:
        pytest.skip("fixtures/bundles is only in the repository")
    assert {folder.name for folder in own.glob("*/")} == set(FACTS) | set(REFUSED)


@pytest.mark.exporters
@EVERY
def test_exported_graph_computes_what_torch_computes(folder: Path) -> None:
    if not (folder / "reference.npz").exists() or folder.name in NOT_AS_TORCH:
        pytest.skip("no reference, or an exporter known to differ")
    bundle, reference = opened(folder), np.load(folder / "reference.npz")
    found = DecoderRunner(bundle).step(reference["ids"])
    np.testing.assert_allclose(found, reference["logits"], atol=2e-2 if folder.name in HALF else 1e-3)
