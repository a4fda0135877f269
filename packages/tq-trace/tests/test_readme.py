"""Every example of the README runs as it is printed."""

import json
import re
import shlex
from importlib.metadata import metadata
from pathlib import Path

import pytest
from click.testing import CliRunner

from tq_trace import KvTrace
from tq_trace.cli import main


def blocks(language):
    beside = Path(__file__).parents[1] / "README.md"
    text = beside.read_text() if beside.exists() else str(metadata("tq-trace").get_payload())
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def test_examples_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    python = blocks("python")
    assert len(python) == 4
    assert len(python[0].strip().splitlines()) <= 10
    names = {}
    for block in python:
        exec(block, names)
    assert "2 128 64 float16" in capsys.readouterr().out
    assert names["scores"].shape == (KvTrace.load("my-trace.safetensors").query_positions[1, 0] + 1,)
    commands = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("tq-trace ")]
    assert len(commands) == 6
    for command in commands:
        if "html" in command:
            pytest.importorskip("matplotlib", reason="pages need the extra tq-trace[report]")
        result = CliRunner().invoke(main, shlex.split(command)[1:])
        assert result.exit_code == 0, result.output
    assert Path("facts.json").exists()


def test_figures_are_those_of_the_committed_result():
    beside = Path(__file__).parents[1]
    result = beside / "bench" / "results" / "replay.json"
    if not result.exists():
        pytest.skip("the bench results are not beside an installed package")
    found = json.loads(result.read_text())
    assert found["shape"] == {"layers": 8, "heads": 8, "tokens": 4096, "queries": 64}
    assert found["bars"] == {"seconds": 60.0, "peak_mib": 2000.0}
    assert found["result"]["seconds"] < 60
    said = re.search(r"takes (\d+) s of CPU.*?and (\d+) MiB", (beside / "README.md").read_text(), re.DOTALL)
    assert [int(number) for number in said.groups()] == [
        round(found["result"]["cpu_seconds"]),
        round(found["result"]["peak_mib"]),
    ]
