"""`tq-trace inspect`: what it prints, where it writes, and that bad input is one line and exit 2."""

import csv
import io
import json
import os
import re
import subprocess
import sys
from dataclasses import asdict
from importlib.metadata import version

import numpy as np
import pytest
from click.testing import CliRunner

from tq_trace import KvTrace, TraceNotFound, cli, formats, measure
from tq_trace.document import FORMATS
from tq_trace.inspection import inspect_file

EVIL = "\x1b[2Jmodel|`x`\r\n[red]\u202e<script>"


def runner():
    """A runner that keeps standard error apart; click 8.1 had to be asked to."""
    try:
        return CliRunner(mix_stderr=False)
    except TypeError:
        return CliRunner()


@pytest.fixture
def run():
    def invoke(*arguments, **environment):
        return runner().invoke(cli.main, [str(argument) for argument in arguments], env=environment)

    return invoke


@pytest.fixture
def traces(tmp_path, arguments):
    """Two files: one plain, one by a stranger with an outlier channel and two dtypes."""
    KvTrace(**arguments).save(tmp_path / "first.safetensors")
    arguments |= {"model": EVIL, "head": 2, "suite": "many", "note": "n" * 200, "layer": 12}
    arguments["keys"] = arguments["keys"].astype(np.float16)
    arguments["keys"][..., 1] *= 50
    KvTrace(**arguments).save(tmp_path / "second.safetensors")
    return [tmp_path / "first.safetensors", tmp_path / "second.safetensors"]


def assert_refused(result, message):
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("tq-trace: error: ")
    assert result.stderr.count("\n") == 1
    assert message in result.stderr


def test_a_page_shows_every_trace_and_runs_nothing(run, traces):
    result = run("inspect", *traces, "--format", "html")
    assert result.exit_code == 0
    assert result.stdout.startswith("<!doctype html>")
    assert "<h1>tq-trace inspect</h1>" in result.stdout
    assert result.stdout.count("<tr>") == 3
    markdown = run("inspect", *traces, "--format", "markdown").stdout
    norms = [line.split(" | ")[11] for line in markdown.splitlines()[2:]]
    assert all(f"<td>{norm}</td>" in result.stdout for norm in norms)
    assert "<script" not in result.stdout
    assert "&lt;script&gt;" in result.stdout


def test_json_holds_the_numbers_of_the_library(run, traces):
    result = run("inspect", *traces, "--format", "json")
    assert result.exit_code == 0
    rows = json.loads(result.stdout)["rows"]
    assert [row["file"] for row in rows] == [str(path) for path in traces]
    for path, row in zip(traces, rows, strict=True):
        trace = KvTrace.load(path)
        found = json.loads(json.dumps(asdict(measure(trace))))
        assert (row["keys"], row["values"], row["norm_ratio"]) == (found["keys"], found["values"], found["norm_ratio"])
        assert row["dtypes"] == trace.dtypes
        assert row["disk_bytes"] == path.stat().st_size
        assert row["float16_bytes"] == 2 * (trace.keys.size + trace.values.size)
        for name in ("model", "benchmark", "suite", "layer", "head", "note", "tokens", "query_count", "head_dim"):
            assert row[name] == getattr(trace, name)
    assert [peak["index"] for peak in rows[1]["keys"]["outlier_channels"]] == [1]


def test_csv_has_one_line_a_file_with_the_numbers_of_json(run, traces):
    rows = json.loads(run("inspect", *traces, "--format", "json").stdout)["rows"]
    text = run("inspect", *traces, "--format", "csv").stdout
    assert len(text.splitlines()) == 3
    found = list(csv.DictReader(io.StringIO(text)))
    for row, line in zip(rows, found, strict=True):
        assert line["file"] == row["file"]
        assert line["layer"] == str(row["layer"])
        assert float(line["keys_norms_median"]) == row["keys"]["norms"]["median"]
        peaks = [peak.split(":") for peak in line["keys_largest"].split()]
        assert [(int(index), float(ratio)) for index, ratio in peaks] == [
            (peak["index"], peak["ratio"]) for peak in row["keys"]["largest"]
        ]
    assert found[0]["head"] == ""
    assert found[1]["head"] == "2"


