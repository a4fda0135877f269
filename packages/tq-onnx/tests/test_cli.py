"""The command line: results on standard output, one line on standard error for bad input, and the exit status."""

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import numpy_helper
from rich.console import Console

from tq_onnx import DecoderRunner
from tq_onnx.cli import main
from tq_onnx.delivery import read_utf8
from tq_onnx.progress import reporter

SMALL = ["--tokens", "24", "--windows", "3", "--score-from", "4"]
POLICIES = ["--policy", "k=mse4,v=mse4", "--policy", "balanced"]


@pytest.fixture
def folder(build, words) -> Path:
    folder = build()
    (folder / "validation.txt").write_text(words)
    return folder


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    """Exit status, standard output and standard error."""
    status = main(["evaluate", *map(str, arguments)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_default_survey_end_to_end(capsys, folder) -> None:
    status, out, err = run(capsys, folder, *SMALL)
    assert status == 0
    shown = [line.split()[0] for line in out.splitlines() if " reconstruct " in line]
    assert shown == [
        "k=mse8,v=mse8", "k=mse8,v=mse4", "k=mse4,v=mse4", "k=mse3,v=mse3", "k=mse2,v=mse2", "k=prod4,v=mse4",
        "k=mse4,v=mse4,sinks=4,window=128", "k=int8,v=int8", "k=int4,v=int4", "k=absmax8,v=absmax8",
        "k=absmax4,v=absmax4",
    ]  # fmt: skip
    assert "int and absmax rows are the yardsticks" in out
    for bits in (2, 3, 4):  # heads of 8 numbers are too short for a path of 1024 states
        assert f"k=trellis{bits},v=trellis{bits} was left out: a trellis of 1024 states needs dim * bits" in out
    assert "exact" in err
    assert "k=absmax4,v=absmax4" in err


def test_json_file_holds_what_is_printed(capsys, folder, tmp_path) -> None:
    target = tmp_path / "figures.json"
    status, out, err = run(
        capsys, folder, *SMALL, *POLICIES, "--format", "csv", "--json", target, "--seed", 1, "--seed", 2, "--quiet"
    )
    data, rows = json.loads(target.read_text()), list(csv.DictReader(io.StringIO(out)))
    assert (status, err) == (0, "")
    assert [row["policy"] for row in rows] == ["exact", "k=mse4,v=mse4", "k=mse4,v=mse4,sinks=4,window=128"]
    for printed, written in zip(rows, data["rows"], strict=True):
        assert float(printed["kl_mean"]) == written["kl_mean"]
    assert data["rows"][2]["asked"] == "balanced"
    assert data["command"].startswith("tq-onnx evaluate ")
    assert data["protocol"]["scored_tokens"] == 3 * 20
    assert data["bundle"]["layers"] == 2
    assert set(data["versions"]) >= {"python", "numpy", "onnxruntime", "tq-core", "tq-cache", "tq-onnx"}


@pytest.mark.parametrize("form", ["table", "json", "csv", "markdown"])
def test_output_takes_the_place_of_standard_output(capsys, folder, tmp_path, form: str) -> None:
    target = tmp_path / "result"
    target.write_text("old")
    status, out, _ = run(capsys, folder, *SMALL, *POLICIES[:2], "--format", form, "--output", target, "--quiet")
    assert (status, out) == (0, "")
    assert "k=mse4,v=mse4" in target.read_text()
    assert os.stat(target).st_mode & 0o777 == 0o666 & ~os.umask(os.umask(0o022) or 0o022)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_text_option_wins_over_the_bundle(capsys, folder, tmp_path) -> None:
    other = tmp_path / "other.txt"
    other.write_text("w3 " * 200)
    reports = []
    for extra in ([], ["--text", other]):
        _, out, _ = run(capsys, folder, *SMALL, *POLICIES[:2], "--format", "json", "--quiet", *extra)
        reports.append(json.loads(out))
    assert reports[0]["text"]["sha256"] != reports[1]["text"]["sha256"]
    assert reports[0]["rows"][0]["perplexity"] != reports[1]["rows"][0]["perplexity"]


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["--policy", "k=mse9,v=mse4"], "mse9"),
        (["--policy", "nonsense"], "expected name=value"),
        (["--tokens", "100"], "exceed the model's context of 64"),
        (["--windows", "60"], "has 600 tokens, 60 windows of 24 need 1440"),
        (["--windows", "0"], "Invalid value for '--windows'"),
        (["--mode", "exact"], "Invalid value for '--mode'"),
        (["--format", "xml"], "Invalid value for '--format'"),
        (["--variant", "q4"], "has no model_q4.onnx"),
        (["--variant", "../q4"], "variant must be letters"),
        (["--text", "absent.txt"], "absent.txt: No such file or directory"),
        (["--output", "absent/table.txt"], "lies in one that does not exist"),
        (["--json", "."], "is a folder"),
        (["--backend", "nope"], "backend 'nope' cannot run"),
        (["--nonsense"], "No such option"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(capsys, folder, monkeypatch, arguments: list[str], match: str) -> None:
    monkeypatch.setattr(DecoderRunner, "step", lambda *_: pytest.fail("a step ran"))
    status, out, err = run(capsys, folder, *SMALL, *arguments)
    assert (status, out) == (2, "")
    assert match in err
    assert err.startswith("tq-onnx: error: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("kind", ["pipe", "link to a pipe", "link"])
def test_what_is_no_plain_file_keeps_its_place(capsys, folder, tmp_path, kind: str) -> None:
    target = path = tmp_path / "target"
    reader = None
    if "pipe" in kind:
        os.mkfifo(target)
        reader = os.open(target, os.O_RDONLY | os.O_NONBLOCK)
    else:
        target.write_text("old")
    if "link" in kind:
        path = tmp_path / "link"
        path.symlink_to(target)
    before = os.lstat(path)
    status, out, _ = run(capsys, folder, *SMALL, *POLICIES[:2], "--output", path, "--quiet")
    assert (status, out) == (0, "")
    assert os.path.samestat(os.lstat(path), before)
    written = target.read_bytes() if reader is None else os.read(reader, 1 << 16)
    assert b"k=mse4,v=mse4" in written
    if reader is not None:
        os.close(reader)


@pytest.mark.skipif(not Path("/dev/stdout").is_symlink(), reason="this system has no link /dev/stdout")
def test_standard_output_by_its_name_gets_both_results_whole(folder, tmp_path) -> None:
    arguments = [*SMALL, *POLICIES[:2], "--format", "csv", "--json", "/dev/stdout", "--quiet"]
    with (tmp_path / "both").open("w") as file:
        subprocess.run([sys.executable, "-m", "tq_onnx", "evaluate", folder, *arguments], stdout=file, check=True)
    data, rest = json.JSONDecoder().raw_decode((tmp_path / "both").read_text())
    assert data["rows"][1]["policy"] == "k=mse4,v=mse4"
    assert len(list(csv.DictReader(io.StringIO((tmp_path / "both").read_text()[rest:].lstrip())))) == 2


def test_results_in_one_file_or_in_an_input_are_refused(capsys, folder, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(DecoderRunner, "step", lambda *_: pytest.fail("a step ran"))
    text = tmp_path / "text.txt"
    text.write_text((folder / "validation.txt").read_text())
    one = ["--output", tmp_path / "one", "--json", tmp_path / "." / "one"]
    for arguments, match in (
        (one, "two results would go into"),
        (["--text", text, "--json", text], "is one of the inputs"),
        (["--output", folder / "model.onnx"], "is one of the inputs"),
        (["--json", folder / "tokenizer.json"], "is one of the inputs"),
    ):
        before = {path: path.read_bytes() for path in (text, *folder.iterdir())}
        status, _, err = run(capsys, folder, *SMALL, *POLICIES[:2], *arguments)
        assert status == 2
        assert match in err
        assert {path: path.read_bytes() for path in (text, *folder.iterdir())} == before
    assert not (tmp_path / "one").exists()


def test_place_where_no_file_can_be_made_is_refused_before_the_work(capsys, folder, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(DecoderRunner, "step", lambda *_: pytest.fail("a step ran"))

    def denied(**_: object) -> None:
        raise PermissionError(13, "Permission denied", str(tmp_path))

    monkeypatch.setattr("tempfile.TemporaryFile", denied)
    status, _, err = run(capsys, folder, *SMALL, *POLICIES[:2], "--json", tmp_path / "figures.json")
    assert status == 2
    assert f"{tmp_path}: Permission denied" in err


@pytest.mark.parametrize("command", ["evaluate", "capture"])
def test_start_token_that_the_model_does_not_know_is_laid_to_the_configs(capsys, folder, command: str) -> None:
    config = json.loads((folder / "config.json").read_text()) | {"bos_token_id": 50256}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").unlink(missing_ok=True)
    output = ["--output", str(folder / "traces")] if command == "capture" else []
    assert main([command, str(folder), "--tokens", "24", "--windows", "3", *output]) == 2
    assert "bos_token_id is 50256, its model knows 32 tokens only" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["table", "json", "csv", "markdown"])
def test_logits_beyond_measure_have_no_perplexity(capsys, write, tiny_model, words, form: str) -> None:
    model = tiny_model()
    head = next(tensor for tensor in model.graph.initializer if tensor.name == "head")
    head.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(head) * np.float32(1e6), "head"))
    folder = write(model)
    (folder / "validation.txt").write_text(words)
    status, out, err = run(capsys, folder, *SMALL, *POLICIES, "--seed", 0, "--seed", 1, "--format", form, "--quiet")
    assert (status, err) == (0, "")
    if form == "json":
        assert [row["perplexity"] for row in json.loads(out)["rows"]] == [None] * 3


def test_lack_of_memory_is_no_bug(capsys, folder, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise MemoryError("Unable to allocate 60 GiB")

    monkeypatch.setattr(DecoderRunner, "step", full)
    status, out, err = run(capsys, folder, *SMALL, "--quiet")
    assert (status, out) == (2, "")
    assert err.startswith("tq-onnx: error: out of memory: Unable to allocate 60 GiB; ask for fewer")


@pytest.mark.parametrize(
    ("content", "match"),
    [(b"", "the text is empty"), (b"w1 w2", "the text has 2 tokens"), (b"\xff\xfe", "is not UTF-8 text")],
)
def test_bad_text_is_exit_2(capsys, folder, tmp_path, content: bytes, match: str) -> None:
    text = tmp_path / "text.txt"
    text.write_bytes(content)
    status, _, err = run(capsys, folder, *SMALL, "--text", text)
    assert status == 2
    assert match in err


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="this system has no /dev/zero")
def test_text_without_end_is_refused(capsys, folder, tmp_path) -> None:
    whole = tmp_path / "whole.txt"
    whole.write_text("w1 " * 200 + "\r\n")
    assert read_utf8(whole).endswith("w1 \n")
    status, _, err = run(capsys, folder, *SMALL, "--text", "/dev/zero")
    assert status == 2
    assert "/dev/zero has more than 33554432 characters" in err


def test_bundle_without_text_asks_for_one(capsys, build) -> None:
    status, _, err = run(capsys, build(), *SMALL)
    assert status == 2
    assert "has no validation.txt to measure on; pass --text FILE" in err


def test_missing_bundle_is_exit_2(capsys) -> None:
    status, _, err = run(capsys, "nowhere")
    assert status == 2
    assert "nowhere is not a folder" in err


def test_names_from_a_hostile_model_cannot_steer_the_terminal(capsys, write, tiny_model) -> None:
    model = tiny_model()
    model.graph.node[0].op_type = "Evil\x1b[2J"
    status, _, err = run(capsys, write(model), *SMALL)
    assert status == 2
    assert "\x1b" not in err


def test_bug_is_not_dressed_up_as_bad_input(folder, monkeypatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(DecoderRunner, "step", broken)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        main(["evaluate", str(folder), *SMALL, "--quiet"])


def test_failed_writing_leaves_the_old_file_and_no_other(capsys, folder, tmp_path, monkeypatch) -> None:
    target = tmp_path / "result"
    target.write_text("old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "result")

    monkeypatch.setattr("os.replace", full)
    status, _, err = run(capsys, folder, *SMALL, *POLICIES[:2], "--output", target, "--quiet")
    assert status == 2
    assert "result: No space left on device" in err
    assert target.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["result", "tiny"]


def test_interrupt_is_status_130(folder, monkeypatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(DecoderRunner, "step", interrupted)
    assert main(["evaluate", str(folder), *SMALL, "--quiet"]) == 130


def test_no_arguments_point_to_the_help(capsys) -> None:
    assert main([]) == 2
    assert capsys.readouterr().err == "tq-onnx: error: Missing command. (see tq-onnx --help)\n"


def test_help_has_examples(capsys) -> None:
    assert main(["evaluate", "--help"]) == 0
    out = capsys.readouterr().out
    assert "tq-onnx evaluate BUNDLE --text book.txt" in out
    assert "--policy" in out


def test_module_runs_as_the_command(folder) -> None:
    command = [sys.executable, "-m", "tq_onnx", "evaluate", folder, *SMALL, *POLICIES[:2], "--format", "json"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rows"][1]["policy"] == "k=mse4,v=mse4"
    assert "Traceback" not in done.stderr


def test_reader_that_goes_away_is_no_error(folder) -> None:
    command = [sys.executable, "-m", "tq_onnx", "evaluate", str(folder), *SMALL, *POLICIES[:2], "--quiet"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        err = process.stderr.read()
        assert process.wait(timeout=60) == 0
    assert err == ""


def test_terminal_gets_a_bar_that_names_what_runs(monkeypatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr("tq_onnx.progress.Console", lambda stderr: Console(file=screen, force_terminal=True, width=100))
    with reporter() as progress:
        progress(1, 10, "exact")
        progress(10, 10, "k=mse4,v=mse4")
    assert "k=mse4,v=mse4" in screen.getvalue()
