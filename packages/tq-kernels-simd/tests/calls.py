"""Good calls of every function of `_simd`, from which tests spoil one argument at a time."""

import numpy as np

from tq_core.codebook import codebook
from tq_core.plan import ScalarPlan, scale_candidates
from tq_core.rotation import Rotation
from tq_core.sketch import Sketch
from tq_core.testing import samples
from tq_kernels_simd import _simd
from tq_kernels_simd.plan import plan_bytes

ROWS, QUERIES, DIM = 6, 3, 64


def scalar_plan(dim=DIM, bits=4, *, search=0, sketch=None):
    """The plan of a codec; `sketch` names a kind."""
    turned = None if sketch is None else Sketch(dim, dim, sketch, 5)
    return ScalarPlan(
        Rotation(dim, "hadamard", 7), codebook(dim, bits), "unbiased", scale_candidates(dim, search), turned, False
    )


def good_call(name):
    """The arguments of a call that succeeds, by name and in order; outputs are filled with sevens."""
    plan = scalar_plan(sketch="gaussian" if name == "encode" else None)
    capsule = _simd.plan(plan_bytes(plan))
    x = samples(DIM)[:ROWS]
    packed = np.full((ROWS, plan.row_bytes), 7, np.uint8)
    scales = np.full(ROWS, 7, np.float32)
    if name == "rotate":
        return {"plan": capsule, "x": x, "out": np.full((ROWS, DIM), 7, np.float32), "inverse": 0, "threads": 1}
    if name == "encode":
        gammas = np.full(ROWS, 7, np.float32)
        return {"plan": capsule, "x": x, "packed": packed, "scales": scales, "gammas": gammas, "threads": 1}
    if name == "decode":
        out = np.full((ROWS, DIM), 7, np.float32)
        return {"plan": capsule, "packed": packed, "scales": scales, "out": out, "threads": 1}
    assert name == "scores", f"no good call of {name} is known here"
    queries, out = samples(DIM, 1)[:QUERIES], np.full((QUERIES, ROWS), 7, np.float32)
    return {"plan": capsule, "packed": packed, "scales": scales, "queries": queries, "out": out, "threads": 1}


OUTPUTS = {"rotate": ["out"], "encode": ["packed", "scales", "gammas"], "decode": ["out"], "scores": ["out"]}
