"""The README's Python blocks run, in order, as one program."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"


def test_the_readme_runs(capsys):
    if not README.exists():
        pytest.skip("the tests were copied away from their README")
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(blocks) >= 3
    exec(compile("\n".join(blocks), str(README), "exec"), {})
    assert "ratio" in capsys.readouterr().out
