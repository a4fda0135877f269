"""Golden codes: committed files that every release reads back and writes again, byte for byte."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from tq_core import FORMAT_VERSION, Codes, Encoded, VectorCodec, from_spec, golden, make_golden
from tq_core.radix import RADICES

CASES = golden.cases()


@pytest.fixture(scope="module")
def golden_folder():
    """fixtures/golden of the repository above this file."""
    for parent in Path(__file__).resolve().parents:
        folder = parent / "fixtures" / "golden"
        if folder.is_dir():
            return folder
    pytest.skip("the golden files lie in the repository, and these tests run outside it")


def container(name):
    return Encoded if CASES[name]["kind"] == "codec" else Codes


@pytest.mark.parametrize("name", CASES)
def test_this_machine_writes_the_shipped_digests(name):
    assert hashlib.sha256(golden.encode(CASES[name])).hexdigest() == golden.digests()[name]


def test_cases_and_digests_are_the_same_set():
    assert set(golden.digests()) == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_this_machine_writes_the_committed_file(golden_folder, name):
    assert (golden_folder / f"v{FORMAT_VERSION}" / f"{name}.tq").read_bytes() == golden.encode(CASES[name])


@pytest.mark.parametrize("name", CASES)
def test_committed_files_read_back(golden_folder, name):
    data = (golden_folder / "v1" / f"{name}.tq").read_bytes()
    rows = container(name).from_bytes(data)
    assert rows.to_bytes() == data
    assert rows.spec == CASES[name]
    maker = from_spec(rows.spec)
    decoded = maker.decode(rows) if isinstance(maker, VectorCodec) else maker.dequantize(rows)
    x = golden.vectors(maker.dim)
    assert not decoded[7].any()  # the zero row
    error = np.linalg.norm(decoded - x, axis=1)[:7] / np.linalg.norm(x, axis=1)[:7]
    assert error.max() < 1.6  # one bit a coordinate, unbiased
    assert (np.einsum("ij,ij->i", decoded, x)[:7] > 0).all()


def test_every_committed_file_is_a_case(golden_folder):
    assert {path.stem for path in (golden_folder / "v1").glob("*")} == set(CASES)


def test_cases_cover_every_width_rule_sketch_and_kind_of_dimension():
    inner = [spec.get("quantizer", spec) for spec in CASES.values()]
    assert {spec["bits"] for spec in inner if spec["kind"] == "mse"} == {*range(1, 9), *RADICES}
    assert {spec["kind"] for spec in inner} == {"mse", "prod", "polar", "qjl", "trellis"}
    assert {spec["sketch"] for spec in inner if spec["kind"] == "prod"} == {"gaussian", "hadamard"}
    codecs = [spec for spec in CASES.values() if spec["kind"] == "codec"]
    assert {spec["scale"] for spec in codecs} == {"plain", "norm", "mse", "unbiased"}
    assert {spec["norm_dtype"] for spec in codecs} == {"float16", "float32"}
    assert any(spec["search"] for spec in codecs)
    assert {2, 3, 7, 20, 80, 96, 100, 128, 1536} <= {spec["dim"] for spec in inner}


def test_golden_inputs_come_from_the_project_s_own_stream():
    x = golden.vectors(64)
    assert x.shape == (8, 64)
    digest = hashlib.sha256(x.tobytes()).hexdigest()
    assert digest == "abf8973c98b31fe1eaec650acb214950e5753abf41873f70ea7be189975335fb"


def test_the_writer_writes_what_check_accepts(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(make_golden, "__file__", str(tmp_path / "make_golden.py"))
    (tmp_path / "data").mkdir()
    monkeypatch.setattr("sys.argv", ["make_golden", str(tmp_path / "golden")])
    assert make_golden.main() == 0
    monkeypatch.setattr("sys.argv", ["make_golden", str(tmp_path / "golden"), "--check"])
    assert make_golden.main() == 0
    assert f"{len(CASES)} golden files agree" in capsys.readouterr().out
    assert (tmp_path / "data" / "golden.json").exists()


def test_check_names_a_changed_and_a_missing_file(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "v1"
    folder.mkdir()
    for name, spec in CASES.items():
        (folder / f"{name}.tq").write_bytes(golden.encode(spec))
    (folder / "mse-2-2.tq").write_bytes(b"changed")
    (folder / "qjl-128.tq").unlink()
    monkeypatch.setattr("sys.argv", ["make_golden", str(tmp_path), "--check"])
    assert make_golden.main() == 1
    assert capsys.readouterr().out.split() == ["differs:", "mse-2-2", "differs:", "qjl-128"]


def test_mismatches_name_the_cases(monkeypatch):
    changed = {**golden.digests(), "mse-2-2": "0" * 64}
    del changed["mse-3-1"]
    monkeypatch.setattr(golden, "digests", lambda: changed)
    assert golden.mismatches("numpy") == ["mse-2-2", "mse-3-1"]
