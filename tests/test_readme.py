"""The README keeps its word: its commands land changes, its figures are the committed ones, its code runs."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_tests_are_one_command_and_it_is_what_lands_a_change():
    assert "\nuv run --all-packages nox\n" in README
    assert "\nuv run --all-packages nox\n" in (ROOT / ".ci/run").read_text()


def test_the_main_job_is_one_command():
    assert "pip install uv && uv run --all-packages tq-onnx evaluate fixtures/models/stdlib-llama\n" in README


def test_the_table_is_the_committed_result():
    table = (ROOT / "docs/results/stdlib-llama.md").read_text()
    rows = [line for line in table.splitlines() if line.startswith("|")]
    shown = [
        line for line in README.splitlines() if line.startswith(("| policy", "| --- | --- | ---:", "| exact", "| k="))
    ]
    assert shown == rows
    policies = [row["policy"] for row in json.loads((ROOT / "docs/results/stdlib-llama.json").read_text())["rows"]]
    assert [row.split(" | ")[0].removeprefix("| ") for row in rows[2:]] == policies


def test_the_code_runs(capsys):
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(compile(block, "README.md", "exec"), {})
    said = re.search(r"# (\d+ bytes instead of \d+)", block)
    assert capsys.readouterr().out.strip() == said[1]


PAGES = [
    page
    for pattern in ("*.md", "docs/**/*.md", "packages/*/README.md", "fixtures/**/*.md")
    for page in ROOT.glob(pattern)
]


@pytest.mark.parametrize("path", sorted(PAGES), ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#]+)", path.read_text()):
        if "://" not in target:
            assert (path.parent / target).exists(), f"{path.name} links to {target}"