def test_markdown_has_one_line_a_file_whatever_a_stranger_wrote(run, traces):
    lines = run("inspect", *traces, "--format", "markdown").stdout.splitlines()
    assert len(lines) == 4
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1
    assert "<" not in lines[3].replace("\\<", "")
    assert "float16" in lines[3]


@pytest.mark.parametrize("columns", [76, 80, 100, 120])
def test_table_fits_the_terminal_and_says_it_all(run, traces, columns, monkeypatch):
    monkeypatch.chdir(traces[0].parent)
    result = run("inspect", *(path.name for path in traces), COLUMNS=str(columns))
    assert result.exit_code == 0
    assert max(map(len, result.stdout.splitlines())) <= columns
    first, second = result.stdout.split("second.safetensors")
    assert "2 samples of 5 tokens, head_dim 4 (values 3), 2 queries each" in first
    assert "layer      12, head 2" in second
    assert "noise (suite many)" in second
    assert "keys float16, values float32, queries float32" in " ".join(second.split())
    outliers = next(line for line in second.splitlines() if "outlier channels" in line)
    assert outliers.split()[2].startswith("1:")
    assert outliers.split()[3] == "none"


@pytest.mark.parametrize("style", FORMATS)
def test_strings_of_a_stranger_never_steer_a_terminal(run, traces, style):
    text = run("inspect", traces[1], "--format", style, COLUMNS="120").stdout
    assert all(character.isprintable() or character == "\n" for character in text)
    assert "model" in text


@pytest.mark.parametrize("style", FORMATS)
def test_output_goes_to_the_file_and_nowhere_else(run, traces, tmp_path, style):
    printed = run("inspect", *traces, "--format", style, COLUMNS="120").stdout
    output = tmp_path / "out"
    output.write_text("before")
    result = run("inspect", *traces, "--format", style, "--output", output)
    assert (result.exit_code, result.output) == (0, "")
    assert output.read_bytes().decode() == printed


def test_colours_are_all_that_a_terminal_gets_beyond_the_table(traces):
    rows = [row for path in traces for row in inspect_file(path)]
    styled = formats.to_table(rows, 100, styled=True)
    without = re.sub(r"\x1b\[[0-9;]*m", "", styled)
    assert without != styled
    assert [line.rstrip() for line in without.splitlines()] == formats.to_table(rows, 100).splitlines()


