"""The README tells the truth: its examples run, its table is what the quantizers say."""

import json
import re
from pathlib import Path

import pytest

import tq_core

README = Path(__file__).resolve().parents[1] / "README.md"


def blocks() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", README.read_text("utf-8"), re.DOTALL | re.MULTILINE)


def rows() -> list[tuple[str, str, str, str]]:
    """Constructor, bits, bytes, error of each line of the quantizer table."""
    return re.findall(r"^\| `(\w+\(128[^`]*)` \| ([\d.]+) \| (\d+) \| ([\d.]+) \|", README.read_text("utf-8"), re.M)


def test_examples_run_in_order(capsys):
    """One reader, one session: later blocks use the names of earlier ones."""
    found = blocks()
    assert len(found) >= 5
    session: dict[str, object] = {}
    for number, block in enumerate(found, 1):
        exec(compile(block, f"README.md, block {number}", "exec"), session)
    assert "numpy" in capsys.readouterr().out


def test_table_lists_every_quantizer():
    assert {row[0].partition("(")[0] for row in rows()} == {
        *("TurboQuantMSE", "TurboQuantProd", "TrellisQuant", "PolarQuant", "QJL")
    }


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0])
def test_table_is_what_the_quantizers_say(row):
    constructor, bits, size, error = row
    quantizer = eval(constructor, vars(tq_core))  # a line of our own README
    name = type(quantizer).__name__
    digits = len(error.partition(".")[2])
    assert f"{quantizer.expected_mse:.{digits}f}" == error
    holder = quantizer if name == "QJL" else tq_core.VectorCodec(quantizer)
    assert holder.bits_per_vector == 8 * int(size)
    scalars = {"TurboQuantMSE": 16, "TurboQuantProd": 32, "TrellisQuant": 16, "PolarQuant": 16, "QJL": 32}[name]
    assert (holder.bits_per_vector - scalars) / 128 == float(bits)


def test_committed_figures_are_those_of_the_readme():
    """Each measured figure of the README is a rounding of what its result file holds."""
    results = README.parent / "bench" / "results"
    if not results.is_dir():
        pytest.skip("the tests were copied away from the committed results")
    text = " ".join(README.read_text("utf-8").split())
    compiled, imports, acceptance = (
        json.loads((results / f"{name}.json").read_text("utf-8")) for name in ("compiled", "import_time", "acceptance")
    )
    assert compiled["bars_met"]
    assert not acceptance["failed"]
    measured = {figure["what"]: figure["measured"] for figure in acceptance["figures"]}
    least, most = (measured[f"prod / rule unbiased, d*MSE, b={bits}"] for bits in (1, 4))
    plain, searched = measured["rule mse, d=128, b=4"], measured["rule mse, d=128, b=4, 9 scales"]
    worst = [100 * (measured[f"D / D(Haar), d={dim}, b=4, 2-sparse"] - 1) for dim in (64, 128)]
    small = 100 * (measured["D / D(Haar), d=16, b=4, one-hot"] - 1)
    for claim in (
        f"| {compiled['ratios']['row: interpreted / compiled']:.0f}x |",
        f"| {compiled['ratios']['backend: numpy / compiled']:.1f}x |",
        f"| {imports['beyond_numpy']:.0f} ms |",
        f"{least:.1f} (b = 1) to {most:.1f} (b = 4)",
        f"from {plain:.4f} to {searched:.4f}",
        f"within {small:.0f} % of the error of a Haar rotation at d = 16",
        f"at most {worst[0]:.0f} % above it for the worst inputs found, {worst[1]:.0f} % at d = 128",
    ):
        assert claim in text
