"""Every level that this build claims and this machine runs does its work inside its buffers and under its own name."""

import platform
from pathlib import Path

import numpy as np
import pytest
from children import LEVELS, in_child, main, passes_at
from placed import at_page_end, at_page_start

from tq_core.codebook import codebook, codebook_of
from tq_core.numpy_backend import NumpyBackend
from tq_core.plan import ScalarPlan, scale_candidates
from tq_core.rotation import Rotation
from tq_core.sketch import Sketch
from tq_core.testing import samples
from tq_kernels_simd import _simd
from tq_kernels_simd.plan import pack_plan, pack_sketch

STATES = _simd.levels()

# What /proc/cpuinfo calls the parts of each level.
FLAGS = {
    "baseline": set(),
    "avx2": {"avx2", "fma", "bmi2", "f16c"},
    "avx512": {"avx2", "fma", "bmi2", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_vnni"},
    "avx512vbmi": {"avx2", "fma", "bmi2", "f16c"}
    | {"avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_vnni", "avx512vbmi"},
    "neon": {"asimd"},
    "dotprod": {"asimd", "asimddp"},
}

REFERENCE = NumpyBackend()
DIMS = (2, 3, 7, 8, 9, 15, 16, 17, 20, 31, 33, 63, 64, 65, 96, 100, 127, 128, 129, 200, 257)
PLACES = at_page_end, at_page_start  # every array of a call lies there; results are compared with numpy's


def check_codes():
    for dim in DIMS:
        rotation, rows = Rotation(dim, "hadamard", 7), samples(dim)[:11]
        for bits in (1, 2, 3, 4, 5, 6, 7, 8, 2.25, 2.5, 3.25, 3.5):
            candidates = scale_candidates(dim, 3 if bits in (3, 2.5, 3.25) else 0)
            plan = ScalarPlan(rotation, codebook_of(dim, bits), "unbiased", candidates, None, False)
            for dtype in (np.float16, np.float32, np.float64) if bits == 4 else (np.float32,):
                for place in PLACES:
                    compare_codes(plan, rows.astype(dtype), place)


def compare_codes(plan, rows, place):
    where = plan.dim, plan.codebook.bits, rows.dtype
    capsule, (packed, scales, _) = pack_plan(plan), REFERENCE.encode(plan, rows)
    got = place(np.zeros_like(packed)), place(np.zeros_like(scales))
    _simd.encode(capsule, place(rows), *got, None, 1)
    assert got[0].tobytes() == packed.tobytes(), where
    assert got[1].tobytes() == scales.tobytes(), where
    out = place(np.zeros(rows.shape, np.float32))
    _simd.decode(capsule, *got, out, 1)
    assert np.allclose(out, REFERENCE.decode(plan, packed, scales, None), rtol=1e-4, atol=1e-5), where
    narrow = rows.astype(np.float32)
    _simd.rotate(capsule, place(narrow), out, 0, 1)
    assert out.tobytes() == REFERENCE.rotate(plan.rotation, narrow).tobytes(), where


def check_scores():
    for dim in DIMS:
        rotation = Rotation(dim, "hadamard", 7)
        for kind in ("gaussian", "hadamard"):
            sketch = Sketch(dim, dim, kind, 5)
            plan = ScalarPlan(rotation, codebook(dim, 3), "unbiased", scale_candidates(dim, 0), sketch, False)
            numbers, queries = REFERENCE.encode(plan, samples(dim)[:11]), samples(dim, 1)[:3]
            for place in PLACES:
                compare_scores(plan, numbers, queries, place)


def compare_scores(plan, numbers, queries, place):
    where = plan.dim, plan.sketch.kind
    expected = REFERENCE.scores(plan, *numbers, queries)
    capsule, stored = pack_plan(plan), [place(array) for array in numbers]
    asked, mask = place(REFERENCE.rotate(plan.rotation, queries)), place(np.arange(11) != 4)
    for accuracy in (0, 1, 2):
        scores = place(np.zeros((3, 11), np.float32))
        found = [place(np.zeros((3, 5), dtype)) for dtype in (np.float32, np.int64)]
        _simd.scores(capsule, *stored, asked, scores, accuracy, 1)
        _simd.search(capsule, *stored, asked, mask, 5, accuracy, *found, 1)
        assert np.array_equal(found[0], -np.sort(-scores[:, mask])[:, :5]), (where, accuracy)
        assert np.array_equal(found[0], np.take_along_axis(scores, found[1], 1)), (where, accuracy)
        assert accuracy or np.allclose(scores, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max()), where


def check_sketches():
    for dim in DIMS:
        residuals = np.random.default_rng(dim).integers(-9999, 9999, (11, dim))
        for sketch in (Sketch(dim, dim, kind, 5) for kind in ("gaussian", "hadamard")):
            for place in PLACES:
                signs = place(np.zeros((11, (dim + 7) // 8), np.uint8))
                _simd.sketch(pack_sketch(sketch), place(residuals), signs, 1)
                assert signs.tobytes() == REFERENCE.sketch(sketch, residuals).tobytes(), (dim, sketch.kind)


CHECKS = {claim.__name__: claim for claim in (check_codes, check_scores, check_sketches)}


@pytest.mark.parametrize("level", STATES)
@pytest.mark.parametrize("name", CHECKS)
def test_a_level_stays_inside_its_buffers_and_agrees_with_numpy(level, name):
    if STATES[level] != "ok":
        pytest.skip(f"level {level}: {STATES[level]}")
    assert passes_at(level, __file__, name)


def test_a_killed_child_is_reported_by_its_signal():
    with pytest.raises(pytest.fail.Exception, match="died of SIGILL"):
        in_child("import os, signal; os.kill(os.getpid(), signal.SIGILL)")


def test_the_best_level_that_runs_is_chosen():
    code = "from tq_kernels_simd import _simd; print(_simd.level())"
    assert in_child(code).strip() == LEVELS[-1]
    assert in_child(code, TQ_ISA="").strip() == LEVELS[-1]


@pytest.mark.parametrize("cap", STATES)
def test_a_cap_is_never_exceeded(cap):
    names = list(STATES)
    below = [name for name in names[: names.index(cap) + 1] if name in LEVELS]
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


def test_an_unknown_level_is_an_import_error_and_an_unavailable_backend():
    first, second, third, fourth = in_child(NONSENSE, TQ_ISA="nonsense").splitlines()
    reason = f"TQ_ISA=nonsense names no level of this build; it has {', '.join(STATES)}"
    assert first == reason
    assert second == f"backend 'simd' cannot run: {reason}"
    assert third == "numpy 1"
    assert fourth == reason


@pytest.mark.parametrize("level", LEVELS)
def test_the_report_names_the_level_and_the_reason(level):
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
    assert {name for name in STATES if FLAGS[name] <= set(lines[0].split())} == set(LEVELS)


def test_the_build_has_the_levels_of_its_platform():
    machine = platform.machine().lower()
    if machine in ("x86_64", "amd64"):
        assert list(STATES) == ["baseline", "avx2", "avx512", "avx512vbmi"]
    elif machine in ("aarch64", "arm64"):
        assert list(STATES) == ["baseline", "neon", "dotprod"]
    else:
        assert list(STATES) == ["baseline"]


def test_a_level_that_cannot_run_says_what_is_missing():
    lacking = {name: state for name, state in STATES.items() if state != "ok"}
    for name, state in lacking.items():
        assert state.startswith("this machine lacks "), name
    assert STATES["baseline"] == "ok"


if __name__ == "__main__":
    main(CHECKS)
