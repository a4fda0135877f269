"""Key/value workloads of language models, recorded or synthetic: one file format, replay of compression, advice."""

from tq_trace.advice import Advice
from tq_trace.advise import advise
from tq_trace.bfloat16 import Bfloat16
from tq_trace.compare import Comparison, compare
from tq_trace.errors import InvalidPosition, MissingExtra, TraceAccess, TraceExists, TraceNotFound
from tq_trace.metadata import Metadata
from tq_trace.replay import replay
from tq_trace.report import Report, Row
from tq_trace.statistics import NormSummary, Peak, TraceStatistics, VectorStatistics, measure
from tq_trace.synthetic import synthetic
from tq_trace.trace import KvTrace, TraceSample
from tq_trace.trace_set import TraceSet
from tq_trace.workloads import WORKLOADS, Workload

__all__ = [
    "WORKLOADS",
    "Advice",
    "Bfloat16",
    "Comparison",
    "InvalidPosition",
    "KvTrace",
    "Metadata",
    "MissingExtra",
    "NormSummary",
    "Peak",
    "Report",
    "Row",
    "TraceAccess",
    "TraceExists",
    "TraceNotFound",
    "TraceSample",
    "TraceSet",
    "TraceStatistics",
    "VectorStatistics",
    "Workload",
    "advise",
    "compare",
    "measure",
    "replay",
    "synthetic",
]
