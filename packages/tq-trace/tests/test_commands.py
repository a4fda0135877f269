"""The commands that make, replay, advise, compare and benchmark: what they print, and bad input as one line, exit 2."""

import csv
import io
import json
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
import safetensors.numpy
from click.testing import CliRunner

from tq_trace import KvTrace, Report, TraceSet, cli, progress, surface
from tq_trace import commands as commands_module

EVIL = "\x1b[2Jmodel|`x`\n[red]\u202e<script>alert(1)</script>"
QUICK = ("--no-baselines", "--no-times", "--policy", "k=mse4,v=mse4")


def runner():
    """A runner that keeps standard error apart; click 8.1 had to be asked to."""
    try:
        return CliRunner(mix_stderr=False)
    except TypeError:
        return CliRunner()


def run(*arguments):
    return runner().invoke(cli.main, [str(argument) for argument in arguments])


def assert_refused(result, message):
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("tq-trace: error: ")
    assert result.stderr.count("\n") == 1
    assert message in result.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """made.safetensors: a small synthetic trace; a.json, b.json: replays of it; evil: a stranger's strings."""
    folder = tmp_path_factory.mktemp("commands")
    shape = ("--layers", 2, "--heads", 2, "--tokens", 160, "--queries", 10, "--knob", "head_dim=32")
    made = run("synthetic", *shape, "--knob", "query_groups=1", "--seed", 3, "--output", folder / "made.safetensors")
    assert made.exit_code == 0, made.output
    for name, policy in (("a", "k=mse4,v=mse4"), ("b", "k=mse4,v=mse4,window=32")):
        command = ("--format", "json", "--output", folder / f"{name}.json", "--policy", policy)
        assert run("replay", folder / "made.safetensors", *QUICK, *command).exit_code == 0
    random = np.random.default_rng(0)
    tokens = random.standard_normal((3, 1, 9, 8)).astype(np.float16)
    KvTrace(*tokens, np.arange(9)[None], model=EVIL, benchmark=EVIL, layer=0, head=0, note=EVIL).save(folder / "evil")
    return folder


def test_synthetic_writes_a_trace_that_says_what_it_is(folder):
    traces = TraceSet.open(folder / "made.safetensors")
    assert traces.places == ((0, 0), (0, 1), (1, 0), (1, 1))
    assert traces[0, 0].keys.shape == (1, 160, 32)
    assert traces[0, 0].query_count == 10
    assert traces.suite == "synthetic"
    assert "head_dim=32" in traces[0, 0].metadata.extra["knobs"]


def test_synthetic_replaces_nothing_unless_told_to(folder, tmp_path):
    shape = ("--model", "isotropic", "--layers", 1, "--heads", 1, "--tokens", 8, "--queries", 2)
    path = tmp_path / "t"
    assert run("synthetic", *shape, "--output", path).exit_code == 0
    assert_refused(
        run("synthetic", *shape, "--output", path), "already exists; choose another name, or pass --overwrite"
    )
    assert run("synthetic", *shape, "--output", path, "--overwrite").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--knob", "loudness=3"), "no knob is called 'loudness'"),
        (("--knob", "key_mean"), "a knob reads NAME=VALUE, got 'key_mean'"),
        (("--knob", "key_mean=much"), "key_mean is a number"),
        (("--model", "gpt-9"), "'gpt-9' is not one of"),
        (("--tokens", "0"), "0 is not in the range"),
        (("--tokens", "9999999", "--queries", "1"), "ask for fewer layers or tokens"),
        (("--seed", str(1 << 64)), "seed is a whole number"),
    ],
)
def test_a_workload_that_cannot_be_is_one_line_and_exit_2(tmp_path, arguments, message):
    assert_refused(run("synthetic", *arguments, "--output", tmp_path / "t"), message)
    assert not (tmp_path / "t").exists()


def test_json_is_the_report_and_two_runs_are_the_same(folder):
    first, second = (run("replay", folder / "made.safetensors", *QUICK, "--format", "json").stdout for _ in range(2))
    assert first == second
    assert Report.from_dict(json.loads(first)).row("k=mse4,v=mse4").kind == "policy"


