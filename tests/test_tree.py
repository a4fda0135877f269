"""The tree holds what it should: nothing stray at the top, no stale binaries, fixtures frozen, no private paths."""

import hashlib
import json
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOP = {
    *("pyproject.toml", "uv.lock", "noxfile.py", "packages", "tests", "fixtures", "docs"),
    *("README.md", "LICENSE", "CHANGELOG.md"),
}


@pytest.fixture(scope="module")
def tracked():
    """Files that git tracks, or a skip where this is no checkout."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout: there is no list of tracked files")
    return [Path(name) for name in listed.stdout.decode().split("\0") if name]


def test_nothing_stray_at_the_top(tracked):
    names = {path.parts[0] for path in tracked}
    assert {name for name in names if not name.startswith(".")} == TOP


def test_no_binary_shadows_a_source_file():
    stale = [str(path) for pattern in ("*.so", "*.pyd") for path in ROOT.glob(f"packages/*/src/**/{pattern}")]
    assert not stale, f"compiled files win the import over edited sources; delete {stale}"


def test_fixtures_are_frozen(tracked):
    manifest = json.loads((ROOT / "fixtures/manifest.json").read_text())
    held = {
        path.as_posix()
        for path in tracked
        if path.parts[0] == "fixtures" and path.parts[1] in ("bundles", "golden", "models")
    }
    assert set(manifest["files"]) == held, "python fixtures/freeze.py writes the manifest anew"
    for name, digest in manifest["files"].items():
        assert hashlib.sha256((ROOT / name).read_bytes()).hexdigest() == digest, f"{name} was changed"


def test_the_model_fixture_stays_small():
    size = sum(path.stat().st_size for path in (ROOT / "fixtures/models").rglob("*") if path.is_file())
    assert size <= 10_000_000


def test_no_file_names_a_machine_or_a_package_index(tracked):
    words = ["/ro" + "ot/", "/wo" + "rk/", "/ho" + "me/", "/tm" + "p/", "pypi" + ".org", "python" + "hosted"]
    for path in tracked:
        if (
            path.name == "uv.lock"
            or path.suffix in (".onnx", ".onnx_data", ".data", ".tq")
            or path.parts[:2] == ("fixtures", "models")
        ):
            continue
        text = (ROOT / path).read_text()
        found = [word for word in words if word in text]
        assert not found, f"{path} holds {found}"
