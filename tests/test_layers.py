"""Nothing reaches up or sideways: proved from the imports in every file and from the packages' metadata."""

import ast
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = ["tq-core", "tq-kernels-simd tq-kernels-gpu", "tq-cache", "tq-trace", "tq-onnx"]
RANK = {name: rank for rank, row in enumerate(LAYERS) for name in row.split()}
HERE = sorted(path.parent.name for path in ROOT.glob("packages/*/pyproject.toml"))
# distribution -> import name, where they differ
IMPORTS = {"mypy-extensions": "mypy_extensions"}


def _project(package):
    return tomllib.loads((ROOT / "packages" / package / "pyproject.toml").read_text())["project"]


def _name(requirement):
    return requirement.replace("[", ">").split(">")[0].split("=")[0].split("<")[0].strip()


def _imports(package):
    """Top-level names that the package's sources import, anywhere in a file."""
    found = set()
    for path in (ROOT / "packages" / package / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path} imports relatively"
                found.add(node.module.split(".")[0])
    return found


def test_every_package_has_a_layer_and_the_expected_layout():
    assert {"tq-core", "tq-cache", "tq-trace", "tq-onnx"} <= set(HERE) <= set(RANK)
    for package in HERE:
        folder = ROOT / "packages" / package
        module = package.replace("-", "_")
        for part in ("README.md", f"src/{module}/__init__.py", f"src/{module}/py.typed", "tests"):
            assert (folder / part).exists(), f"{package} lacks {part}"
        assert [path.name for path in (folder / "src").iterdir() if not path.name.endswith(".egg-info")] == [module]


@pytest.mark.parametrize("package", HERE)
def test_package_imports_only_lower_layers(package):
    siblings = {name.replace("-", "_"): name for name in RANK if name != package}
    reached = {siblings[name] for name in _imports(package) if name in siblings}
    upward = {other for other in reached if RANK[other] >= RANK[package]}
    assert not upward, f"{package} reaches up or sideways to {upward}"


@pytest.mark.parametrize("package", HERE)
def test_package_requires_only_lower_layers(package):
    project = _project(package)
    extras = project.get("optional-dependencies", {})
    for requirement in [*project["dependencies"], *(line for lines in extras.values() for line in lines)]:
        other = _name(requirement)
        if other in RANK:
            assert RANK[other] < RANK[package], f"{package} requires {other}"


@pytest.mark.parametrize("package", HERE)
def test_every_import_is_declared(package):
    declared = {IMPORTS.get(_name(line), _name(line).replace("-", "_")) for line in _project(package)["dependencies"]}
    known = declared | set(sys.stdlib_module_names) | {package.replace("-", "_")}
    build_only = {"mypyc", "setuptools"}
    undeclared = _imports(package) - known - build_only
    optional = {
        "ml_dtypes",
        "cupy",
        "torch",
        "transformers",
        "matplotlib",
        "faiss",
    }  # taken where they are installed, never required
    assert not undeclared - optional, f"{package} imports {undeclared - optional} without declaring it"


@pytest.mark.parametrize("package", HERE)
def test_every_declared_dependency_is_imported(package):
    declared = {IMPORTS.get(_name(line), _name(line).replace("-", "_")) for line in _project(package)["dependencies"]}
    siblings = {name.replace("-", "_") for name in RANK}  # an installer brings the layers below, used yet or not
    unused = declared - siblings - _imports(package)
    assert not unused, f"{package} declares {unused} and never imports it"