def test_times_stand_in_a_section_of_their_own(folder):
    timed = json.loads(run("replay", folder / "made.safetensors", *QUICK, "--times", "--format", "json").stdout)
    plain = json.loads(run("replay", folder / "made.safetensors", *QUICK, "--format", "json").stdout)
    assert timed.pop("times")["rows"]["k=mse4,v=mse4"]["encode_ns"] > 0
    assert plain.pop("times") == {}
    assert timed == plain


def test_csv_holds_the_figures_of_json(folder):
    text = run("replay", folder / "made.safetensors", *QUICK, "--format", "csv").stdout
    report = json.loads(run("replay", folder / "made.safetensors", *QUICK, "--format", "json").stdout)
    lines = list(csv.DictReader(io.StringIO(text)))
    for line, row in zip(lines, report["rows"], strict=True):
        assert line["policy"] == row["policy"]
        assert float(line["kl_mean"]) == row["figures"]["kl_mean"]
        assert float(line["score_bias"]) == row["figures"]["score_bias"]
        assert int(line["cache_bytes"]) == row["cache_bytes"]
    assert lines[0]["first_divergence"] == ""


@pytest.mark.parametrize("style", ["table", "markdown"])
def test_losing_rows_are_shown_beside_the_others(folder, style):
    text = run("replay", folder / "made.safetensors", "--no-times", "--format", style).stdout
    for name in ("exact", "k=mse8,v=mse4", "k=int4,v=int4", "kivi2", "k=prod4,v=mse4"):
        assert name in text
    assert text.startswith("synthetic trace: llama-3-8b")


def test_several_files_are_one_trace(folder, tmp_path):
    traces = TraceSet.open(folder / "made.safetensors")
    for number, trace in enumerate(traces):
        trace.save(tmp_path / f"{number}.st")
    apart = run("replay", *sorted(tmp_path.iterdir()), *QUICK, "--format", "json").stdout
    together = run("replay", folder / "made.safetensors", *QUICK, "--format", "json").stdout
    assert apart == together


def test_advise_names_a_policy_and_its_proof(folder):
    result = run("advise", folder / "made.safetensors", "--budget-bits", 5, "--no-times", "--format", "json")
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert found["proof"]["rows"][1]["policy"] == found["policy"]
    assert found["goal"] == f"within {5 * 2 * 4 * 160 * 32 // 8:,} bytes"
    assert any(point["on_frontier"] for point in found["searched"])


def test_compare_shows_the_control_first(folder):
    text = run("compare", folder / "a.json", folder / "b.json", "--format", "json").stdout
    found = json.loads(text)
    assert found["changes"][0]["is_control"]
    assert found["is_clean"]
    assert found["changes"][1]["policy"] == "k=mse4,v=mse4"
    table = run("compare", folder / "a.json", folder / "b.json").stdout
    assert "exact (control)" in table
    assert "Only after: k=mse4,v=mse4,window=32." in table


def test_bench_prints_distortion_beside_theory(monkeypatch):
    monkeypatch.setattr(surface, "QUICK", surface.Size((16,), (4,), 32, 2))
    result = run("bench", "--quick", "--backend", "numpy", "--format", "csv")
    lines = list(csv.DictReader(io.StringIO(result.stdout)))
    assert lines[0]["quantizer"] == "TurboQuantMSE"
    assert float(lines[0]["mse"]) == pytest.approx(float(lines[0]["theory"]), rel=0.3)


HOSTILE = {
    "wrong rank": ({"keys": np.ones((3, 2), np.float32)}, "keys has shape [3, 2], expected 3 axes"),
    "negative position": ({"query_positions": np.array([[-1]])}, "query_positions[0, 0] is -1, expected 0..2"),
    "position out of range": ({"query_positions": np.array([[3]])}, "query_positions[0, 0] is 3, expected 0..2"),
    "positions no integers": ({"query_positions": np.zeros((1, 1))}, "query_positions has dtype 'F64'"),
    "NaN": ({"values": np.full((1, 3, 2), np.nan, np.float32)}, "values[0, 0, 0] is nan"),
    "missing tensor": ({"queries": None}, "missing: ['queries']"),
}


def hostile(changes):
    plain = {
        "keys": np.ones((1, 3, 2), np.float32),
        "values": np.ones((1, 3, 2), np.float32),
        "queries": np.ones((1, 1, 2), np.float32),
        "query_positions": np.zeros((1, 1), np.int64),
    }
    tensors = {name: array for name, array in (plain | changes).items() if array is not None}
    return safetensors.numpy.save(tensors, {"model": "m", "benchmark": "b", "layer": "0"})


