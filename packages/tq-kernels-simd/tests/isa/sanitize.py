"""The package's tests under AddressSanitizer and UndefinedBehaviorSanitizer, and proof that both report what is seeded.

    PYTHON tests/isa/sanitize.py suite      all tests, then the contract suite at every level
    PYTHON tests/isa/sanitize.py seeded     a build with TQ_SEED_FAULT: both faults must be reported

PYTHON is that of an environment whose tq-kernels-simd was built with TQ_SANITIZE (nox session `sanitize`). Heap blocks
are numpy's own, exactly as long as the arrays, so that one byte beyond an input or output is one byte beyond a block.
"""

import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

TESTS = Path(__file__).parents[1]
CONTRACT = """
from tq_core import registry
from tq_core.testing import check_backend
backend = registry.load("simd")
check_backend(backend)
print(backend.levels["encode"], "passes")
"""
# 100 is no multiple of 64: the scratch has room, so that the over-read is one of the row alone
ENCODE = """
import sys
import numpy as np
from tq_core import TurboQuantMSE, VectorCodec
VectorCodec(TurboQuantMSE(100, 4, backend="simd")).encode(np.ones((3, 100), sys.argv[1]))
"""
FAULTS = {
    "float32": ("AddressSanitizer: heap-buffer-overflow", "norm_f32"),
    "float64": ("runtime error: signed integer overflow", "seeded_fault.c"),
}


def environment(*, keep_frames: bool = False, **more: str) -> dict[str, str]:
    """The variables that put the sanitizer's run time first and let it see every block.

    `keep_frames`: frames of functions that have returned, on a stack of the sanitizer's own. gcc 12 aligns that to less
    than the 64 bytes that locals of AVX-512 code rely on (gcc bug 110027), so the levels below alone can have it.
    """
    library = subprocess.run(["gcc", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True).stdout
    return {
        **os.environ,
        "LD_PRELOAD": library.strip(),
        "PYTHONMALLOC": "malloc",  # small blocks would hide in arenas otherwise
        "ASAN_OPTIONS": f"detect_leaks=0:detect_stack_use_after_return={int(keep_frames)}",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        **more,
    }


def levels() -> list[str]:
    """The levels that run here."""
    code = "from tq_kernels_simd import _simd; print(*[n for n, s in _simd.levels().items() if s == 'ok'])"
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    return done.stdout.split()


def collected() -> int:
    """How many tests the package has: `file: count` lines, where all are asked for quietly."""
    command = [sys.executable, "-m", "pytest", "-qq", "-p", "no:cacheprovider", "--collect-only", str(TESTS)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
    counts = (line.rpartition(": ")[2] for line in done.stdout.splitlines())
    return sum(int(count) for count in counts if count.isdecimal())


def account(report: Path) -> str:
    """How many of all tests ran and passed, and how many did not, by reason."""
    cases = list(ElementTree.parse(report).iter("testcase"))
    skips = [found.get("message", "") for case in cases for found in case.findall("skipped")]
    failed = sum(1 for case in cases if case.find("failure") is not None or case.find("error") is not None)
    every = collected()
    lines = [f"of {every} tests {len(cases) - len(skips) - failed} ran under the sanitizers and passed"]
    lines += [f"  {count} skipped: {reason}" for reason, count in Counter(skips).most_common()]
    if len(cases) < every:
        lines.append(f"  {every - len(cases)} left out by the options given")
    if failed:
        lines.append(f"  {failed} failed")
    return "\n".join(lines) + "\n"


def suite(options: list[str]) -> None:
    """Every test of the package, and the contract suite at each level; says what was left out and why."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", str(TESTS)]
        done = subprocess.run([*command, *options], env=environment(), check=False)
        if report.exists():
            sys.stdout.write(account(report))
            sys.stdout.flush()
    if done.returncode:
        sys.exit(f"pytest left with exit status {done.returncode}")
    for level in levels():
        keep_frames = not level.startswith("avx512")
        subprocess.run(
            [sys.executable, "-c", CONTRACT], env=environment(keep_frames=keep_frames, TQ_ISA=level), check=True
        )


def seeded() -> None:
    """Both seeded faults stop the process with a report, at every level."""
    for level in levels():
        for dtype, signs in FAULTS.items():
            command = [sys.executable, "-c", ENCODE, dtype]
            done = subprocess.run(command, env=environment(TQ_ISA=level), capture_output=True, text=True, check=False)
            lines = [line.strip() for line in done.stderr.splitlines()]
            absent = [sign for sign in signs if not any(sign in line for line in lines)]
            if done.returncode == 0 or absent:
                sys.exit(f"{level}, {dtype}: exit status {done.returncode}, not reported: {absent}\n{done.stderr}")
            sys.stdout.write(f"{level}, {dtype}: reported {signs[0]} in {signs[1]}\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["seeded"]:
        seeded()
    elif sys.argv[1:2] == ["suite"]:
        suite(sys.argv[2:])
    else:
        sys.exit("say suite or seeded")
