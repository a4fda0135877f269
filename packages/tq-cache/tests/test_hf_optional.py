"""torch and transformers stay optional: nothing but tq_cache.hf imports them, and it says what is missing."""

import subprocess
import sys


def _run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_tq_cache_imports_neither_torch_nor_transformers():
    found = _run("import sys, tq_cache; print({'torch', 'transformers', 'tq_cache.hf'} & set(sys.modules))")
    assert found.stdout.strip() == "set()", found.stderr


def test_a_missing_torch_is_named_with_the_extra_that_brings_it():
    found = _run(
        "import sys; sys.modules['torch'] = None\n"
        "from tq_cache.errors import MissingDependency\n"
        "from tq_core import TurboQuantError\n"
        "assert issubclass(MissingDependency, TurboQuantError)\n"
        "try:\n"
        "    import tq_cache.hf\n"
        "except ImportError as error:\n"
        "    print(type(error).__name__, error)\n"
    )
    assert found.stdout.startswith("MissingDependency tq_cache.hf needs torch and transformers, and torch is missing")
    assert "install tq-cache[hf]" in found.stdout