@pytest.mark.parametrize("command", [("inspect",), ("replay", "--no-times"), ("advise", "--max-kl", "0.1")])
@pytest.mark.parametrize("case", HOSTILE)
def test_malformed_traces_are_one_line_and_exit_2(tmp_path, command, case):
    changes, message = HOSTILE[case]
    (tmp_path / "bad").write_bytes(hostile(changes))
    assert_refused(run(command[0], tmp_path / "bad", *command[1:]), message)


@pytest.mark.parametrize("command", [("inspect",), ("replay", "--no-times"), ("advise", "--max-kl", "0.1")])
@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda data: data[:-3], "announced"),
        (lambda data: data + b"xyz", "announced"),
        (lambda data: data.replace(b'"shape":[1,3,2]', b'"shape":[1,2,3]', 1), "values have shape"),
        (lambda data: data.replace(b'"data_offsets":[8,', b'"data_offsets":[0,', 1), "not a valid safetensors file"),
        (lambda data: b"\xff" * 8 + data[8:], "header of 18446744073709551615 bytes"),
        (lambda data: b"", "0 bytes are too few"),
    ],
)
def test_headers_that_lie_are_one_line_and_exit_2(tmp_path, command, edit, message):
    data = hostile({})
    assert edit(data) != data
    (tmp_path / "bad").write_bytes(edit(data))
    assert_refused(run(command[0], tmp_path / "bad", *command[1:]), message)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("replay", "nowhere"), "nowhere: no such file"),
        (("replay",), "Missing argument 'FILE...'"),
        (("replay", "made.safetensors", "--policy", "k=mse4"), "v=... is missing"),
        (("replay", "made.safetensors", "--policy", "k=mse4,v=mse4,boundary=9@8"), "the model has 2"),
        (("replay", "made.safetensors", "--policy", "faiss-sq5"), "faiss"),
        (("replay", "made.safetensors", "--backend", "abacus"), "abacus"),
        (("replay", "made.safetensors", "made.safetensors"), "layer 0 head 0 is given twice"),
        (("replay", "made.safetensors", "evil"), "agree in their model"),
        (("replay", "made.safetensors", "--output", "made.safetensors"), "is one of the inputs"),
        (("advise", "made.safetensors"), "give one of --budget-bytes, --budget-bits and --max-kl"),
        (("advise", "made.safetensors", "--max-kl", "-1"), "max_kl is a number above 0"),
        (("advise", "made.safetensors", "--budget-bits", "nan"), "--budget-bits lies above 0"),
        (("advise", "made.safetensors", "--budget-bytes", "99"), "no policy holds this trace in 99 bytes"),
        (("compare", "a.json", "nowhere"), "nowhere: no such file"),
        (("compare", "a.json", "made.safetensors"), "made.safetensors: not"),
        (("compare", "a.json", "b.json", "--output", "a.json"), "is one of the inputs"),
        (("bench", "--backend", "abacus"), "abacus"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(folder, monkeypatch, arguments, message):
    monkeypatch.chdir(folder)
    assert_refused(run(*arguments), message)


@pytest.mark.parametrize(
    ("output", "message"),
    [("none/report.json", "the folder none does not exist; create it first"), (".", "is a folder")],
)
def test_an_output_that_cannot_be_is_refused_before_the_work(folder, monkeypatch, output, message):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(commands_module, "reporter", None)  # what a run needs first
    assert_refused(run("replay", "made.safetensors", *QUICK, "--output", output), message)
    assert_refused(run("inspect", "made.safetensors", "--output", output), message)


def test_pages_without_plots_need_no_library(folder, monkeypatch):
    import sys

    report = folder / "plain.json"
    assert run("replay", folder / "made.safetensors", *QUICK, "--format", "json", "--output", report).exit_code == 0
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "tq_trace.plots", raising=False)
    for arguments in (("compare", report, report), ("inspect", folder / "made.safetensors")):
        result = run(*arguments, "--format", "html")
        assert result.exit_code == 0
        assert "</html>" in result.stdout


def test_a_page_without_its_library_is_refused_before_the_work(folder, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "tq_trace.plots", raising=False)
    monkeypatch.setattr(commands_module, "reporter", None)
    result = run("replay", folder / "made.safetensors", *QUICK, "--format", "html")
    assert_refused(result, "pip install 'tq-trace[report]'")


