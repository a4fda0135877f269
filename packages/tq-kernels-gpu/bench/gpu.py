"""Rates of the kernels on a GPU, each beside the device's own copy of the same bytes, and attention beside float16.

Everything is checked first (checks.py), and nothing is timed if anything is wrong. Times are medians between two events
of one stream; the second-level cache is flushed before every run, which also lets launches queue up. GB/s count bytes
that have to move at the least: input once and output once.

    python packages/tq-kernels-gpu/bench/gpu.py     # writes results/<device>.json beside itself

Ends with 2 and a line where there is no device.
"""

import argparse
import json
import platform
import re
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from checks import check_all, plan_of  # noqa: E402

from tq_core.errors import BackendUnavailable  # noqa: E402
from tq_kernels_gpu.attention import PackedAttention  # noqa: E402
from tq_kernels_gpu.backend import GpuBackend  # noqa: E402
from tq_kernels_gpu.cupy_device import CupyDevice  # noqa: E402
from tq_kernels_gpu.ops.encode import encode  # noqa: E402

FLUSH_BYTES = 1 << 30
ENCODED_ROWS = 8_000_000
COPIES = 20  # of random rows, which take more memory to make than to keep
KV_HEADS, QUERY_HEADS, DIM = 8, 32, 128
TOKENS = (8192, 16384, 32768, 65536, 131072)
STORED = ((4, 4), (3, 3), (8, 4), (4, 2))  # bits of keys and values

Run = Callable[[], Any]


class Time(NamedTuple):
    """Median and quartile distance of repeated runs, in microseconds."""

    median_us: float
    spread: float


class Clock:
    """Times what is launched on the current stream of cupy."""

    def __init__(self, cupy: Any, repeats: int) -> None:
        self._cupy, self._repeats = cupy, repeats
        self._flush = cupy.empty(FLUSH_BYTES, np.uint8)

    def time(self, run: Run) -> Time:
        """The time of a run, after two to warm up."""
        cupy = self._cupy
        run(), run()
        times = []
        for _ in range(self._repeats):
            self._flush.fill(0)
            first, last = cupy.cuda.Event(), cupy.cuda.Event()
            first.record()
            run()
            last.record()
            last.synchronize()
            times.append(1e3 * cupy.cuda.get_elapsed_time(first, last))
        low, median, high = statistics.quantiles(times, n=4)
        return Time(median, (high - low) / median)


def copy_rate(cupy: Any, clock: Clock) -> float:
    """GB/s of a device copy, bytes read and written."""
    source, target = (cupy.zeros(1 << 30, np.uint8) for _ in range(2))
    return rate(2 << 30, clock.time(lambda: cupy.copyto(target, source)))


def rate(size_bytes: int, time: Time) -> float:
    """GB/s."""
    return size_bytes / time.median_us / 1e3


def row(what: str, size_bytes: int, time: Time, copy: float, **more: Any) -> dict[str, Any]:
    """One line of the results."""
    own = rate(size_bytes, time)
    return {"what": what, "us": time.median_us, "spread": time.spread, "gbps": own, "of_copy": own / copy, **more}


