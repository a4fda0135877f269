"""What trellis codes cost beside 4-bit scalar codes: encoding, decoding, scores and attention, at one dimension.

Each operation runs over the same rows in both codes, in turn, in one process; figures are CPU times of the whole
process. `over_exact` compares exact with exact, `over_integers` what both do when asked for int8 scores or integer
attention; attention over trellis codes is exact at every accuracy. `added` is what int8 scores add to the error, in
standard deviations of the quantization error. Set OPENBLAS_NUM_THREADS=1 and TQ_ISA before starting.
"""

import argparse
from functools import partial
from typing import Any

import numpy as np
from timing import interleaved, save

from tq_core import TrellisQuant, TurboQuantMSE, VectorCodec
from tq_kernels_simd import SimdBackend
from tq_kernels_simd.attention import PackedAttention

DIM = 128
HEADS = (4, 8)  # query heads that share a key head
QUERIES = (1, 32)
ACCURACIES = {"exact": ("exact", "exact"), "integers": ("int8", "integer")}
BACKEND = SimdBackend()


def operations(codec: VectorCodec, x: np.ndarray, accuracies: tuple[str, str]) -> dict[str, partial[Any]]:
    """What is done with the rows in one code; the accuracies are those of scores and of attention."""
    encoded, few = codec.encode(x), x[:1024]  # encoding is slow, and as fast for few rows
    scales = encoded.arrays["scales"].astype(np.float32)[None]
    stored = codec.plan, encoded.arrays["packed"], scales[0], None
    found: dict[str, partial[Any]] = {
        "encode": partial(BACKEND.encode, codec.plan, few),
        "decode": partial(BACKEND.decode, *stored),
    }
    for count in QUERIES:
        queries = np.random.default_rng(1).standard_normal((count, DIM), np.float32)
        found[f"scores {count}"] = partial(BACKEND.scores, *stored, queries, accuracy=accuracies[0])
    door = PackedAttention(codec.plan, codec.plan, BACKEND, accuracy=accuracies[1])
    tokens = encoded.arrays["packed"][None], scales
    for heads in HEADS:
        queries = np.random.default_rng(2).standard_normal((1, heads, 1, DIM), np.float32)
        found[f"attention {heads}"] = partial(door.attend, *tokens, *tokens, queries, scale=DIM**-0.5)
    return found


def measure(bits: int, states: int, rows: int, repeats: int) -> list[dict[str, Any]]:
    """One line an operation."""
    x = np.random.default_rng(0).standard_normal((rows, DIM), np.float32)
    codecs = {
        "trellis": VectorCodec(TrellisQuant(DIM, bits, states=states, backend="simd")),
        "scalar": VectorCodec(TurboQuantMSE(DIM, 4, backend="simd")),
    }
    codes = {
        (name, how): operations(codec, x, accuracies)
        for name, codec in codecs.items()
        for how, accuracies in ACCURACIES.items()
    }
    lines = []
    for operation in codes["trellis", "exact"]:
        times = interleaved({f"{name} {how}": run[operation] for (name, how), run in codes.items()}, repeats)
        count = 1024 if operation == "encode" else rows
        line: dict[str, Any] = {"dim": DIM, "bits": bits, "states": states, "operation": operation}
        line["ns_per_vector"] = times.median("trellis exact") / count
        line["integer_ns_per_vector"] = times.median("trellis integers") / count
        line["spread"] = times.spread("trellis exact")
        line["over_exact"] = times.median("trellis exact") / times.median("scalar exact")
        line["over_integers"] = times.median("trellis integers") / times.median("scalar integers")
        lines.append(line)
        if not operation.startswith("scores"):
            continue
        exact, rounded = (codes["trellis", how][operation]() for how in ACCURACIES)
        queries = codes["trellis", "exact"][operation].args[-1]
        line["added"] = float((rounded - exact).std() / (exact - queries @ x.T).std())
    return lines


def main() -> None:
    """Parse, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bits", type=int, nargs="+", default=[1, 2, 3, 4])
    parser.add_argument("--states", type=int, nargs="+", default=[8, 256, 1024, 4096])
    parser.add_argument("--rows", type=int, default=32_768)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json")
    given = parser.parse_args()
    cells = [(bits, states) for bits in given.bits for states in given.states]
    save([line for cell in cells for line in measure(*cell, given.rows, given.repeats)], given.json)


if __name__ == "__main__":
    main()
