"""One decode step of one layer: append a token and attend to all, on packed codes and on float32 arrays.

8 key/value heads, 32 query heads, head_dim 128, `k=mse4,v=mse4` unless said otherwise. The float32 side attends with
batched matrix products over the very numbers that the codes decode to, laid out once before timing, as a float cache
would hold them; its append writes into room that is there. `attend_integer` is `attend` with `accuracy="integer"`. All
take turns in one process; figures are medians of CPU time, BLAS on one thread. `append` is measured at each length by
itself, too: its cost must not grow with the length.
`bytes_ratio` is the layer's whole ledger over float16, tables included, with room made for its tokens (`capacity=`);
the bar is 0.28 at 4 bits from 4,096 tokens on, as the tables are the same for any length. `grown_ratio` is that of a
layer that grew by appends, up to a sixteenth of spare room included.

Example:  uv run --all-packages python packages/tq-cache/bench/attention.py
          uv run --all-packages python packages/tq-cache/bench/attention.py --tokens 1024 --turns 3 --json step.json
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

for _variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_variable] = "1"  # read when numpy is imported, hence the late imports

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parents[1] / "tq-core" / "bench"))  # `machine`, which says where a result came from

import numpy as np  # noqa: E402
from machine import describe  # noqa: E402

from tq_cache import MultiHeadKVCache  # noqa: E402

KV_HEADS, QUERY_HEADS, HEAD_DIM, CHUNK = 8, 32, 128, 1024
APPEND_LENGTHS = (1024, 2048, 4096, 8192, 16384, 32768)
BAR = 0.28


def filled(policy: str, backend: str, tokens: int, random: np.random.Generator, room: int = 0) -> MultiHeadKVCache:
    """A layer that holds that many tokens; `room` for how many was made at once."""
    layer = MultiHeadKVCache(KV_HEADS, HEAD_DIM, policy, backend=backend, capacity=room)
    for start in range(0, tokens, CHUNK):
        shape = (2, KV_HEADS, min(CHUNK, tokens - start), HEAD_DIM)
        layer.append(*random.standard_normal(shape, np.float32))
    return layer


def float_attention(queries: np.ndarray, keys: np.ndarray, values: np.ndarray) -> np.ndarray:
    """softmax(q K^T / sqrt(d)) V of (kv_heads, groups, d) queries."""
    scores = np.matmul(queries, keys.swapaxes(1, 2))
    scores *= np.float32(HEAD_DIM**-0.5)
    scores -= scores.max(axis=2, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=2, keepdims=True)
    return np.matmul(scores, values)


def medians(calls: dict[str, Callable[[], Any]], turns: int) -> dict[str, dict[str, float]]:
    """Median and spread (90th less 10th percentile) of CPU milliseconds of each call; calls take turns."""
    for call in calls.values():
        call()
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(turns):
        for name, call in calls.items():
            started = time.process_time_ns()
            call()
            found[name].append((time.process_time_ns() - started) / 1e6)
    return {
        name: {
            "ms": round(statistics.median(times), 4),
            "spread_ms": round(float(np.ptp(np.percentile(times, (10, 90)))), 4),
        }
        for name, times in found.items()
    }


def step(layer: MultiHeadKVCache, turns: int, random: np.random.Generator) -> dict[str, Any]:
    """Append and attend of one token on both sides, at the length that the layer has."""
    tokens = len(layer)
    room = np.empty((2, KV_HEADS, tokens + 2 * turns + 4, HEAD_DIM), np.float32)
    room[0, :, :tokens], room[1, :, :tokens] = layer.keys(), layer.values()
    new = random.standard_normal((2, KV_HEADS, 1, HEAD_DIM), np.float32)
    queries = random.standard_normal((QUERY_HEADS, 1, HEAD_DIM), np.float32)
    grouped = queries.reshape(KV_HEADS, QUERY_HEADS // KV_HEADS, HEAD_DIM)
    error = float(
        np.abs(layer.attend(queries).reshape(grouped.shape) - float_attention(grouped, *room[:, :, :tokens])).max()
    )

    def append() -> None:
        layer.append(*new)

    def append_float() -> None:
        room[:, :, tokens : tokens + 1] = new

    calls = {
        "append": append,
        "attend": lambda: layer.attend(queries),
        "attend_integer": lambda: layer.attend(queries, accuracy="integer"),
        "float32_append": append_float,
        "float32_attend": lambda: float_attention(grouped, *room[:, :, :tokens]),
    }
    times = medians(calls, turns)
    layer.crop(tokens)
    packed, integer, plain = (
        times[add]["ms"] + times[attend]["ms"]
        for add, attend in (
            ("append", "attend"),
            ("append", "attend_integer"),
            ("float32_append", "float32_attend"),
        )
    )
    grown = layer.ledger()
    return {
        "tokens": tokens,
        **times,
        "step_over_float32": round(packed / plain, 3),
        "integer_step_over_float32": round(integer / plain, 3),
        "largest_difference": error,
        "grown_ratio": round(grown.total / grown.exact_bytes("float16"), 4),
    }


def sized(layer: MultiHeadKVCache) -> dict[str, Any]:
    """Bytes of a layer that had room for its tokens from the start."""
    ledger = layer.ledger()
    ratio = round(ledger.total / ledger.exact_bytes("float16"), 4)
    return {"bytes": ledger.total, "ledger": ledger.items, "bytes_ratio": ratio}


def append_cost(
    policy: str, backend: str, lengths: list[int], turns: int, random: np.random.Generator
) -> list[dict[str, Any]]:
    """CPU milliseconds of appending one token at each length; the rare call that moves the arrays is in the worst."""
    layer = MultiHeadKVCache(KV_HEADS, HEAD_DIM, policy, backend=backend)
    found = []
    for tokens in sorted(lengths):
        while len(layer) < tokens:
            shape = (2, KV_HEADS, min(CHUNK, tokens - len(layer)), HEAD_DIM)
            layer.append(*random.standard_normal(shape, np.float32))
        new = random.standard_normal((2, KV_HEADS, 1, HEAD_DIM), np.float32)
        times = []
        for _ in range(turns):
            started = time.process_time_ns()
            layer.append(*new)
            times.append((time.process_time_ns() - started) / 1e6)
        layer.crop(tokens)
        found.append({"tokens": tokens, "ms": round(statistics.median(times), 4), "worst_ms": round(max(times), 4)})
    return found


def main() -> int:
    """0, or 1 where 4 bits take more than the bar; writes the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", nargs="+", type=int, default=[4096, 32768])
    parser.add_argument("--policy", default="k=mse4,v=mse4")
    parser.add_argument("--backend", default="auto", help="see tq_core.backends()")
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--json", type=Path, default=HERE / "results" / "attention.json", metavar="FILE")
    options = parser.parse_args()
    random = np.random.default_rng(17)
    print(f"ms of CPU a step of one layer, {options.policy}, {KV_HEADS} key/value heads, {QUERY_HEADS} query heads")
    print(
        f"{'tokens':>7} {'append':>8} {'attend':>8} {'integer':>8} {'float32 attend':>15} {'step / float32':>15}"
        f" {'integer step':>13} {'bytes / float16':>16}"
    )
    steps = []
    for tokens in options.tokens:
        line = step(filled(options.policy, options.backend, tokens, random), options.turns, random)
        line |= sized(filled(options.policy, options.backend, tokens, random, room=tokens))
        steps.append(line)
        print(
            f"{tokens:>7} {line['append']['ms']:8.2f} {line['attend']['ms']:8.2f} {line['attend_integer']['ms']:8.2f}"
            f" {line['float32_attend']['ms']:15.2f} {line['step_over_float32']:15.2f}"
            f" {line['integer_step_over_float32']:13.2f} {line['bytes_ratio']:16.4f}",
            flush=True,
        )
    lengths = [length for length in APPEND_LENGTHS if length <= max(options.tokens)]
    appends = append_cost(options.policy, options.backend, lengths, 3 * options.turns, random)
    print("append of one token:", ", ".join(f"{line['tokens']}: {line['ms']:.2f} ms" for line in appends))
    document = {
        **describe(),
        "unit": "milliseconds of CPU, median; spread is the 90th less the 10th percentile",
        "policy": options.policy,
        "backend": options.backend,
        "turns": options.turns,
        "kv_heads": KV_HEADS,
        "query_heads": QUERY_HEADS,
        "head_dim": HEAD_DIM,
        "bytes_ratio_bar": BAR,
        "steps": steps,
        "append": appends,
    }
    options.json.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    held_to = [line for line in steps if options.policy == "k=mse4,v=mse4" and line["tokens"] >= 4096]
    over = [line["tokens"] for line in held_to if line["bytes_ratio"] > BAR]
    if over:
        print(f"more than {BAR} of float16 at {over} tokens", file=sys.stderr)
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())
