"""Top-10 search and encoding beside other libraries: same data, same bits, one thread, recall beside speed.

Peers are optional and imported from the environment at hand; one that is missing is said to be missing. Times are CPU
times of the whole process, so a peer that starts threads is charged for them. Set OPENBLAS_NUM_THREADS=1,
OMP_NUM_THREADS=1, RAYON_NUM_THREADS=1 and TQ_ISA before starting. Peers choose their own instruction sets; variables of
theirs that forbid some (TURBOVEC_*) are recorded with the result. In each round the bytes that a library stores are
read once, from start to end: no search that looks at all of them takes less.
"""

import argparse
import importlib
import os
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from timing import interleaved, save

from tq_core import TurboQuantMSE, VectorCodec
from tq_kernels_simd import _simd

F32 = NDArray[np.float32]
Found = NDArray[np.int64]
K = 10


def vectors(kind: str, rows: int, queries: int, dim: int) -> tuple[F32, F32]:
    """Unit rows and queries: isotropic, or 200 clusters whose members deviate by as much as their centres."""
    generator = np.random.default_rng(11)
    x = generator.standard_normal((rows + queries, dim), dtype=np.float32)
    if kind == "clustered":
        x += generator.standard_normal((200, dim), dtype=np.float32)[generator.integers(0, 200, rows + queries)]
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return x[:rows], x[rows:]


def ours(accuracy: str) -> Callable[[F32, int], tuple[Callable[[F32], Found], float]]:
    """Search by VectorCodec on the C kernels."""

    def build(x: F32, bits: int) -> tuple[Callable[[F32], Found], float]:
        codec = VectorCodec(TurboQuantMSE(x.shape[1], bits, backend="simd"))
        encoded = codec.encode(x)
        return lambda q: codec.search(encoded, q, K, accuracy=accuracy)[1], encoded.nbytes / len(x)

    return build


def turbovec(x: F32, bits: int) -> tuple[Callable[[F32], Found], float]:
    """turbovec's flat index."""
    library = importlib.import_module("turbovec")
    index = library.TurboQuantIndex(x.shape[1], bits)
    index.add(x)
    index.prepare()
    return lambda q: np.asarray(index.search(q, K)[1]), x.shape[1] * bits / 8 + 4


def faiss_turboquant(x: F32, bits: int) -> tuple[Callable[[F32], Found], float]:
    """faiss's scalar quantizer of the same name behind a random rotation."""
    library = importlib.import_module("faiss")
    library.omp_set_num_threads(1)
    dim = x.shape[1]
    kind = getattr(library.ScalarQuantizer, f"QT_{bits}bit_tqmse")
    index = library.IndexPreTransform(
        library.RandomRotationMatrix(dim, dim), library.IndexScalarQuantizer(dim, kind, library.METRIC_INNER_PRODUCT)
    )
    index.train(x[:5000])
    index.add(x)
    return lambda q: index.search(q, K)[1], float(index.index.sa_code_size())


def rabitq(x: F32, bits: int) -> tuple[Callable[[F32], Found], float]:
    """RaBitQ's inverted file with a single list, all of it probed: a flat scan."""
    library = importlib.import_module("rabitqlib")
    index = library.IvfIndex(x.shape[1], len(x), 1, bits, metric="ip")
    centroid = x.mean(axis=0, keepdims=True)
    index.build(x, centroid, np.zeros(len(x), np.uint32))
    return lambda q: np.asarray(index.search(q, K, 1)[0]).astype(np.int64), x.shape[1] * bits / 8 + 12


BUILDERS = {
    "tq auto": ours("auto"),
    "tq int8": ours("int8"),
    "turbovec": turbovec,
    "faiss tqmse": faiss_turboquant,
    "rabitq": rabitq,
}


def recall(found: Found, truth: Found) -> float:
    """Share of the true ten among those found."""
    return float(np.mean([len(set(a) & set(b)) / K for a, b in zip(found.tolist(), truth.tolist(), strict=True)]))


def measure(kind: str, rows: int, dim: int, bits: int, counts: list[int], repeats: int) -> list[dict[str, Any]]:
    """One line per number of queries and library."""
    x, queries = vectors(kind, rows, 200, dim)
    truth = np.argsort(-(queries @ x.T), axis=1)[:, :K]
    built: dict[str, tuple[Callable[[F32], Found], float]] = {}
    lines: list[dict[str, Any]] = []
    for name, build in BUILDERS.items():
        try:
            built[name] = build(x, bits)
        except ImportError:
            lines.append({"data": kind, "library": name, "state": "not installed"})
        except (AttributeError, TypeError, ValueError, RuntimeError) as error:
            lines.append({"data": kind, "library": name, "state": f"cannot be built like this: {error}"})
    recalls = {name: recall(np.asarray(search(queries)), truth) for name, (search, _) in built.items()}
    for count in counts:
        some = np.ascontiguousarray(queries[:count])
        cases = {name: partial(search, some) for name, (search, _) in built.items()}
        for name, (_, size) in built.items():
            cases[f"read {name}"] = partial(_simd.probe_read, np.ones(int(size * rows), np.uint8))
        times = interleaved(cases, repeats)
        for name, (_, size) in built.items():
            lines.append(
                {
                    "data": kind,
                    "dim": dim,
                    "bits": bits,
                    "rows": rows,
                    "queries": count,
                    "library": name,
                    "bytes_per_vector": size,
                    "ns_per_row_and_query": times.median(name) / rows / count,
                    "spread": times.spread(name),
                    "read_ns_per_row": times.median(f"read {name}") / rows,
                    "times_read": times.median(name) / times.median(f"read {name}"),
                    "times_tq_auto": times.median(name) / times.median("tq auto"),
                    "recall_at_10": recalls[name],
                    "forbidden": " ".join(sorted(key for key in os.environ if key.startswith("TURBOVEC_"))),
                }
            )
    return lines


def measure_storing(rows: int, dim: int, bits: int, repeats: int) -> list[dict[str, Any]]:
    """One line for each way to encode the rows: the codec, the kernel beneath it, and turbovec's `add` to an index."""
    x, _ = vectors("isotropic", rows, 0, dim)
    codec = VectorCodec(TurboQuantMSE(dim, bits, backend="simd"))
    cases: dict[str, Callable[[], Any]] = {
        "tq encode": partial(codec.encode, x),
        "tq kernel": partial(codec.quantizer.backend.encode, codec.plan, x),
    }
    try:
        library = importlib.import_module("turbovec")
        cases["turbovec add"] = lambda: library.TurboQuantIndex(dim, bits).add(x)
    except ImportError:
        print("turbovec: not installed")
    times = interleaved(cases, repeats)
    return [
        {
            "data": "storing",
            "dim": dim,
            "bits": bits,
            "rows": rows,
            "library": name,
            "ns_per_row": times.median(name) / rows,
            "spread": times.spread(name),
            "times_tq_encode": times.median(name) / times.median("tq encode"),
        }
        for name in cases
    ]


def main() -> None:
    """Parse, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dims", type=int, nargs="+", default=[768])
    parser.add_argument("--bits", type=int, nargs="+", default=[4])
    parser.add_argument("--queries", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json")
    options = parser.parse_args()
    lines: list[dict[str, Any]] = []
    for kind in ("isotropic", "clustered"):
        for dim in options.dims:
            for bits in options.bits:
                lines += measure(kind, options.rows, dim, bits, options.queries, options.repeats)
    for dim in options.dims:
        for bits in options.bits:
            lines += measure_storing(options.rows, dim, bits, options.repeats)
    save(lines, options.json)


if __name__ == "__main__":
    main()