def test_progress_is_drawn_on_a_terminal_and_nowhere_else(monkeypatch):
    import sys

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    with progress.reporter() as tell:
        tell(1, 2, "layer 7")
    assert "layer 7" in sys.stderr.getvalue()
    with progress.reporter(quiet=True) as tell:
        assert tell is None
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with progress.reporter() as tell:
        assert tell is None


@pytest.mark.parametrize("name", ["synthetic", "replay", "advise", "compare", "bench", "inspect"])
def test_help_shows_examples(name):
    result = run(name, "--help")
    assert result.exit_code == 0
    assert f"tq-trace {name}" in result.stdout.split("Examples:")[1]


@pytest.mark.parametrize("style", ["table", "json", "csv", "markdown", "html"])
def test_strings_of_a_stranger_steer_nothing(folder, style):
    if style == "html":
        pytest.importorskip("matplotlib", reason="pages need the extra tq-trace[report]")
    result = run("replay", folder / "evil", *QUICK, "--format", style)
    assert result.exit_code == 0, result.output
    assert all(character.isprintable() or character == "\n" for character in result.stdout)
    assert "<script" not in result.stdout.lower().replace("\\<", "") or style in ("json", "table", "csv")
    if style == "markdown":
        assert "\\[red\\]" in result.stdout


class Page(HTMLParser):
    """What a page holds and would fetch."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.fetched = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        for name, value in attributes:
            local = value is None or value.startswith(("#", "data:"))
            if name in ("src", "href", "xlink:href", "action", "srcset") and not local:
                self.fetched.append(value)


@pytest.fixture(scope="module")
def page(folder):
    pytest.importorskip("matplotlib", reason="pages need the extra tq-trace[report]")
    output = folder / "report.html"
    policies = [part for policy in ("balanced", "k=mse2,v=mse2") for part in ("--policy", policy)]
    result = run("replay", folder / "made.safetensors", "--times", *policies, "--format", "html", "--output", output)
    assert (result.exit_code, result.output) == (0, "")
    return output


def test_the_page_is_one_file_with_plots_and_no_script(page):
    text = page.read_text("utf-8")
    found = Page(text)
    assert found.fetched == []
    assert "script" not in found.tags
    assert found.tags.count("figure") == found.tags.count("svg") == 4
    assert found.tags.count("table") == 3
    for words in (
        "Error against bytes",
        "Layers by heads",
        "Error along tokens",
        "Who is to blame",
        "How to read this",
    ):
        assert words in text


def test_two_pages_of_the_same_replay_are_the_same(folder):
    pytest.importorskip("matplotlib", reason="pages need the extra tq-trace[report]")
    first, second = (run("replay", folder / "evil", *QUICK, "--format", "html").stdout for _ in range(2))
    assert "<svg" in first
    assert first == second


def test_advice_as_a_page_has_its_frontier(folder):
    pytest.importorskip("matplotlib", reason="pages need the extra tq-trace[report]")
    result = run("advise", folder / "made.safetensors", "--max-kl", "0.05", "--no-times", "--format", "html")
    assert result.exit_code == 0
    assert "Output error against bytes of every policy" in result.stdout


def test_a_browser_draws_the_page(page, tmp_path):
    """The heat maps are seen: somewhere below the tables the colours of their scale are drawn."""
    browser = next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
    )
    if browser is None:
        pytest.skip("no chromium here to draw the page with")
    image = pytest.importorskip("matplotlib.image", reason="pages need the extra tq-trace[report]")
    picture = tmp_path / "page.png"
    command = (browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1280,3000")
    folder = f"--user-data-dir={tmp_path / 'profile'}"
    subprocess.run(
        [*command, folder, f"--screenshot={picture}", page.as_uri()], capture_output=True, timeout=120, check=True
    )
    pixels = image.imread(picture)[..., :3]
    assert pixels.shape[:2] == (3000, 1280)
    for colour in ((0.267, 0.005, 0.329), (0.993, 0.906, 0.144)):  # both ends of viridis
        assert (np.abs(pixels - np.array(colour)).max(axis=2) < 0.03).sum() > 500
    assert (np.abs(pixels - np.array((0.106, 0.424, 0.659))).max(axis=2) < 0.03).sum() > 200  # points and bars
