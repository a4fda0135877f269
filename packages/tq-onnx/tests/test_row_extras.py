"""What evaluate measures where it is asked to: greedy text, several texts, peaks of memory, a page."""

import json
import subprocess

import numpy as np
import pytest

from tq_core import InvalidSpec
from tq_onnx import Bundle, DecoderRunner, StepFailed, evaluate, generate, peak_memory
from tq_onnx.free_running import agreement, continued
from tq_onnx.intervals import half_width

SMALL = {"tokens": 24, "windows": 4, "batch": 4, "score_from": 8}


def test_free_text_is_what_generate_writes(build, words) -> None:
    bundle = Bundle.open(build())
    prompts = np.array([bundle.encode(words)[:8], bundle.encode(words)[20:28]])
    found = continued(DecoderRunner(bundle, "k=mse2,v=mse2", batch=2), prompts, 5)
    for row, prompt in zip(found, prompts, strict=True):
        runner = DecoderRunner(bundle, "k=mse2,v=mse2")
        assert row.tolist() == list(generate(runner, prompt.tolist(), max_tokens=5, end_tokens=(), chunk=1))


def test_agreement_counts_places_and_finds_the_first_that_differs() -> None:
    exact = np.array([[1, 2, 3, 4], [1, 2, 3, 4]])
    assert agreement(exact, np.array([[1, 9, 3, 4], [1, 2, 3, 9]])) == {"token_match": 0.75, "free_divergence": 2.0}
    assert agreement(exact, exact) == {"token_match": 1.0, "free_divergence": None}


def test_free_running_rows_tell_match_and_divergence(build, words) -> None:
    bundle = Bundle.open(build())
    report = evaluate(bundle, ["k=float32,v=float32", "k=mse1,v=mse1"], text=words, free_tokens=12, **SMALL)
    exact, floats, one = report.rows
    assert exact["token_match"] == floats["token_match"] == 1.0
    assert one["token_match"] < 1.0
    assert one["free_divergence"] is not None
    assert report.columns[-2:] == ("token match", "free div.")
    assert report.protocol["free_tokens"] == 12


def test_free_tokens_that_exceed_the_context_are_refused(trained) -> None:
    with pytest.raises(InvalidSpec, match="500 free tokens behind prompts of 64 exceed the model's context of 512"):
        evaluate(
            Bundle.open(trained), ["k=mse4,v=mse4"], text=(trained / "validation.txt").read_text(), free_tokens=500
        )


def test_rows_of_several_texts_have_figures_of_each(build, words) -> None:
    bundle = Bundle.open(build())
    turned = " ".join(words.split()[::-1])
    both = evaluate(bundle, ["k=mse2,v=mse2"], text={"one": words, "two": turned}, **SMALL)
    alone = evaluate(bundle, ["k=mse2,v=mse2"], text=turned, **SMALL)
    row = both.rows[1]
    assert list(row.by_text) == ["one", "two"]
    assert row.by_text["two"]["kl_mean"] == pytest.approx(alone.rows[1]["kl_mean"], rel=1e-4)
    assert row["kl_mean"] == pytest.approx(np.mean([row.by_text[name]["kl_mean"] for name in ("one", "two")]))
    data = json.loads(both.to_json())
    assert [text["name"] for text in data["text"]["texts"]] == ["one", "two"]
    assert data["rows"][1]["by_text"]["two"]["scored_tokens"] == 64


def test_seeds_give_an_interval(build, words) -> None:
    row = evaluate(Bundle.open(build()), ["k=mse2,v=mse2"], text=words, seeds=(0, 1, 2), **SMALL).rows[1]
    values = [figures["kl_mean"] for figures in row.by_seed]
    half = half_width(values)
    assert row["kl_ci95"] == half > 0
    assert row.to_dict()["interval"]["kl_mean"] == pytest.approx([row["kl_mean"] - half, row["kl_mean"] + half])


def test_peak_memory_of_the_exact_cache_grows_with_what_it_holds(trained) -> None:
    bundle = Bundle.open(trained)
    ids = np.zeros((8, 300), np.int64)
    found = peak_memory.peak_memory(bundle, ids, None, "exact", threads=1)
    floats = 8 * 300 * 2 * 4 * 2 * 64 * 4  # sequences, tokens, sides, layers, heads, dim, bytes
    assert floats <= found["growth_bytes"] < found["peak_bytes"]
    fused = peak_memory.peak_memory(bundle, ids, "k=mse4,v=mse4", "fused", threads=1)
    assert fused["growth_bytes"] < floats


def test_memory_is_a_column_where_it_is_asked_for(build, words) -> None:
    report = evaluate(Bundle.open(build()), ["k=mse4,v=mse4"], text=words, memory=True, **SMALL)
    assert report.columns[-2:] == ("peak MiB", "growth MiB")
    assert all(row["peak_bytes"] > 10 << 20 for row in report.rows)


def test_no_module_of_the_working_directory_is_run(build, tmp_path, monkeypatch) -> None:
    bundle = Bundle.open(build())
    (tmp_path / "numpy.py").write_text("raise SystemExit('a module of the working directory was run')")
    monkeypatch.chdir(tmp_path)
    found = peak_memory.peak_memory(bundle, np.zeros((1, 4), np.int64), None, "exact")
    assert found["peak_bytes"] > 0


def test_the_child_has_the_threads_of_the_bundle(build, monkeypatch) -> None:
    tasks = []

    def seen(*_: object, **options: str) -> subprocess.CompletedProcess[str]:
        tasks.append(json.loads(options["input"]))
        return subprocess.CompletedProcess([], 0, "{}", "")

    monkeypatch.setattr("tq_onnx.peak_memory.subprocess.run", seen)
    bundle, ids = Bundle.open(build(), threads=3), np.zeros((1, 4), np.int64)
    peak_memory.peak_memory(bundle, ids, None, "exact")
    peak_memory.peak_memory(bundle, ids, None, "exact", threads=1)
    assert [task["threads"] for task in tasks] == [3, 1]


def test_a_child_that_fails_is_an_error_that_says_why(build, tmp_path) -> None:
    bundle = Bundle.open(build())
    with pytest.raises(
        StepFailed, match=r"the process that measures memory failed: .*token id 1000000 is not in the voc"
    ):
        peak_memory.peak_memory(bundle, np.full((1, 4), 10**6), None, "exact")


def test_memory_is_refused_before_the_work_where_it_cannot_be_told(build, words, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(peak_memory, "STATUS", tmp_path / "none")
    with pytest.raises(InvalidSpec, match="peak memory is read from Linux's"):
        evaluate(Bundle.open(build()), ["k=mse4,v=mse4"], text=words, memory=True, **SMALL)


def test_the_page_holds_the_table_the_pictures_and_nothing_of_elsewhere(build, words) -> None:
    pytest.importorskip("matplotlib", reason="pages need matplotlib (tq-onnx[report])")
    bundle = Bundle.open(build())
    policies = ["k=mse2,v=mse2", "k=int4,v=int4"]
    report = evaluate(bundle, policies, text={"a<b": words, "c": words}, seeds=(0, 1), **SMALL)
    page = report.render("html")
    for row in report.rows:
        for cell in row.cells(report.asked):
            assert f">{cell}</td>" in page
    assert page.count("<svg") == 1
    assert "KL mean by text" in page
    assert "a&lt;b" in page
    assert "<script" not in page
    assert 'src="http' not in page