def test_progress_is_drawn_for_people_who_wait(traces, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(cli, "QUIET_BYTES", 0)
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert cli._inspect_all(traces) == [row for path in traces for row in inspect_file(path)]
    assert "Reading" in sys.stderr.getvalue()


@pytest.mark.parametrize("style", FORMATS)
def test_an_error_in_one_file_writes_nothing(run, traces, tmp_path, style):
    broken = tmp_path / "broken"
    broken.write_bytes(traces[0].read_bytes()[:-1])
    output = tmp_path / "out"
    output.write_text("before")
    for extra in ([], ["--output", output]):
        assert_refused(run("inspect", traces[0], broken, traces[1], "--format", style, *extra), f"{broken}: tensors of")
    assert output.read_text() == "before"


def test_a_failing_write_leaves_the_old_output(run, traces, tmp_path, monkeypatch):
    output = tmp_path / "out"
    output.write_text("before")

    def refused(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", refused)
    assert_refused(run("inspect", traces[0], "--output", output), "No space left on device")
    assert output.read_text() == "before"
    assert sorted(os.listdir(tmp_path)) == ["first.safetensors", "out", "second.safetensors"]


def test_output_is_never_one_of_the_traces(run, traces, tmp_path):
    before = traces[1].read_bytes()
    (tmp_path / "link").symlink_to(traces[1])
    for output in (traces[1], tmp_path / "link"):
        assert_refused(run("inspect", *traces, "--output", output), "is one of the inputs")
    assert traces[1].read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing command. (see tq-trace --help)"),
        (["inspect"], "Missing argument 'FILE...'. (see tq-trace inspect --help)"),
        (["inspekt"], "inspekt"),
        (["inspect", "x", "--format", "pdf"], "'pdf' is not one of 'table', 'json', 'csv', 'markdown', 'html'"),
        (["inspect", "x", "--colour"], "--colour"),
        (["inspect", "nowhere"], "nowhere: no such file"),
        (["inspect", "."], ".: not a regular file"),
        (["inspect", "no\nwhere\x1b[2J"], "no where\\x1b[2J: no such file"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(arguments, message):
    assert_refused(runner().invoke(cli.main, arguments, prog_name="tq-trace"), message)


def test_output_into_a_missing_folder_is_refused(run, traces, tmp_path):
    assert_refused(run("inspect", traces[0], "--output", tmp_path / "nowhere" / "out"), "nowhere does not exist")


def test_a_bug_is_not_hidden(run, traces, monkeypatch):
    def broken(path):
        raise RuntimeError("a bug")

    monkeypatch.setattr(cli, "inspect_file", broken)
    result = run("inspect", traces[0])
    assert result.exit_code == 1
    assert isinstance(result.exception, RuntimeError)


def test_an_interrupt_exits_as_shells_report_it(run, traces, monkeypatch):
    def interrupted(path):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "inspect_file", interrupted)
    assert run("inspect", traces[0]).exit_code == 130


def test_called_from_python_errors_are_raised():
    with pytest.raises(TraceNotFound, match="nowhere: no such file"):
        cli.main(["inspect", "nowhere"], standalone_mode=False)


def test_help_shows_examples(run):
    result = run("inspect", "--help")
    assert result.exit_code == 0
    assert "tq-trace inspect traces/*.safetensors --format json --output facts.json" in result.stdout


def test_version(run):
    result = run("--version")
    assert (result.exit_code, result.stdout) == (0, f"tq-trace, version {version('tq-trace')}\n")


def child(*arguments, **options):
    """Run the command in a process of its own."""
    command = [sys.executable, "-m", "tq_trace", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, timeout=60, check=False, **options)


def test_a_child_process_prints_and_exits_0(traces):
    result = child("inspect", *traces, "--format", "json")
    assert (result.returncode, result.stderr) == (0, b"")
    assert len(json.loads(result.stdout)["rows"]) == 2


def test_a_child_process_exits_2_with_one_line_and_no_traceback(tmp_path):
    result = child("inspect", tmp_path / "nowhere")
    assert (result.returncode, result.stdout) == (2, b"")
    assert result.stderr.decode() == f"tq-trace: error: {tmp_path / 'nowhere'}: no such file\n"


def test_a_terminal_that_knows_only_ascii_gets_escapes(tmp_path, arguments):
    KvTrace(**arguments | {"model": "Größe"}).save(tmp_path / "t")
    result = child("inspect", tmp_path / "t", env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert result.returncode == 0
    assert b"Gr\\xf6\\xdfe" in result.stdout


def printing_to(stdout, trace, buffered):
    """Run inspect with its standard output there; Python holds output back unless it is told not to."""
    command = [sys.executable, "-m", "tq_trace", "inspect", str(trace)]
    environment = os.environ | {"PYTHONUNBUFFERED": "" if buffered else "1"}
    return subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, env=environment, timeout=60, check=False)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no full device")
@pytest.mark.parametrize("buffered", [True, False])
def test_standard_output_that_is_full_is_bad_input(traces, buffered):
    with open("/dev/full", "w") as full:
        result = printing_to(full, traces[0], buffered)
    assert result.returncode == 2
    assert result.stderr.startswith(b"tq-trace: error: standard output cannot be written")
    assert result.stderr.count(b"\n") == 1


@pytest.mark.parametrize("buffered", [True, False])
def test_a_reader_that_leaves_early_is_no_error(traces, buffered):
    reading, writing = os.pipe()
    os.close(reading)
    result = printing_to(writing, traces[0], buffered)
    os.close(writing)
    assert (result.returncode, result.stderr) == (0, b"")
