"""Times of the C kernels beside memcpy and the numpy backend, interleaved in one process, on the same rows.

`python bench/kernels.py --operation rotate encode --dims 128 1536 --bits 4 --json FILE`. Times are thread CPU time of
one thread, medians over rounds in which every contender runs once; ratios are medians of a round's ratios. An operation
is a generator of cases: add one to CASES. TQ_ISA caps the level.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tq_core.codebook import codebook
from tq_core.numpy_backend import NumpyBackend
from tq_core.plan import ScalarPlan
from tq_core.rotation import Rotation
from tq_kernels_simd import _simd
from tq_kernels_simd.plan import pack_plan, pack_rotation

DIMS = (128, 768, 1536)
BITS = (1, 2, 3, 4, 8)
SIZES = {"L3": 8 << 20, "DRAM": 96 << 20}  # bytes of float32 on one side
REFERENCE = NumpyBackend()
Run = Callable[[], object]


class Case(NamedTuple):
    """One line of the table: what is timed, and per how many rows. `peers` run in the same rounds."""

    name: str
    rows: int
    coordinates: int
    kernel: Run
    peers: dict[str, Run]
    bars: dict[str, tuple[str, float]]  # peer (or "ns", "ns/coordinate") -> ("<=" or ">=", bound)


def rows_for(dim: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(dim).standard_normal((size // (4 * dim), dim), dtype=np.float32)
    return x, np.zeros_like(x)


def rotate_cases(dims: list[int], _: list[int]) -> Iterator[Case]:
    for dim in dims:
        for place, size in SIZES.items():
            x, y = rows_for(dim, size)
            for rounds in (1, 3):
                rotation = Rotation(dim, "hadamard", 1)
                rotation.rounds = min(rounds, rotation.rounds)
                packed = pack_rotation(rotation)
                bound = {128: 1.3, 1536: 1.8}.get(dim)
                bars = {"memcpy": ("<=", bound)} if bound and rounds == 1 and place == "DRAM" else {}
                kernel = lambda packed=packed, x=x, y=y: _simd.rotate(packed, x, y, 0, 1)  # noqa: E731
                peers = {"memcpy": lambda x=x, y=y: np.copyto(y, x)}
                yield Case(f"rotate d={dim} rounds={rounds} {place}", len(x), dim, kernel, peers, bars)


def plan_of(dim: int, bits: int) -> ScalarPlan:
    return ScalarPlan(Rotation(dim, "hadamard", 1), codebook(dim, bits), "unbiased", (1.0,), None, False)


def encode_cases(dims: list[int], widths: list[int]) -> Iterator[Case]:
    for dim in dims:
        for bits in widths:
            plan = plan_of(dim, bits)
            packed = pack_plan(plan)
            for place, size in SIZES.items():
                x, y = rows_for(dim, size)
                codes, scales = np.zeros((len(x), plan.row_bytes), np.uint8), np.zeros(len(x), np.float32)
                bars: dict[str, tuple[str, float]] = {}
                if place == "L3" and 2 <= bits <= 4:
                    bars = {"numpy": (">=", 30.0)} | ({"memcpy": ("<=", 6.0)} if dim in (128, 1536) else {})
                    bars |= {"ns/coordinate": ("<=", 2.0)} if dim == 768 else {}
                peers = {"memcpy": lambda x=x, y=y: np.copyto(y, x)}
                if place == "L3":
                    peers["numpy"] = lambda x=x, plan=plan: REFERENCE.encode(plan, x)
                yield Case(
                    f"encode d={dim} b={bits} {place}",
                    len(x),
                    dim,
                    lambda p=packed, x=x, c=codes, s=scales: _simd.encode(p, x, c, s, None, 1),
                    peers,
                    bars,
                )


def decode_cases(dims: list[int], widths: list[int]) -> Iterator[Case]:
    for dim in dims:
        for bits in widths:
            plan = plan_of(dim, bits)
            packed = pack_plan(plan)
            for place, size in SIZES.items():
                x, y = rows_for(dim, size)
                codes = np.random.default_rng(0).integers(0, 256, (len(x), plan.row_bytes), np.uint8)
                scales = np.ones(len(x), np.float32)
                bars: dict[str, tuple[str, float]] = {}
                if place == "L3" and 2 <= bits <= 4:
                    bars = {"memcpy": ("<=", 4.0), "numpy": (">=", 8.0)}
                peers = {"memcpy": lambda x=x, y=y: np.copyto(y, x)}
                if place == "L3":
                    peers["numpy"] = lambda p=plan, c=codes, s=scales: REFERENCE.decode(p, c, s, None)
                yield Case(
                    f"decode d={dim} b={bits} {place}",
                    len(x),
                    dim,
                    lambda p=packed, c=codes, s=scales, y=y: _simd.decode(p, c, s, y, 1),
                    peers,
                    bars,
                )


def append_cases(dims: list[int], widths: list[int]) -> Iterator[Case]:
    """One row a call, with arrays made beforehand, against the same rows in one call: the difference is the call."""
    for dim in dims:
        for bits in widths:
            plan = plan_of(dim, bits)
            packed = pack_plan(plan)
            x = np.random.default_rng(dim).standard_normal((256, dim), dtype=np.float32)
            codes, scales = np.zeros((256, plan.row_bytes), np.uint8), np.zeros(256, np.float32)
            one = (x[:1].copy(), codes[:1].copy(), scales[:1].copy())

            def calls(p: object = packed, a: Any = one) -> None:
                for _ in range(256):
                    _simd.encode(p, a[0], a[1], a[2], None, 1)

            def batch(p: object = packed, x: Any = x, c: Any = codes, s: Any = scales) -> None:
                _simd.encode(p, x, c, s, None, 1)

            bars = {"batch": ("+", 400.0)} if dim == 128 else {}
            yield Case(f"append d={dim} b={bits}", 256, dim, calls, {"batch": batch}, bars)


CASES: dict[str, Callable[[list[int], list[int]], Iterator[Case]]] = {
    "rotate": rotate_cases,
    "encode": encode_cases,
    "decode": decode_cases,
    "append": append_cases,
}


def elapsed_ns(run: Run) -> int:
    start = time.thread_time_ns()
    run()
    return time.thread_time_ns() - start


def measure(case: Case) -> dict[str, Any]:
    runs = {"kernel": case.kernel, **case.peers}
    first = {name: elapsed_ns(run) for name, run in runs.items()}  # warms up
    rounds = max(7, min(41, int(4e8 / sum(first.values()))))
    times = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            times[name].append(elapsed_ns(run) / case.rows)
    low, median, high = statistics.quantiles(times["kernel"], n=4)
    result: dict[str, Any] = {"case": case.name, "rows": case.rows, "rounds": rounds, "ns": round(median, 1)}
    result["quartiles_ns"] = [round(low, 1), round(high, 1)]
    result["ns_per_coordinate"] = round(median / case.coordinates, 3)
    figures = {"ns": median, "ns/coordinate": median / case.coordinates}
    for name in case.peers:
        peer = times[name]
        result[f"{name}_ns"] = round(statistics.median(peer), 1)
        ratios = [k / p for k, p in zip(times["kernel"], peer, strict=True)]
        ratio = statistics.median(ratios)
        result[f"{name}_ratio"] = round(ratio, 3)
        figures[name] = ratio if name != "numpy" else 1 / ratio
    result["bars"] = [verdict(name, sign, bound, figures, result) for name, (sign, bound) in case.bars.items()]
    return result


def verdict(name: str, sign: str, bound: float, figures: dict[str, float], result: dict[str, Any]) -> str:
    value = result["ns"] - result[f"{name}_ns"] if sign == "+" else figures[name]
    holds = value >= bound if sign == ">=" else value <= bound
    return f"{name} {value:.2f} {'<=' if sign == '+' else sign} {bound:g} {'met' if holds else 'MISSED'}"


def probes() -> dict[str, float]:
    buffer = np.ones(128 << 20, np.uint8)
    _simd.probe_read(buffer)
    flops = max(_simd.probe_fma(1_000_000) / elapsed_ns(lambda: _simd.probe_fma(1_000_000)) for _ in range(5))
    reads = {"DRAM": buffer, "L3": buffer[: 8 << 20], "L2": buffer[: 256 << 10]}
    found = {"fma_gflops": round(flops, 1)}
    for place, part in reads.items():
        repeats = max(1, (64 << 20) // part.nbytes)

        def read(part: np.ndarray = part, repeats: int = repeats) -> None:
            for _ in range(repeats):
                _simd.probe_read(part)

        found[f"read_{place}_gb_s"] = round(part.nbytes * repeats / min(elapsed_ns(read) for _ in range(7)), 1)
    return found


def machine() -> dict[str, Any]:
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        cpu = f"{names[0]} x {len(names)}" if names else cpu
    command = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent)
    return {
        "cpu": cpu,
        "level": _simd.level(),
        "commit": commit.stdout.strip(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "system": platform.system(),
        "probes": probes(),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--operation", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--dims", nargs="+", type=int, default=list(DIMS))
    parser.add_argument("--bits", nargs="+", type=int, default=list(BITS))
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    given = parser.parse_args()
    about = machine()
    print(json.dumps(about))
    results = []
    for operation in given.operation:
        for case in CASES[operation](given.dims, given.bits):
            row = measure(case)
            results.append(row)
            ratios = "  ".join(f"{name} {row[f'{name}_ratio']:.3f}x" for name in case.peers)
            spread = "{}..{}".format(*row["quartiles_ns"])
            bars = "; ".join(row["bars"])
            print(f"{row['case']:28} {row['ns']:9.1f} ns  {spread:16}  {ratios:30}  {bars}", flush=True)
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps({"machine": about, "results": results}, indent=1) + "\n")
    missed = sum("MISSED" in bar for row in results for bar in row["bars"])
    print(f"{missed} bars missed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
