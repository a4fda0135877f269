"""CPU nanoseconds a coordinate of encode, decode and scores, beside memcpy and a float32 matrix product.

One script for every quantizer, width, dim and backend. A call handles `--rows` vectors; scores take `--queries`
queries and count one coordinate for each pair of row and query. memcpy copies the same float32 rows; sgemm scores the
same queries against the same float32 rows. Calls take turns; figures are medians. BLAS runs on one thread.

Example:  uv run --all-packages python packages/tq-core/bench/throughput.py
          uv run --all-packages python packages/tq-core/bench/throughput.py --quantizer mse prod --bits 2 4 --dim 64 \\
              --backend numpy scalar --rows 64 --turns 5 --json throughput.json
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

for _variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_variable] = "1"  # read when numpy is imported, hence the late imports

import numpy as np  # noqa: E402
from machine import describe  # noqa: E402

import tq_core  # noqa: E402

HERE = Path(__file__).resolve().parent
QUANTIZERS = ("mse", "mse-search9", "prod", "prod-hadamard", "polar")
Call = Callable[[], Any]


def codec_of(quantizer: str, dim: int, bits: int, backend: str) -> tq_core.VectorCodec | None:
    """The codec of a name, or None where this width or dim does not exist for it."""
    if quantizer.startswith("mse"):
        inner = tq_core.TurboQuantMSE(dim, bits, backend=backend)
        return tq_core.VectorCodec(inner, search=9 if quantizer.endswith("9") else 0)
    if quantizer.startswith("prod"):
        if bits < 2:
            return None
        sketch = "hadamard" if quantizer.endswith("hadamard") else "gaussian"
        return tq_core.VectorCodec(tq_core.TurboQuantProd(dim, bits, sketch=sketch, backend=backend))
    if dim.bit_count() != 1:
        return None
    return tq_core.VectorCodec(tq_core.PolarQuant(dim, bits, backend=backend))


def cells(options: argparse.Namespace) -> Iterator[tuple[str, int, int, str]]:
    """Quantizer, dim, bits, backend of each line."""
    for dim in options.dim:
        for quantizer in options.quantizer:
            for bits in options.bits:
                for backend in options.backend:
                    yield quantizer, dim, bits, backend


def references(x: np.ndarray, queries: np.ndarray) -> dict[str, tuple[Call, int]]:
    """memcpy and sgemm on the uncompressed rows: the call, and the coordinates it handles."""
    copy, product = np.empty_like(x), np.empty((len(queries), len(x)), np.float32)
    return {
        "memcpy": (lambda: np.copyto(copy, x), x.size),
        "sgemm": (lambda: np.matmul(queries, x.T, out=product), x.size * len(queries)),
    }


def operations(codec: tq_core.VectorCodec, x: np.ndarray, queries: np.ndarray) -> dict[str, tuple[Call, int]]:
    """The codec's three operations on the same data."""
    encoded = codec.encode(x)
    return {
        "encode": (lambda: codec.encode(x), x.size),
        "decode": (lambda: codec.decode(encoded), x.size),
        "scores": (lambda: codec.scores(encoded, queries), x.size * len(queries)),
    }


def measure(calls: dict[str, tuple[Call, int]], turns: int) -> dict[str, float]:
    """Median CPU nanoseconds a coordinate of each call; a turn lasts a few milliseconds at least."""
    repeats = {}
    for name, (call, _) in calls.items():
        call()
        started = time.process_time_ns()
        call()
        repeats[name] = max(1, int(4e6 / max(1, time.process_time_ns() - started)))
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(turns):
        for name, (call, coordinates) in calls.items():
            started = time.process_time_ns()
            for _ in range(repeats[name]):
                call()
            found[name].append((time.process_time_ns() - started) / repeats[name] / coordinates)
    return {name: round(statistics.median(times), 4) for name, times in found.items()}


def main() -> int:
    """0; writes the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quantizer", nargs="+", choices=QUANTIZERS, default=list(QUANTIZERS))
    parser.add_argument("--bits", nargs="+", type=int, default=[1, 2, 3, 4, 8])
    parser.add_argument("--dim", nargs="+", type=int, default=[64, 128, 1536])
    parser.add_argument("--backend", nargs="+", default=["numpy"], help="see tq_core.backends()")
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--queries", type=int, default=16)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--json", type=Path, default=HERE / "results" / "throughput.json", metavar="FILE")
    options = parser.parse_args()
    random = np.random.default_rng(5)
    lines = []
    print("ns of CPU a coordinate (scores, sgemm: a pair of coordinates)")
    print(
        f"{'quantizer':<14} {'dim':>5} {'bits':>4} {'backend':<8} {'bytes':>6}"
        f" {'encode':>8} {'decode':>8} {'scores':>8} {'memcpy':>8} {'sgemm':>8}"
    )
    for quantizer, dim, bits, backend in cells(options):
        codec = codec_of(quantizer, dim, bits, backend)
        if codec is None:
            continue
        x = random.standard_normal((options.rows, dim)).astype(np.float32)
        queries = random.standard_normal((options.queries, dim)).astype(np.float32)
        times = measure(operations(codec, x, queries) | references(x, queries), options.turns)
        size = codec.bits_per_vector // 8
        line = {"quantizer": quantizer, "dim": dim, "bits": bits, "backend": backend, "bytes_per_vector": size}
        lines.append({**line, **times})
        print(
            f"{quantizer:<14} {dim:>5} {bits:>4} {backend:<8} {size:>6} "
            + " ".join(f"{value:8.3f}" for value in times.values()),
            flush=True,
        )
    document = {
        **describe(),
        "unit": "nanoseconds of CPU a coordinate, median; scores and sgemm a pair of coordinates",
        "rows": options.rows,
        "queries": options.queries,
        "turns": options.turns,
        "scalar_compiled": tq_core.COMPILED,
        "lines": lines,
    }
    options.json.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
