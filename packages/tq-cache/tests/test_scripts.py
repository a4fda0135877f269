"""The example and the bench run, and write what they print."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1]


def _run(script, *arguments):
    path = PACKAGE / script
    if not path.exists():
        pytest.skip("the tests were copied away from the package's scripts")
    command = [sys.executable, str(path), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_long_context_example_compares_two_processes(tmp_path):
    run = _run("examples/long_context.py", "--quick", "--json", tmp_path / "out.json")
    assert run.returncode == 0, run.stderr
    assert "2,048 tokens, 2 layers of 8 heads of 128 dims; k=mse4,v=mse4; 4 MiB of scratch memory" in run.stdout
    processes = json.loads((tmp_path / "out.json").read_text())["processes"]
    exact, coded = processes["float16"], processes["quantized"]
    assert exact["cache_bytes"] == 2 * 2 * 8 * 2048 * 128 * 2
    assert coded["cache_bytes"] == sum(coded["ledger"].values()) < 0.28 * exact["cache_bytes"]
    assert 0.05 < coded["output_error"] < 0.4  # both attended to the same tokens, one of them at 4 bits
    assert all(processes[name]["peak_bytes"] > processes["imports"]["peak_bytes"] for name in ("float16", "quantized"))


def test_the_long_context_example_with_exact_stores_has_exact_outputs(tmp_path):
    options = ["--tokens", 700, "--layers", 1, "--policy", "k=float16,v=float16", "--json", tmp_path / "out.json"]
    assert _run("examples/long_context.py", *options).returncode == 0
    assert json.loads((tmp_path / "out.json").read_text())["processes"]["quantized"]["output_error"] < 1e-5


def test_the_long_context_example_refuses_no_tokens():
    run = _run("examples/long_context.py", "--tokens", 0)
    assert run.returncode == 2
    assert "--tokens, --layers and --workspace-mib are 1 or more" in run.stderr


def test_the_attention_bench_attends_to_the_same_numbers(tmp_path):
    run = _run("bench/attention.py", "--tokens", 1024, "--turns", 2, "--json", tmp_path / "out.json")
    assert run.returncode == 0, run.stderr
    document = json.loads((tmp_path / "out.json").read_text())
    (step,) = document["steps"]
    assert step["largest_difference"] < 1e-5
    assert [line["tokens"] for line in document["append"]] == [1024]
    assert all(step[name]["ms"] > 0 for name in ("append", "attend", "float32_attend"))
