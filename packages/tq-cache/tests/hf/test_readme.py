"""The README's section on transformers runs, with a small model in the place of a real one."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="torch and transformers are not installed (nox session hf)")
pytest.importorskip("transformers", reason="torch and transformers are not installed (nox session hf)")

pytestmark = pytest.mark.hf
README = Path(__file__).parents[2] / "README.md"


def test_the_section_on_transformers_runs(model, prompt, capsys):
    if not README.exists():
        pytest.skip("the tests were copied away from their README")
    section = README.read_text().split("## With transformers")[1].split("\n## ")[0]
    blocks = re.findall(r"```py\n(.*?)```", section, re.DOTALL)
    assert len(blocks) >= 2
    ids = prompt()
    names = {"model": model, "inputs": {"input_ids": ids, "attention_mask": torch.ones_like(ids)}}
    exec(compile("\n".join(blocks), str(README), "exec"), names)
    assert "bits a value" in capsys.readouterr().out
    assert names["cache"].mode == "attend"


def test_a_missing_transformers_is_named_with_the_extra_that_brings_it():
    code = "import sys; sys.modules['transformers'] = None\nimport tq_cache.hf"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "MissingDependency: tq_cache.hf needs transformers 4.57 or later" in run.stderr