def encode_rows(device: CupyDevice, clock: Clock, copy: float) -> list[dict[str, Any]]:
    """Encoding of many float16 rows."""
    xp, found = device.xp, []
    some = xp.random.standard_normal((ENCODED_ROWS // COPIES, DIM), np.float32).astype(np.float16)
    x = xp.tile(some, (COPIES, 1))
    for bits in (4, 3, 2, 8):
        plan = plan_of(DIM, bits)
        size = ENCODED_ROWS * (2 * DIM + plan.row_bytes + 4)
        time = clock.time(lambda plan=plan: encode(device, plan, x))
        found.append(row(f"encode {ENCODED_ROWS} x {DIM} float16, {bits} bits", size, time, copy))
    return found


def scans(device: CupyDevice, clock: Clock, copy: float) -> list[dict[str, Any]]:
    """Scores of one query; none where this build has no scores."""
    try:
        from tq_kernels_gpu.ops.scores import scores
    except ImportError:
        return []
    xp, found = device.xp, []
    for dim, rows in ((128, 16_000_000), (1536, 1_500_000)):
        plan = plan_of(dim, 4)
        packed = xp.tile(xp.random.randint(0, 256, (rows // COPIES, plan.row_bytes), np.uint8), (COPIES, 1))
        scales, query = xp.ones(rows, np.float32), xp.random.standard_normal((1, dim), np.float32)
        time = clock.time(
            lambda plan=plan, packed=packed, scales=scales, query=query: scores(
                device, plan, packed, scales, None, query
            )
        )
        found.append(row(f"scores of one query, {rows} x {dim}, 4 bits", rows * (plan.row_bytes + 8), time, copy))
    return found


def float_attention(device: CupyDevice, tokens: int) -> dict[str, Run]:
    """Attention over float16 keys and values of the same shape, by whoever is installed; torch is on the same stream,
    the default one."""
    xp = device.xp
    shapes = ((1, QUERY_HEADS, 1, DIM), (1, KV_HEADS, tokens, DIM), (1, KV_HEADS, tokens, DIM))
    try:
        import torch
    except ImportError:
        queries, keys, values = (xp.random.standard_normal(shape, np.float32).astype(np.float16) for shape in shapes)
        groups = queries.reshape(KV_HEADS, QUERY_HEADS // KV_HEADS, DIM)

        def products() -> Any:
            logits = (groups @ keys[0].transpose(0, 2, 1)).astype(np.float32)
            weights = xp.exp(logits - logits.max(axis=2, keepdims=True))
            return (weights / weights.sum(axis=2, keepdims=True)).astype(np.float16) @ values[0]

        return {"cublas": products}
    queries, keys, values = (torch.randn(shape, dtype=torch.float16, device="cuda") for shape in shapes)

    def sdpa() -> Any:
        return torch.nn.functional.scaled_dot_product_attention(queries, keys, values, enable_gqa=True)

    def products() -> Any:
        groups = queries.reshape(KV_HEADS, QUERY_HEADS // KV_HEADS, DIM)
        return torch.softmax((groups @ keys[0].mT).float() * DIM**-0.5, dim=2).half() @ values[0]

    return {"sdpa": sdpa, "cublas": products}


def attention(device: CupyDevice, clock: Clock, copy: float) -> list[dict[str, Any]]:
    """Decode attention from packed keys and values, beside float16 of the same shape."""
    xp, found = device.xp, []
    queries = xp.random.standard_normal((KV_HEADS, QUERY_HEADS // KV_HEADS, 1, DIM), np.float32)
    for tokens in TOKENS:
        size = 2 * KV_HEADS * tokens * 2 * DIM
        floats = {name: clock.time(run) for name, run in float_attention(device, tokens).items()}
        best = min(floats.values(), key=lambda time: time.median_us)
        found += [
            row(f"attention over float16 by {name}, {tokens} tokens", size, time, copy) for name, time in floats.items()
        ]
        for bits in STORED:
            plans = plan_of(DIM, bits[0]), plan_of(DIM, bits[1])
            arrays: list[Any] = []
            for plan in plans:
                arrays.append(xp.random.randint(0, 256, (KV_HEADS, tokens, plan.row_bytes), np.uint8))
                arrays.append(xp.random.uniform(0.5, 2, (KV_HEADS, tokens)).astype(np.float16))
            door = PackedAttention(*plans, GpuBackend(device))
            time = clock.time(lambda door=door, arrays=arrays: door.attend(*arrays, queries, scale=DIM**-0.5))
            size = sum(array.nbytes for array in arrays)
            faster = best.median_us / time.median_us
            what = f"attention k{bits[0]}v{bits[1]}, {tokens} tokens"
            found.append(row(what, size, time, copy, faster_than_float16=faster))
    return found


def facts(device: CupyDevice, copy: float) -> dict[str, Any]:
    """What the numbers belong to."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "label": device.label,
        "device": device.name,
        "cuda": device.xp.cuda.runtime.runtimeGetVersion(),
        "cupy": device.xp.__version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "commit": commit.stdout.strip() or "unknown",
        "copy_gbps": copy,
        "query_heads": QUERY_HEADS,
        "kv_heads": KV_HEADS,
        "dim": DIM,
    }


def show(line: dict[str, Any]) -> None:
    """One line of the results, for people."""
    faster = f"  {line['faster_than_float16']:5.2f} x float16" if "faster_than_float16" in line else ""
    print(f"{line['what']:58} {line['us']:10.1f} us {line['gbps']:8.1f} GB/s {line['of_copy']:6.2f} of copy{faster}")


def main(arguments: list[str] | None = None) -> int:
    """0 done, 1 a wrong result, 2 no device."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=21, help="runs of each, at least 2")
    options = parser.parse_args(arguments)
    if options.repeats < 2:
        parser.error("--repeats must be at least 2")
    try:
        device = CupyDevice.current()
    except BackendUnavailable as error:
        print(f"nothing was measured: {error}", file=sys.stderr)
        return 2
    checks = check_all(device)
    for found in checks:
        print(f"{'ok   ' if found.holds else 'WRONG'} {found.what}: {found.error:.3g} (bound {found.bound:g})")
    if not all(found.holds for found in checks):
        print("nothing was timed: results are wrong", file=sys.stderr)
        return 1
    clock = Clock(device.xp, options.repeats)
    copy = copy_rate(device.xp, clock)
    rows = [*encode_rows(device, clock, copy), *scans(device, clock, copy), *attention(device, clock, copy)]
    for line in rows:
        show(line)
    path = HERE / "results" / f"{re.sub(r'[^a-z0-9]+', '-', device.name.lower()).strip('-')}.json"
    path.parent.mkdir(exist_ok=True)
    checked = [found._asdict() for found in checks]
    path.write_text(json.dumps({"environment": facts(device, copy), "checks": checked, "rows": rows}, indent=1) + "\n")
    print(f"written to {path}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
