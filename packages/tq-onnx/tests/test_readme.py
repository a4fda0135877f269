"""The README keeps its word: its Python runs, its commands parse, its table is the committed JSON file's."""

import json
import re
import shlex
from pathlib import Path

import pytest

from tq_onnx.cli import cli
from tq_onnx.rows import COLUMNS, Row

README = Path(__file__).parents[1] / "README.md"


@pytest.fixture(scope="module")
def text() -> str:
    if not README.exists():
        pytest.skip("the tests were copied away from their README")
    return README.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def committed(trained: Path) -> Path:
    """The folder of committed results, two levels above the models."""
    return trained.parents[2] / "docs" / "results"


def printed(text: str) -> list[list[str]]:
    """Cells of the first table that has a column for KL."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    start = next(number for number, line in enumerate(lines) if "KL mean" in line)
    rows = [line.strip("| ").split(" | ") for line in lines[start:]]
    return [row for row in rows if len(row) == len(COLUMNS) and row[0] not in ("---", "policy")]


@pytest.mark.parametrize("place", ["README", "stdlib-llama.md"])
def test_table_shows_the_figures_of_the_json_file(text, committed, place: str) -> None:
    shown = text if place == "README" else (committed / place).read_text(encoding="utf-8")
    data = json.loads((committed / "stdlib-llama.json").read_text(encoding="utf-8"))
    cells = [Row("", row["policy"], row["mode"], row, {}, [], []).cells() for row in data["rows"]]
    assert len(cells) == 15
    assert printed(shown) == cells


@pytest.mark.parametrize("model", ["stdlib-llama", "stdlib-qwen2"])
@pytest.mark.parametrize("table", ["options", "recall", "fused"])
def test_every_further_table_shows_its_json_file_and_names_its_command(committed, table: str, model: str) -> None:
    data = json.loads((committed / f"{table}-{model}.json").read_text(encoding="utf-8"))
    lines = (committed / f"{table}-{model}.md").read_text(encoding="utf-8").splitlines()
    titles = next(line for line in lines if "KL mean" in line).strip("| ").split(" | ")
    shown = [line.strip("| ").split(" | ") for line in lines if line.startswith(("| k=", "| exact"))]
    asked = titles[len(COLUMNS) :]
    assert shown == [Row("", row["policy"], row["mode"], row, {}, [], []).cells(asked) for row in data["rows"]]
    words = shlex.split(data["command"])
    context = cli.commands["evaluate"].make_context("evaluate", words[2:])
    assert context.params["bundle"].name == model == data["bundle"]["name"]
    assert list(context.params["policies"]) == [row["asked"] for row in data["rows"][1:]]


def test_committed_figures_were_made_by_the_command_they_name(committed) -> None:
    data = json.loads((committed / "stdlib-llama.json").read_text(encoding="utf-8"))
    words = shlex.split(data["command"])
    assert words[:2] == ["tq-onnx", "evaluate"]
    context = cli.commands["evaluate"].make_context("evaluate", words[2:])
    assert list(context.params["seeds"]) == data["protocol"]["seeds"]
    assert context.params["policies"] == ()


def test_python_of_the_readme_runs(text, trained: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(trained.parents[2])
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 4
    exec(compile("\n".join(blocks), str(README), "exec"), {})
    out = capsys.readouterr().out
    assert out.startswith("2 64 512\n")
    assert "total" in out


def test_commands_of_the_readme_parse(text) -> None:
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    commands = [shlex.split(line) for line in "".join(blocks).splitlines() if line.startswith("tq-onnx ")]
    assert len(commands) == 12
    for _, name, *arguments in commands:
        assert cli.commands[name].make_context(name, arguments).params["bundle"]
