"""One-vector encode: the primitives compiled by mypyc, the same source interpreted, and the numpy backend.

A wheel is built from the working tree into a temporary folder and imported from there; the interpreted modules are
imported first, from the source, and set aside. All of them then run in this one process, in turns, on the same
vector, and the CPU time of each turn is kept. Times are medians over the turns.

`row` is `encode_row` of the primitives on bytes; `backend` is `encode` of a backend on a (1, dim) array; `door` is
`VectorCodec.encode` on a (dim,) array, checks and container included.

Example:  uv run --all-packages python packages/tq-core/bench/compiled.py
          uv run --all-packages python packages/tq-core/bench/compiled.py --dim 64 --bits 2 --turns 20 --json small.json
"""

import argparse
import importlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from machine import describe

HERE = Path(__file__).resolve().parent
PACKAGE = HERE.parent
INTERPRETED_BAR = 15.0  # compiled is at least this many times as fast as the same source interpreted
NUMPY_BAR = 2.0  # and as the numpy backend, on one vector
Modules = dict[str, ModuleType]


def load(folder: Path) -> Modules:
    """The modules of tq_core as found in a folder, independent of any loaded before."""
    for name in [name for name in sys.modules if name == "tq_core" or name.startswith("tq_core.")]:
        del sys.modules[name]
    sys.path.insert(0, str(folder))
    try:
        wanted = ("tq_core", "tq_core._prim.encode", "tq_core.scalar", "tq_core.numpy_backend")
        modules = {name: importlib.import_module(name) for name in wanted}
    finally:
        sys.path.remove(str(folder))
    place = Path(str(modules["tq_core"].__file__))
    assert place.is_relative_to(folder), f"tq_core was imported from {place}, not from {folder}"
    return modules


def build(folder: Path) -> Path:
    """A folder that holds the compiled package alone, from a wheel built out of the working tree."""
    subprocess.run(["uv", "build", "-q", str(PACKAGE), "-o", str(folder / "dist")], check=True)
    (wheel,) = (folder / "dist").glob("*.whl")
    command = ["uv", "pip", "install", "-q", "--no-deps", "--target", str(folder / "site"), str(wheel)]
    subprocess.run(command, check=True)
    return folder / "site"


def calls(modules: Modules, dim: int, bits: int) -> dict[str, Callable[[], Any]]:
    """What is timed, by level and implementation, all on one vector."""
    tq_core = modules["tq_core"]
    x = np.random.default_rng(1).standard_normal(dim).astype(np.float32)
    kind = "compiled" if tq_core.COMPILED else "interpreted"
    scalar = tq_core.VectorCodec(tq_core.TurboQuantMSE(dim, bits, backend="scalar"))
    backend = scalar.quantizer.backend
    encoder, encode_row = backend._encoder(scalar.plan), modules["tq_core._prim.encode"].encode_row
    data, rows = x.tobytes(), x[None]
    found = {
        f"row {kind}": lambda: encode_row(encoder, data),
        f"backend {kind}": lambda: backend.encode(scalar.plan, rows),
        f"door {kind}": lambda: scalar.encode(x),
    }
    if kind == "compiled":
        plain = tq_core.VectorCodec(tq_core.TurboQuantMSE(dim, bits, backend="numpy"))
        by_numpy = plain.quantizer.backend
        found["backend numpy"] = lambda: by_numpy.encode(plain.plan, rows)
        found["door numpy"] = lambda: plain.encode(x)
        assert plain.encode(x) == scalar.encode(x), "the two backends disagree on the timed vector"
    return found


def measure(functions: dict[str, Callable[[], Any]], turns: int) -> dict[str, dict[str, float]]:
    """Microseconds of CPU a call by name: median and quartiles over interleaved turns of about 10 ms."""
    repeats = {}
    for name, function in functions.items():
        function()
        started = time.process_time_ns()
        for _ in range(20):
            function()
        repeats[name] = max(3, int(10e6 * 20 / max(1, time.process_time_ns() - started)))
    found: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(turns):
        for name, function in functions.items():
            count = repeats[name]
            started = time.process_time_ns()
            for _ in range(count):
                function()
            found[name].append((time.process_time_ns() - started) / count / 1000)
    summary = {}
    for name, times in found.items():
        low, median, high = statistics.quantiles(times, n=4)
        summary[name] = {"median_us": round(median, 3), "low_us": round(low, 3), "high_us": round(high, 3)}
    return summary


def main() -> int:
    """0 when both bars are met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--turns", type=int, default=60, help="interleaved turns of about 10 ms each (default 60)")
    parser.add_argument("--json", type=Path, default=HERE / "results" / "compiled.json", metavar="FILE")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        # backends are imported at first use: each set is used before the other one is loaded
        functions = calls(load(PACKAGE / "src"), options.dim, options.bits)
        assert "row interpreted" in functions
        functions |= calls(load(build(Path(folder))), options.dim, options.bits)
        assert "row compiled" in functions
        times = measure(functions, options.turns)
    us = {name: time["median_us"] for name, time in times.items()}
    ratios = {
        "row: interpreted / compiled": us["row interpreted"] / us["row compiled"],
        "backend: interpreted / compiled": us["backend interpreted"] / us["backend compiled"],
        "door: interpreted / compiled": us["door interpreted"] / us["door compiled"],
        "row: numpy backend / compiled": us["backend numpy"] / us["row compiled"],
        "backend: numpy / compiled": us["backend numpy"] / us["backend compiled"],
        "door: numpy / compiled": us["door numpy"] / us["door compiled"],
    }
    held = ratios["row: interpreted / compiled"] >= INTERPRETED_BAR and ratios["backend: numpy / compiled"] >= NUMPY_BAR
    for name, found in times.items():
        print(f"{name:<22} {found['median_us']:9.2f} us   ({found['low_us']:.2f} .. {found['high_us']:.2f})")
    for name, ratio in ratios.items():
        print(f"{name:<34} {ratio:7.2f} x")
    bars = f"row {INTERPRETED_BAR:g}x over interpreted, backend {NUMPY_BAR:g}x over numpy"
    print(f"bars ({bars}): {'met' if held else 'MISSED'}")
    document = {
        **describe(),
        "dim": options.dim,
        "bits": options.bits,
        "turns": options.turns,
        "unit": "microseconds of CPU for one vector, median, lower and upper quartile",
        "times": times,
        "ratios": {name: round(ratio, 2) for name, ratio in ratios.items()},
        "bars_met": held,
    }
    options.json.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
