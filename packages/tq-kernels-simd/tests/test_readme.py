"""The README's Python blocks run, in order, as one program, and its table has the levels of the source."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from children import in_child

PACKAGE = Path(__file__).parents[1]
README = PACKAGE / "README.md"


@pytest.fixture(scope="module")
def text():
    if not README.exists():
        pytest.skip("the tests were copied away from their README")
    return README.read_text()


def test_the_readme_runs(text):
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 2
    printed = in_child("\n".join(blocks))
    assert "simd 66000 bytes for 512000" in printed
    assert "auto resolves to 'simd'" in printed


def test_the_readme_has_a_row_for_every_level(text):
    source = PACKAGE / "csrc/select.c"
    if not source.exists():
        pytest.skip("the tests were copied away from the C source")
    levels = re.findall(r'\{"(\w+)", "', source.read_text())
    assert re.findall(r"^\| `(\w+)` \|", text.split("## Levels")[1].split("## Environment")[0], re.M) == levels


def test_the_tables_are_the_committed_figures(text):
    script = PACKAGE / "bench/summary.py"
    if not script.exists():
        pytest.skip("the tests were copied away from the committed figures")
    shown = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True).stdout
    for table in shown.split("\n\n"):
        assert table.strip() in text
