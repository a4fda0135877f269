"""Every level that this build claims and this machine runs does its work inside its buffers and under its own name."""

import platform
from pathlib import Path

import pytest

from tq_kernels_simd import _simd

STATES = _simd.levels()
RUNNING = [name for name, state in STATES.items() if state == "ok"]

# What /proc/cpuinfo calls the parts of each level.
FLAGS = {
    "baseline": set(),
    "avx2": {"avx2", "fma", "bmi2", "f16c"},
    "avx512": {"avx2", "fma", "bmi2", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_vnni"},
    "neon": {"asimd"},
    "dotprod": {"asimd", "asimddp"},
}

# Every array ends at, or begins behind, a page that nobody may touch; results are compared with numpy's.
WORK = """
import ctypes, mmap, sys
import numpy as np
from tq_core.codebook import codebook, codebook_of
from tq_core.numpy_backend import NumpyBackend
from tq_core.plan import ScalarPlan, scale_candidates
from tq_core.rotation import Rotation
from tq_core.sketch import Sketch
from tq_core.testing import samples
from tq_kernels_simd import _simd
from tq_kernels_simd.plan import pack_plan

assert _simd.level() == sys.argv[1], _simd.level()
PAGE = mmap.PAGESIZE
mprotect = ctypes.CDLL(None, use_errno=True).mprotect
mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
kept = []

def guarded(array, at_end):
    size = (array.nbytes + PAGE - 1) // PAGE * PAGE
    memory = mmap.mmap(-1, size + 2 * PAGE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    start = PAGE + size - array.nbytes if at_end else PAGE
    held = np.frombuffer(memory, array.dtype, array.size, start).reshape(array.shape)
    held[...] = array
    for page in (address, address + PAGE + size):
        assert mprotect(page, PAGE, 0) == 0
    kept.append(memory)
    return held

reference = NumpyBackend()
for dim in (2, 3, 7, 8, 9, 15, 16, 17, 20, 31, 33, 63, 64, 65, 96, 100, 127, 128, 129, 200, 257):
    rotation = Rotation(dim, "hadamard", 7)
    for bits in (1, 2, 3, 4, 5, 6, 7, 8, 2.25, 2.5, 3.25, 3.5):
        search = 3 if bits in (3, 2.5, 3.25) else 0
        plan = ScalarPlan(rotation, codebook_of(dim, bits), "unbiased", scale_candidates(dim, search), None, False)
        capsule = pack_plan(plan)
        rows = samples(dim)[:11]
        for dtype in (np.float16, np.float32, np.float64) if bits == 4 else (np.float32,):
            packed, scales, _ = reference.encode(plan, rows.astype(dtype))
            for at_end in (True, False):
                x = guarded(rows.astype(dtype), at_end)
                got = guarded(np.zeros_like(packed), at_end), guarded(np.zeros_like(scales), at_end)
                _simd.encode(capsule, x, *got, None, 1)
                assert got[0].tobytes() == packed.tobytes() and got[1].tobytes() == scales.tobytes(), (dim, bits, dtype)
                out = guarded(np.zeros((11, dim), np.float32), at_end)
                _simd.decode(capsule, *got, out, 1)
                expected = reference.decode(plan, packed, scales, None)
                assert np.allclose(out, expected, rtol=1e-4, atol=1e-5), (dim, bits)
                _simd.rotate(capsule, guarded(rows, at_end), out, 0, 1)
                assert out.tobytes() == reference.rotate(rotation, rows).tobytes(), dim
        kept.clear()
    for kind in ("gaussian", "hadamard"):
        sketch = Sketch(dim, dim, kind, 5)
        plan = ScalarPlan(rotation, codebook(dim, 3), "unbiased", scale_candidates(dim, 0), sketch, False)
        capsule, numbers = pack_plan(plan), reference.encode(plan, rows)
        queries = samples(dim, 1)[:3]
        residuals = np.random.default_rng(dim).integers(-9999, 9999, (11, dim))
        expected = reference.scores(plan, *numbers, queries), reference.sketch(sketch, residuals)
        tolerance = 1e-5 * np.abs(expected[0]).max()
        for at_end in (True, False):
            stored = [guarded(array, at_end) for array in numbers]
            asked = guarded(reference.rotate(rotation, queries), at_end)
            mask = guarded(np.arange(11) != 4, at_end)
            for accuracy in (0, 1, 2):
                scores = guarded(np.zeros((3, 11), np.float32), at_end)
                found = [guarded(np.zeros((3, 5), dtype), at_end) for dtype in (np.float32, np.int64)]
                _simd.scores(capsule, *stored, asked, scores, accuracy, 1)
                _simd.search(capsule, *stored, asked, mask, 5, accuracy, *found, 1)
                assert np.array_equal(found[0], -np.sort(-scores[:, mask])[:, :5]), (dim, kind, accuracy)
                assert np.array_equal(found[0], np.take_along_axis(scores, found[1], 1)), (dim, kind, accuracy)
                assert accuracy or np.allclose(scores, expected[0], rtol=1e-4, atol=tolerance), (dim, kind)
            signs = guarded(np.zeros((11, (dim + 7) // 8), np.uint8), at_end)
            _simd.sketch(capsule, guarded(residuals, at_end), signs, 1)
            assert signs.tobytes() == expected[1].tobytes(), (dim, kind)
        kept.clear()
print("done")
"""


@pytest.mark.parametrize("level", STATES)
def test_a_level_stays_inside_its_buffers_and_agrees_with_numpy(level, in_child):
    if STATES[level] != "ok":
        pytest.skip(f"level {level}: {STATES[level]}")
    assert in_child(WORK, level, TQ_ISA=level).strip() == "done"


def test_a_killed_child_is_reported_by_its_signal(in_child):
    with pytest.raises(pytest.fail.Exception, match="died of SIGILL"):
        in_child("import os, signal; os.kill(os.getpid(), signal.SIGILL)")


def test_the_best_level_that_runs_is_chosen(in_child):
    code = "from tq_kernels_simd import _simd; print(_simd.level())"
    assert in_child(code).strip() == RUNNING[-1]
    assert in_child(code, TQ_ISA="").strip() == RUNNING[-1]


@pytest.mark.parametrize("cap", STATES)
def test_a_cap_is_never_exceeded(cap, in_child):
    names = list(STATES)
    below = [name for name in names[: names.index(cap) + 1] if name in RUNNING]
    code = "from tq_kernels_simd import _simd; print(_simd.level())"
    assert in_child(code, TQ_ISA=cap).strip() == below[-1]


NONSENSE = """
import sys, warnings
import tq_core
from tq_core import BackendUnavailable, registry
try:
    import tq_kernels_simd
except ImportError as error:
    print(error)
try:
    registry.load("simd")
except BackendUnavailable as error:
    print(error)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    print(registry.resolve("auto").name, len(caught))
    print(tq_core.report()["backends"]["simd"])
"""


def test_an_unknown_level_is_an_import_error_and_an_unavailable_backend(in_child):
    first, second, third, fourth = in_child(NONSENSE, TQ_ISA="nonsense").splitlines()
    reason = f"TQ_ISA=nonsense names no level of this build; it has {', '.join(STATES)}"
    assert first == reason
    assert second == f"backend 'simd' cannot run: {reason}"
    assert third == "numpy 1"
    assert fourth == reason


@pytest.mark.parametrize("level", RUNNING)
def test_the_report_names_the_level_and_the_reason(level, in_child):
    text = in_child("import tq_core; print(tq_core.report())", TQ_ISA=level)
    assert "auto resolves to 'simd': the simd kernels are installed and run here" in text
    for operation in ("rotate", "unrotate", "encode", "decode", "scores"):
        (line,) = (line for line in text.splitlines() if line.split()[:1] == [operation])
        assert line.split() == [operation, "simd", level]


def test_the_levels_agree_with_proc_cpuinfo():
    path = Path("/proc/cpuinfo")
    if not path.exists():
        pytest.skip("no /proc/cpuinfo on this system to compare with")
    lines = [line.split(":")[1] for line in path.read_text().splitlines() if line.startswith(("flags", "Features"))]
    if not lines:
        pytest.skip("/proc/cpuinfo lists no flags on this processor")
    assert {name for name in STATES if FLAGS[name] <= set(lines[0].split())} == set(RUNNING)


def test_the_build_has_the_levels_of_its_platform():
    machine = platform.machine().lower()
    if machine in ("x86_64", "amd64"):
        assert list(STATES) == ["baseline", "avx2", "avx512"]
    elif machine in ("aarch64", "arm64"):
        assert list(STATES) == ["baseline", "neon", "dotprod"]
    else:
        assert list(STATES) == ["baseline"]


def test_a_level_that_cannot_run_says_what_is_missing():
    lacking = {name: state for name, state in STATES.items() if state != "ok"}
    for name, state in lacking.items():
        assert state.startswith("this machine lacks "), name
    assert STATES["baseline"] == "ok"
