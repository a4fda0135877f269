"""Scores and searches straight from packed codes beside the read floor of the same bytes and beside float32 BLAS.

Unit: ns per row and query; sizes are chosen so that the packed codes do not fit into any cache. Codes are random bytes,
which costs the kernels what real codes cost; error ratios come from real ones. Set OPENBLAS_NUM_THREADS=1 and TQ_ISA.
"""

import argparse
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from timing import Times, interleaved, save

from tq_core import TurboQuantMSE, TurboQuantProd, VectorCodec
from tq_kernels_simd import _simd
from tq_kernels_simd.backend import ACCURACIES
from tq_kernels_simd.plan import pack_plan

F32 = NDArray[np.float32]
K = 10


def speed(dim: int, bits: int, megabytes: int, repeats: int) -> list[dict[str, Any]]:
    """Scan and search of 1, 8 and 32 queries."""
    plan = VectorCodec(TurboQuantMSE(dim, bits, backend="simd")).plan
    generator = np.random.default_rng(1)
    rows = (megabytes << 20) // plan.row_bytes
    packed = generator.integers(0, 256, (rows, plan.row_bytes), dtype=np.uint8)
    scales, capsule = np.ones(rows, np.float32), pack_plan(plan)
    words = packed.reshape(-1)[: packed.size // 8 * 8].view(np.uint64)
    floats = generator.standard_normal((max(64 << 20, 40_000 * dim * 4) // (4 * dim), dim), dtype=np.float32)
    lines = []
    for count in (1, 8, 32):
        some = rows if count == 1 else rows // 4
        queries = generator.standard_normal((count, dim), dtype=np.float32)
        out, found = np.empty((count, some), np.float32), np.empty((count, K), np.float32)
        indices, part = np.empty((count, K), np.int64), (packed[:some], scales[:some], None, queries)
        cases = {
            "read": partial(np.bitwise_or.reduce, words[: words.size * some // rows]),
            "int8": partial(_simd.scores, capsule, *part, out, ACCURACIES["int8"], 1),
            "search": partial(_simd.search, capsule, *part, None, K, ACCURACIES["auto"], found, indices, 1),
            "blas": partial(np.matmul, floats, queries[0] if count == 1 else np.ascontiguousarray(queries.T)),
        }
        if count > 1:  # BLAS has a better and a worse side
            cases["blas turned"] = partial(np.matmul, queries, floats.T)
        times = interleaved(cases, repeats)
        lines.append(
            {"dim": dim, "bits": bits, "rows": some, "queries": count, **_ratios(times, some, count, len(floats))}
        )
    return lines


def _ratios(times: Times, rows: int, count: int, float_rows: int) -> dict[str, float]:
    scan, read = times.median("int8") / rows / count, times.median("read") / rows
    blas = min(times.median(name) for name in times if name.startswith("blas")) / float_rows / count
    return {
        "scan_ns": scan,
        "search_ns": times.median("search") / rows / count,
        "read_floor_ns": read,
        **({"scan_per_read": scan / read} if count == 1 else {}),
        "blas_ns": blas,
        "blas_per_scan": blas / scan,
        "spread": times.spread("int8"),
    }


def widths(dim: int, megabytes: int, repeats: int) -> list[dict[str, Any]]:
    """The widths against each other at one number of rows, interleaved; and prod, whose last bit is a sketch."""
    generator = np.random.default_rng(1)
    rows = (megabytes << 20) // (dim // 2)
    scales, query = np.ones(rows, np.float32), generator.standard_normal((1, dim), dtype=np.float32)
    out, cases = np.empty((1, rows), np.float32), {}
    quantizers: dict[str, TurboQuantMSE | TurboQuantProd] = {
        **{f"mse{bits}": TurboQuantMSE(dim, bits) for bits in range(1, 9)},
        "prod4": TurboQuantProd(dim, 4, sketch="hadamard"),
    }
    for name, quantizer in quantizers.items():
        packed = generator.integers(0, 256, (rows, quantizer.plan.row_bytes), dtype=np.uint8)
        gammas = scales if quantizer.plan.sketch is not None else None
        capsule = pack_plan(quantizer.plan)
        for accuracy in ("int8", "int16", "exact"):
            some = rows if accuracy == "int8" else rows // 16
            part = (packed[:some], scales[:some], None if gammas is None else gammas[:some], query, out[:, :some])
            cases[f"{name} {accuracy}"] = partial(_simd.scores, capsule, *part, ACCURACIES[accuracy], 1)
    times = interleaved(cases, repeats)
    per_row = {name: times.median(name) / (rows if name.endswith("int8") else rows // 16) for name in cases}
    return [
        {
            "dim": dim,
            "codes": name,
            "ns": ns,
            "times_mse4_int8": ns / per_row["mse4 int8"],
            "spread": times.spread(name),
        }
        for name, ns in per_row.items()
    ]


def errors(kind: str, dim: int, bits: int) -> dict[str, Any]:
    """What each arithmetic adds, relative to the quantization error; recall of auto against exact search."""
    generator = np.random.default_rng(2)
    rows, count = 20_000, 100
    x = generator.standard_normal((rows + count, dim), dtype=np.float32)
    if kind == "clustered":
        x += generator.standard_normal((100, dim), dtype=np.float32)[generator.integers(0, 100, rows + count)]
    codec = VectorCodec(TurboQuantMSE(dim, bits, backend="simd"))
    encoded, queries = codec.encode(x[:rows]), x[rows:]
    exact = codec.scores(encoded, queries)
    noise = float(np.std(queries @ x[:rows].T - exact))
    found = {
        accuracy: codec.search(encoded, queries, K, accuracy=accuracy)[1] for accuracy in ("exact", "auto", "int8")
    }
    same = {}
    for name, found_rows in found.items():
        shared = [len(set(a) & set(b)) / K for a, b in zip(found_rows, found["exact"], strict=True)]
        same[name] = float(np.mean(shared))
    return {
        "data": kind,
        "dim": dim,
        "bits": bits,
        "int16_added": float(np.std(codec.scores(encoded, queries, accuracy="int16") - exact)) / noise,
        "int8_added": float(np.std(codec.scores(encoded, queries, accuracy="int8") - exact)) / noise,
        "auto_recall_of_exact": same["auto"],
        "int8_recall_of_exact": same["int8"],
    }


def main() -> None:
    """Parse, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dims", type=int, nargs="+", default=[128, 768, 1536])
    parser.add_argument("--bits", type=int, nargs="+", default=[2, 3, 4])
    parser.add_argument("--megabytes", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json")
    options = parser.parse_args()
    lines: list[dict[str, Any]] = []
    for dim in options.dims:
        for bits in options.bits:
            lines += speed(dim, bits, options.megabytes, options.repeats)
            lines += [errors(kind, dim, bits) for kind in ("isotropic", "clustered")]
        lines += widths(dim, options.megabytes, options.repeats)
    save(lines, options.json)


if __name__ == "__main__":
    main()
