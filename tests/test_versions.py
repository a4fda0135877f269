"""All packages share one version, and every bound on a sibling admits it and no other minor version."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECTS = {
    path.parent.name: tomllib.loads(path.read_text())["project"]
    for path in sorted(ROOT.glob("packages/*/pyproject.toml"))
}
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


@pytest.mark.parametrize("package", PROJECTS)
def test_versions_are_in_lockstep(package):
    assert PROJECTS[package]["name"] == package
    assert PROJECTS[package]["version"] == VERSION


@pytest.mark.parametrize("package", PROJECTS)
def test_sibling_bounds_admit_this_version_and_no_other_minor(package):
    major, minor, _ = VERSION.split(".")
    for requirement in PROJECTS[package]["dependencies"]:
        name = re.split(r"[\[<>=~! ]", requirement)[0]
        if name in PROJECTS:
            assert requirement == f"{name}>={major}.{minor},<{major}.{int(minor) + 1}"


@pytest.mark.parametrize("package", PROJECTS)
def test_packages_state_what_an_installer_needs(package):
    project = PROJECTS[package]
    assert project["requires-python"] == ">=3.11"
    assert project["license"] == "MIT"
    assert project["readme"] == "README.md"
    assert len((ROOT / "packages" / package / "README.md").read_text().splitlines()) > 20


def test_the_changelog_has_this_version():
    assert f"## {VERSION}" in (ROOT / "CHANGELOG.md").read_text()
