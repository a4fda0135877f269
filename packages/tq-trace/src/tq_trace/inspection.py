"""`tq-trace inspect`: what a trace file is, and the statistics that matter for compressing it, as plain rows."""

import os
from dataclasses import asdict
from typing import Any

from tq_trace.statistics import measure
from tq_trace.trace import KvTrace
from tq_trace.trace_set import TraceSet

Row = dict[str, Any]


def inspect_file(path: str | os.PathLike[str]) -> list[Row]:
    """A row for each layer and head of a file: facts, sizes and statistics, in values that JSON can hold.

    `disk_bytes` is the file, header and queries included; `float16_bytes` is what a float16 cache of the same keys and
    values takes. `keys` and `values` hold the fields of `VectorStatistics`.
    """
    return [_row(trace, path) for trace in TraceSet.open(path)]


def _row(trace: KvTrace, path: str | os.PathLike[str]) -> Row:
    found = measure(trace)
    return {
        "file": os.fspath(path),
        "model": trace.model,
        "benchmark": trace.benchmark,
        "suite": trace.suite,
        "layer": trace.layer,
        "head": trace.head,
        "note": trace.note,
        "samples": len(trace),
        "tokens": trace.tokens,
        "query_count": trace.query_count,
        "head_dim": trace.head_dim,
        "value_dim": trace.value_dim,
        "dtypes": trace.dtypes,
        "disk_bytes": os.stat(path).st_size,
        "float16_bytes": 2 * len(trace) * trace.tokens * (trace.head_dim + trace.value_dim),
        "norm_ratio": found.norm_ratio,
        "keys": asdict(found.keys),
        "values": asdict(found.values),
    }
