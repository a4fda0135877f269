"""`import tq_core` stays small: nothing slow, nothing foreign, no random draw, no warning."""

import json
import subprocess
import sys

import pytest

import tq_core

LOOK = """
import json, sys
import numpy
before = set(sys.modules)
drawn = []
if "numpy.random" in sys.modules:
    state = numpy.random.get_state()[1].tolist()
import tq_core
if "numpy.random" in sys.modules and "numpy.random" in before:
    drawn = [state != numpy.random.get_state()[1].tolist()]
print(json.dumps({"new": sorted(set(sys.modules) - before), "all": sorted(sys.modules), "drawn": drawn}))
"""


@pytest.fixture(scope="module")
def modules():
    done = subprocess.run([sys.executable, "-W", "error", "-c", LOOK], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    "name", ["importlib.metadata", "onnxruntime", "onnx", "torch", "cupy", "scipy", "ml_dtypes", "tq_core.scalar"]
)
def test_import_does_not_pull_in(modules, name):
    assert not [module for module in modules["all"] if module == name or module.startswith(name + ".")]


def test_import_loads_neither_the_contract_suite_nor_the_golden_codes(modules):
    assert not {"tq_core.testing", "tq_core.golden", "tq_core.make_golden", "tq_core.make_tables"} & set(modules["all"])


def test_import_touches_no_library_generator(modules):
    assert "numpy.random" not in modules["new"]
    assert not any(modules["drawn"])


def test_imported_modules_are_ours_numpy_s_or_the_standard_library_s(modules):
    allowed = {"tq_core", "numpy", "librt", "mypy_extensions", "typing_extensions", *sys.stdlib_module_names}
    foreign = {name.split(".")[0] for name in modules["new"]} - allowed
    assert not {name for name in foreign if not name.endswith("__mypyc")}


def test_encoding_draws_nothing_from_numpy():
    look = (
        "import sys, numpy as np, tq_core\n"
        "codec = tq_core.VectorCodec(tq_core.TurboQuantProd(64, 3))\n"
        "codec.decode(codec.encode(np.ones((2, 64), 'f4')))\n"
        "sys.exit('numpy.random' in sys.modules)\n"
    )
    baseline = "import sys, numpy as np; sys.exit('numpy.random' in sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", baseline], check=False).returncode
    assert subprocess.run([sys.executable, "-c", look], check=False).returncode == loaded


def test_compiled_says_what_runs():
    from tq_core._prim import bits

    assert tq_core.COMPILED is not bits.__file__.endswith(".py")


def test_the_package_ships_its_types():
    from importlib.resources import files

    assert files("tq_core").joinpath("py.typed").is_file()
