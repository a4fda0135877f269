"""Build the kernels without Python, run them at every level on machines that are not here, and compare bit for bit.

    python tests/isa/emulate.py [native] [nehalem] [aarch64] [simde]

native: this processor. nehalem: an x86-64 without AVX under qemu. aarch64: an Arm with and without dot products
under qemu. simde: AVX-512 sources translated to AVX2, which checks their logic, not their code. What a target needs
and does not find is said, and the exit status is 1.
"""

import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cases import write_cases

CSRC = Path(__file__).parents[2] / "csrc"
COMMON = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-ffp-contract=off", "-fno-math-errno", f"-I{CSRC}")
AVX2 = ("-mavx2", "-mfma", "-mbmi2", "-mf16c")
AVX512 = (*AVX2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vnni")
SIMDE = (
    *AVX2,
    "-Wno-psabi",
    "-DSIMDE_ENABLE_NATIVE_ALIASES",
    "-include",
    str(Path(__file__).with_name("simde_more.h")),
)
PORTABLE = ("run", "baseline", "query", "best", "side")  # files of operations, beside those of levels
X86 = {"avx2": AVX2, "avx512": AVX512, "avx512vbmi": (*AVX512, "-mavx512vbmi")}
ARM = {"neon": (), "dotprod": ("-march=armv8.2-a+dotprod",)}

# target -> (compiler, flags of each level, [(emulator and its options, the level that must be chosen)])
TARGETS: dict[str, tuple[str, dict[str, tuple[str, ...]], list[tuple[tuple[str, ...], str | None]]]] = {
    "native": ("cc", X86, [((), None)]),
    "nehalem": ("cc", X86, [(("qemu-x86_64", "-cpu", "Nehalem"), "baseline")]),
    "aarch64": (
        "aarch64-linux-gnu-gcc",
        ARM,
        [(("qemu-aarch64", "-cpu", "max"), "dotprod"), (("qemu-aarch64", "-cpu", "cortex-a72"), "neon")],
    ),
    "simde": ("cc", {"avx2": AVX2, "avx512": SIMDE}, [((), "avx512")]),
}


def say(text: str) -> None:
    """Write a line at once, so that it stands before what a child writes."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def missing(target: str) -> list[str]:
    """The programs that the target needs and this machine lacks."""
    compiler, _, machines = TARGETS[target]
    needed = [compiler, *(emulator[0] for emulator, _ in machines if emulator)]
    return [name for name in dict.fromkeys(needed) if shutil.which(name) is None]


def build(target: str, folder: Path) -> Path:
    """The statically linked driver of a target."""
    compiler, levels, _ = TARGETS[target]
    of_operations = [path for name in PORTABLE for path in CSRC.glob(f"*/{name}.c")]
    portable = (*CSRC.glob("*.c"), *CSRC.glob("standalone/*.c"), *of_operations)
    files = dict.fromkeys(portable, ())
    for level, flags in levels.items():
        files |= dict.fromkeys(CSRC.glob(f"*/{level}.c"), flags)
    have = [f"-DTQ_HAVE_{level.upper()}=1" for level in levels]
    without_python = [path for path in files if path.name not in ("module.c", "args.c")]

    def compiled(path: Path) -> str:
        out = folder / f"{path.parent.name}-{path.stem}.o"
        subprocess.run([compiler, *COMMON, *files[path], *have, "-c", str(path), "-o", str(out)], check=True)
        return str(out)

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compiled, without_python))
    driver = folder / "driver"
    subprocess.run([compiler, "-static", *objects, "-o", str(driver), "-lm", "-pthread"], check=True)
    return driver


def run(target: str, cases: Path) -> bool:
    """Whether every level of the target agrees on all cases and each machine chooses the level that it should."""
    with tempfile.TemporaryDirectory() as folder:
        driver = build(target, Path(folder))
        good = True
        for emulator, expected in TARGETS[target][2]:
            listed = subprocess.run([*emulator, driver], capture_output=True, text=True, check=True).stdout.splitlines()
            chosen = listed[-1].removeprefix("chosen ")
            how = " ".join(emulator) or ("translated by SIMDe" if target == "simde" else "native")
            say(f"{target} ({how}): chosen {chosen}")
            if expected not in (None, chosen):
                say(f"  expected {expected}")
                good = False
            for line in listed[:-1]:
                level, state = line.split(maxsplit=1)
                if state != "ok":
                    say(f"  {level}: this machine lacks {state}")
                    continue
                done = subprocess.run([*emulator, driver, level, cases], capture_output=True, text=True, check=False)
                say("  " + (done.stdout + done.stderr).strip().replace("\n", "\n  "))
                if done.returncode:
                    say(f"  {level}: exit status {done.returncode}")
                    good = False
    return good


def main(targets: list[str]) -> int:
    """Run the named targets, all by default."""
    good = True
    with tempfile.TemporaryDirectory() as folder:
        cases = Path(folder) / "cases"
        write_cases(cases)
        for target in targets or TARGETS:
            lacking = missing(target)
            if lacking:
                say(f"{target}: {', '.join(lacking)} not found")
                good = False
            else:
                good &= run(target, cases)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
