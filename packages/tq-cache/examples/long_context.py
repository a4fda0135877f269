"""Peak memory of a long context: a float16 cache beside a quantized one, each in a process of its own.

Either process takes in the same synthetic keys and values chunk by chunk, for every layer, and then attends once a
layer with 4 query heads for each key/value head. The float16 one computes in float32, a tile of tokens at a time, so
that its peak is the cache and not a float32 copy of it; the quantized one attends on packed codes with the same scratch
memory. A third process imports numpy and tq_cache and does nothing: what the other two have above it is the cache and
its use. Keys and values are independent normal numbers, which say nothing about quality in a model; the error is there
to show that both processes computed the same thing. BLAS runs on one thread.

Example:  uv run --all-packages python packages/tq-cache/examples/long_context.py
          uv run --all-packages python packages/tq-cache/examples/long_context.py --tokens 131072 --layers 2 \\
              --policy "k=mse3,v=mse2" --json long_context.json
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

for _variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_variable] = "1"  # read when numpy is imported, hence the late imports

import numpy as np  # noqa: E402

from tq_cache import DecoderCache  # noqa: E402

KV_HEADS, HEAD_DIM, GROUPS, CHUNK = 8, 128, 4, 512
MIB = 1 << 20


def chunks(layer: int, tokens: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Keys and values (kv_heads, n, head_dim) float16, the same in every process."""
    for start in range(0, tokens, CHUNK):
        random = np.random.default_rng([layer, start])
        shape = (2, KV_HEADS, min(CHUNK, tokens - start), HEAD_DIM)
        keys, values = random.standard_normal(shape, np.float32).astype(np.float16)
        yield keys, values


def queries(layer: int) -> np.ndarray:
    """(query_heads, 1, head_dim) float32, long enough that attention has a few favourites."""
    return 2 * np.random.default_rng([layer, 1, 1]).standard_normal((KV_HEADS * GROUPS, 1, HEAD_DIM), np.float32)


def tiled_attention(asked: np.ndarray, keys: np.ndarray, values: np.ndarray, tile: int) -> np.ndarray:
    """softmax(q K^T / sqrt(d)) V of (kv_heads, groups, d) queries on float16 arrays, float32 tile by tile."""
    largest = np.full((*asked.shape[:2], 1), -np.inf, np.float32)
    total, summed = np.zeros_like(largest), np.zeros_like(asked)
    for start in range(0, keys.shape[1], tile):
        scores = asked @ keys[:, start : start + tile].astype(np.float32).swapaxes(1, 2) * np.float32(HEAD_DIM**-0.5)
        peak = np.maximum(largest, scores.max(axis=2, keepdims=True))
        weights, faded = np.exp(scores - peak), np.exp(largest - peak)
        total = total * faded + weights.sum(axis=2, keepdims=True)
        summed = summed * faded + weights @ values[:, start : start + tile].astype(np.float32)
        largest = peak
    return summed / total


