"""CPU nanoseconds a token and query head of attention from packed codes, beside numpy and a float16 kernel in C.

Each cell decodes its own packed keys and values once and gives the same numbers to everybody: batched numpy float32
(two matrix products and a softmax in place), and bench/float16_attention.c, compiled on demand, with the same tiles.
Calls take turns; figures are medians of thread CPU time over all lanes; BLAS runs on one thread. `read_float16` and
`read_packed` are the costs of only reading those caches. Errors are relative to float64 attention over the decoded
tokens of one lane: `error`, what the arithmetic adds; `quantization`, what the codes cost against the float tokens.

Example:  TQ_ISA=avx2 uv run --all-packages python packages/tq-kernels-simd/bench/attention.py \\
              --json packages/tq-kernels-simd/bench/results/attention_avx2.json
"""

import argparse
import ctypes
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

for _variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_variable] = "1"  # read when numpy is imported, hence the late imports

import numpy as np  # noqa: E402

from tq_core import TurboQuantMSE, VectorCodec  # noqa: E402
from tq_kernels_simd import SimdBackend, _simd  # noqa: E402
from tq_kernels_simd.attention import ACCURACIES, PackedAttention  # noqa: E402

HERE = Path(__file__).resolve().parent
LANES = 4  # so that a lane has left the nearer caches when its turn comes again


class Cell(NamedTuple):
    """One line: query heads that share a key/value head, tokens, head dimension, bits of keys and of values."""

    heads: int
    tokens: int
    dim: int
    key_bits: int
    value_bits: int


CELLS = (
    Cell(4, 32768, 128, 4, 4),
    Cell(8, 32768, 128, 4, 4),
    Cell(1, 32768, 128, 4, 4),
    Cell(4, 4096, 128, 4, 4),
    Cell(8, 4096, 128, 4, 4),
    Cell(4, 32768, 64, 4, 4),
    Cell(4, 32768, 128, 3, 3),
    Cell(4, 32768, 128, 4, 2),
    Cell(4, 32768, 128, 8, 4),
)


def kernels(folder: str) -> ctypes.CDLL:
    """float16_attention.c, compiled into `folder` with the flags of the level avx2."""
    library = Path(folder) / "float16_attention.so"
    flags = ["-O3", "-ffp-contract=off", "-fno-math-errno", "-mavx2", "-mfma", "-mbmi2", "-mf16c", "-fPIC", "-shared"]
    source = HERE / "float16_attention.c"
    subprocess.run(["cc", *flags, f"-I{HERE.parent / 'csrc'}", source, "-o", library, "-lm"], check=True)
    loaded = ctypes.CDLL(str(library))
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    loaded.float16_attention.argtypes = (pointer, pointer, pointer, size, size, size, ctypes.c_float, pointer)
    loaded.read_bytes.argtypes = (pointer, size)
    loaded.multiply_adds.argtypes = (size,)
    loaded.multiply_adds.restype = ctypes.c_float
    return loaded


def numpy_attention(keys: np.ndarray, values: np.ndarray, queries: np.ndarray, scale: float) -> np.ndarray:
    """Batched float32: (lanes, heads, tokens) logits at once, everything in place that can be."""
    logits = queries @ keys.transpose(0, 2, 1)
    logits *= np.float32(scale)
    logits -= logits.max(axis=-1, keepdims=True)
    np.exp(logits, out=logits)
    return (logits @ values) / logits.sum(axis=-1, keepdims=True)


def float64_attention(keys: np.ndarray, values: np.ndarray, queries: np.ndarray, scale: float) -> np.ndarray:
    """The oracle, for one lane."""
    logits = queries.astype(np.float64) @ keys.astype(np.float64).T * scale
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return weights @ values.astype(np.float64) / weights.sum(axis=-1, keepdims=True)


def relative(got: np.ndarray, expected: np.ndarray) -> float:
    """Norm of the difference over the norm of what was expected."""
    return float(np.linalg.norm(got - expected) / np.linalg.norm(expected))


def medians(calls: dict[str, Callable[[], Any]], turns: int) -> dict[str, float]:
    """Median thread CPU nanoseconds of each call, taking turns, after one turn to warm up."""
    times: dict[str, list[int]] = {name: [] for name in calls}
    for turn in range(turns + 1):
        for name, call in calls.items():
            start = time.thread_time_ns()
            call()
            if turn:
                times[name].append(time.thread_time_ns() - start)
    return {name: statistics.median(taken) for name, taken in times.items()}


