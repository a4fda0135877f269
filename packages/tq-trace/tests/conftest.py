"""A small valid trace, as arguments that a test may bend, and as a file."""

import numpy as np
import pytest

from tq_trace import KvTrace


@pytest.fixture
def arguments():
    """Arguments of a valid KvTrace: 2 samples, 5 tokens, head_dim 4, value_dim 3, 2 queries, float32."""
    random = np.random.default_rng(7)
    return {
        "keys": random.standard_normal((2, 5, 4)).astype(np.float32),
        "values": random.standard_normal((2, 5, 3)).astype(np.float32),
        "queries": random.standard_normal((2, 2, 4)).astype(np.float32),
        "query_positions": np.array([[0, 4], [2, 3]]),
        "model": "tiny",
        "benchmark": "noise",
        "layer": 3,
    }


@pytest.fixture
def trace(arguments):
    return KvTrace(**arguments)


@pytest.fixture
def trace_file(trace, tmp_path):
    path = tmp_path / "trace.safetensors"
    trace.save(path)
    return path