def run_float16(options: argparse.Namespace) -> tuple[dict[str, Any], np.ndarray]:
    """The uncompressed process: figures, and outputs (layers, query_heads, head_dim)."""
    shape = (options.layers, KV_HEADS, options.tokens, HEAD_DIM)
    keys, values = np.empty(shape, np.float16), np.empty(shape, np.float16)
    started = time.process_time()
    for layer in range(options.layers):
        at = 0
        for new_keys, new_values in chunks(layer, options.tokens):
            span = slice(at, at + new_keys.shape[1])
            keys[layer, :, span], values[layer, :, span] = new_keys, new_values
            at = span.stop
    filled = time.process_time()
    tile = max(16, options.workspace_mib * MIB // (4 * KV_HEADS * (HEAD_DIM + 2 * GROUPS)))
    found = [
        tiled_attention(queries(layer).reshape(KV_HEADS, GROUPS, HEAD_DIM), keys[layer], values[layer], tile)
        for layer in range(options.layers)
    ]
    done = time.process_time()
    figures = {"cache_bytes": keys.nbytes + values.nbytes, "fill_s": filled - started, "attend_s": done - filled}
    return figures, np.stack(found).reshape(options.layers, -1, HEAD_DIM)


def run_quantized(options: argparse.Namespace) -> tuple[dict[str, Any], np.ndarray]:
    """The quantized process, as `run_float16`."""
    cache = DecoderCache(options.layers, KV_HEADS, HEAD_DIM, options.policy, capacity=options.tokens)
    started = time.process_time()
    for layer in range(options.layers):
        for keys, values in chunks(layer, options.tokens):
            cache.append(keys[None], values[None], layer)
    filled = time.process_time()
    workspace = options.workspace_mib * MIB
    found = [cache.attend(queries(layer)[None], layer, workspace_bytes=workspace) for layer in range(options.layers)]
    done = time.process_time()
    ledger = cache.ledger()
    figures = {
        "policy": str(cache.policy),
        "cache_bytes": ledger.total,
        "ledger": ledger.items,
        "bits_per_value": round(ledger.bits_per_value, 4),
        "fill_s": filled - started,
        "attend_s": done - filled,
    }
    return figures, np.stack(found).reshape(options.layers, -1, HEAD_DIM)


def peak_bytes() -> int:
    """The most memory this process ever had in use (resident)."""
    try:
        for line in Path("/proc/self/status").read_text("utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) << 10
    except OSError:
        pass
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most << 10


def child(options: argparse.Namespace) -> int:
    """One process of the comparison: prints its figures as JSON, leaves its outputs in a file."""
    figures: dict[str, Any] = {}
    if options.child != "imports":
        figures, outputs = (run_float16 if options.child == "float16" else run_quantized)(options)
        np.save(options.outputs, outputs)
    print(json.dumps({**figures, "peak_bytes": peak_bytes()}))
    return 0


def measure(options: argparse.Namespace, folder: Path) -> dict[str, dict[str, Any]]:
    """Figures of the three processes by name, one after the other."""
    found = {}
    for name in ("imports", "float16", "quantized"):
        arguments = ["--tokens", options.tokens, "--layers", options.layers, "--workspace-mib", options.workspace_mib]
        arguments += ["--policy", options.policy, "--child", name, "--outputs", folder / f"{name}.npy"]
        run = subprocess.run(
            [sys.executable, __file__, *map(str, arguments)], stdout=subprocess.PIPE, text=True, check=True
        )
        found[name] = json.loads(run.stdout)
    exact, coded = (np.load(folder / f"{name}.npy") for name in ("float16", "quantized"))
    found["quantized"]["output_error"] = float(np.sqrt(np.square(coded - exact).sum() / np.square(exact).sum()))
    base = found["imports"]["peak_bytes"]
    for figures in found.values():
        figures["above_imports_bytes"] = figures["peak_bytes"] - base
    return found


def table(found: dict[str, dict[str, Any]]) -> str:
    """The comparison as text."""
    lines = [
        f"{'process':<11}{'peak MiB':>10}{'above imports':>15}{'cache MiB':>11}{'fill CPU s':>12}{'attend CPU s':>14}"
    ]
    for name, figures in found.items():
        line = f"{name:<11}{figures['peak_bytes'] / MIB:>10.0f}{figures['above_imports_bytes'] / MIB:>15.0f}"
        if "cache_bytes" in figures:
            line += f"{figures['cache_bytes'] / MIB:>11.1f}{figures['fill_s']:>12.1f}{figures['attend_s']:>14.2f}"
        lines.append(line)
    exact, coded = found["float16"], found["quantized"]
    lines.append(
        f"peak above imports: {coded['above_imports_bytes'] / exact['above_imports_bytes']:.3f} of float16; "
        f"cache bytes: {coded['cache_bytes'] / exact['cache_bytes']:.3f}; "
        f"{coded['bits_per_value']} bits a value; relative error of the outputs {coded['output_error']:.3f}"
    )
    return "\n".join(lines)


def main() -> int:
    """0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=32768)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument(
        "--policy", default="k=mse4,v=mse4", help="how keys and values are stored (default %(default)s)"
    )
    parser.add_argument("--workspace-mib", type=int, default=4, help="scratch memory of attention, MiB")
    parser.add_argument("--quick", action="store_true", help="2,048 tokens in 2 layers, to see that it runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--child", choices=("imports", "float16", "quantized"), help=argparse.SUPPRESS)
    parser.add_argument("--outputs", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.tokens < 1 or options.layers < 1 or options.workspace_mib < 1:
        parser.error("--tokens, --layers and --workspace-mib are 1 or more")
    if options.quick:
        options.tokens, options.layers = 2048, 2
    if options.child:
        return child(options)
    print(
        f"{options.tokens:,} tokens, {options.layers} layers of {KV_HEADS} heads of {HEAD_DIM} dims; {options.policy}; "
        f"{options.workspace_mib} MiB of scratch memory",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        found = measure(options, Path(folder))
    print(table(found))
    if options.json:
        about = {"command": " ".join(["packages/tq-cache/examples/long_context.py", *sys.argv[1:]])}
        about |= {name: version(name) for name in ("tq-core", "tq-cache", "numpy")}
        about |= {"python": platform.python_version(), "system": f"{platform.system()} {platform.machine()}"}
        settings = {"tokens": options.tokens, "layers": options.layers, "kv_heads": KV_HEADS, "head_dim": HEAD_DIM}
        document = {**about, **settings, "workspace_bytes": options.workspace_mib * MIB, "processes": found}
        options.json.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