def measure(cell: Cell, native: ctypes.CDLL, turns: int) -> dict[str, Any]:
    """The figures of one cell."""
    backend, rng, scale = SimdBackend(), np.random.default_rng(1), cell.dim**-0.5
    packed, scales, decoded, plans, floats = [], [], [], [], []
    for bits in (cell.key_bits, cell.value_bits):
        codec = VectorCodec(TurboQuantMSE(cell.dim, bits, backend="simd"))
        rows = rng.standard_normal((LANES * cell.tokens, cell.dim), np.float32)
        encoded = codec.encode(rows)
        plans.append(codec.plan)
        packed.append(encoded.arrays["packed"].reshape(LANES, cell.tokens, -1))
        scales.append(encoded.arrays["scales"].reshape(LANES, cell.tokens))
        decoded.append(codec.decode(encoded).reshape(LANES, cell.tokens, cell.dim))
        floats.append(rows[: cell.tokens])
    halves = [rows.astype(np.float16) for rows in decoded]
    queries = rng.standard_normal((LANES, cell.heads, 1, cell.dim), np.float32)
    flat, out = queries[:, :, 0], np.empty((LANES, cell.heads, cell.dim), np.float32)
    doors = {how: PackedAttention(*plans, backend, accuracy=how) for how in ACCURACIES}

    def half_precision() -> None:
        for lane in range(LANES):
            keys, values = (rows[lane].ctypes.data for rows in halves)
            asked, result = flat[lane].ctypes.data, out[lane].ctypes.data
            assert not native.float16_attention(keys, values, asked, cell.tokens, cell.heads, cell.dim, scale, result)

    def door(how: str) -> Callable[[], np.ndarray]:
        arrays = (packed[0], scales[0], packed[1], scales[1], queries)
        return lambda: doors[how].attend(*arrays, scale=scale).finished()

    def reading(arrays: list[np.ndarray]) -> Callable[[], None]:
        return lambda: [native.read_bytes(array.ctypes.data, array.nbytes) for array in arrays] and None

    calls = {"numpy": lambda: numpy_attention(*decoded, flat, scale), "float16": half_precision}
    calls |= {how: door(how) for how in ACCURACIES}
    calls |= {"read_float16": reading(halves), "read_packed": reading([*packed, *scales])}
    taken = medians(calls, turns)
    per_head = {name: taken[name] / (LANES * cell.tokens * cell.heads) for name in taken}
    truth = float64_attention(decoded[0][0], decoded[1][0], flat[0], scale)
    half_precision()
    errors = {how: relative(door(how)()[0, :, 0], truth) for how in ACCURACIES} | {"float16": relative(out[0], truth)}
    return {
        **cell._asdict(),
        "ns": {name: round(value, 3) for name, value in per_head.items()},
        "numpy_over_integer": round(taken["numpy"] / taken["integer"], 2),
        "float16_over_integer": round(taken["float16"] / taken["integer"], 2),
        "numpy_over_exact": round(taken["numpy"] / taken["exact"], 2),
        "error": {name: float(f"{value:.3g}") for name, value in errors.items()},
        "quantization": float(f"{relative(truth, float64_attention(*floats, flat[0], scale)):.3g}"),
        "workspace_bytes": doors["integer"].workspace_bytes(LANES, cell.heads, 1, cell.tokens),
    }


def processor() -> str:
    """The processor's name as the system tells it."""
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def main() -> int:
    """Print a line a cell; write them all where --json says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        native = kernels(folder)
        rounds = 1_000_000
        peak = 192 * rounds / medians({"peak": lambda: native.multiply_adds(rounds)}, 5)["peak"]
        head = {"isa": _simd.level(), "processor": processor(), "numpy": np.__version__, "fma_gflops": round(peak, 1)}
        print(head)
        lines = []
        for cell in CELLS:
            lines.append(measure(cell, native, options.turns))
            print(json.dumps(lines[-1]), flush=True)
    if options.json:
        command = f"TQ_ISA={_simd.level()} uv run --all-packages python packages/tq-kernels-simd/bench/attention.py"
        result = {
            "command": f"{command} --json {options.json}",
            **head,
            "unit": "CPU ns a token and query head",
            "cells": lines,
        }
        options.json.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
