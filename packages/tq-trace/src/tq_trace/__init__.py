"""Recorded key/value workloads of language models: one file format, validated, and what is in it."""

from tq_trace.bfloat16 import Bfloat16
from tq_trace.errors import InvalidPosition, TraceAccess, TraceExists, TraceNotFound
from tq_trace.metadata import Metadata
from tq_trace.statistics import NormSummary, Peak, TraceStatistics, VectorStatistics, measure
from tq_trace.trace import KvTrace, TraceSample
from tq_trace.trace_set import TraceSet

__all__ = [
    "Bfloat16",
    "InvalidPosition",
    "KvTrace",
    "Metadata",
    "NormSummary",
    "Peak",
    "TraceAccess",
    "TraceExists",
    "TraceNotFound",
    "TraceSample",
    "TraceSet",
    "TraceStatistics",
    "VectorStatistics",
    "measure",
]
