"""One exported symbol, and no instruction set outside its own files."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tq_kernels_simd import _simd

BUILD = Path(__file__).parents[1] / "build"
WIDE = re.compile(r"%[yz]mm\d|%xmm(?:1[6-9]|2\d|3[01])|%k[0-7]")
ZMM = re.compile(r"%zmm\d|%[xy]mm(?:1[6-9]|2\d|3[01])|%k[0-7]")


def output(*command):
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def objects(target):
    """The object files of a CMake target in the build folders beside the source; those with sanitizers are left out."""
    folders = [path.parent for path in BUILD.glob("*/CMakeCache.txt") if "TQ_SANITIZE:BOOL=ON" not in path.read_text()]
    found = [path for folder in folders for path in sorted(folder.glob(f"CMakeFiles/{target}.dir/**/*.o"))]
    if not found:
        pytest.skip(f"no objects of {target} under the package's build folder: not built here for this platform")
    return found


def test_only_the_module_itself_is_exported():
    lines = output("nm", "-D", "--defined-only", _simd.__file__).splitlines()
    assert [line.split()[-1] for line in lines] == ["PyInit__simd"]


@pytest.mark.parametrize("target", ["tq_baseline", "_simd"])
def test_portable_objects_hold_no_wide_register(target):
    for path in objects(target):
        found = WIDE.search(output("objdump", "-d", "--no-show-raw-insn", str(path)))
        assert not found, f"{path.name} uses {found[0]}"


def test_avx2_objects_hold_no_avx512_register():
    for path in objects("tq_avx2"):
        found = ZMM.search(output("objdump", "-d", "--no-show-raw-insn", str(path)))
        assert not found, f"{path.name} uses {found[0]}"


@pytest.mark.parametrize("line", ["vaddps %ymm1,%ymm2,%ymm3", "vaddps (%rax),%zmm31,%zmm0", "kmovd %eax,%k1"])
def test_the_pattern_would_see_a_wide_register(line):
    assert WIDE.search(line)
    assert not WIDE.search("addps %xmm15,%xmm0")


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512", "avx512vbmi", "neon", "dotprod"])
def test_what_an_instruction_set_defines_is_static_or_named_after_it(isa):
    """A name that two sets define would let the linker keep the wrong copy."""
    for path in objects(f"tq_{isa}"):
        defined = [line.split() for line in output("nm", "--defined-only", "--extern-only", str(path)).splitlines()]
        names = [words[-1] for words in defined if len(words) == 3]
        stray = [name for name in names if not name.endswith(f"_{isa}") and name != "tq_paley_sign"]
        assert not stray, f"{path.name} exports {stray}"
