"""Good calls of every function of `_simd` that takes arguments, from which tests spoil one argument at a time."""

import numpy as np

from tq_core.codebook import codebook_of
from tq_core.numpy_backend import NumpyBackend
from tq_core.plan import ScalarPlan, scale_candidates
from tq_core.rotation import Rotation
from tq_core.sketch import Sketch
from tq_core.testing import samples
from tq_kernels_simd import _simd
from tq_kernels_simd.plan import pack_plan, plan_bytes

ROWS, QUERIES, DIM, BEST = 6, 3, 64, 4
LANES, TOKENS, GROUPS, COUNT = 2, 5, 3, 2
TOP = 2**63 - 1

OUTPUTS = {
    "rotate": ["out"],
    "encode": ["packed", "scales", "gammas"],
    "decode": ["out"],
    "scores": ["out"],
    "search": ["out_scores", "out_indices"],
    "sketch": ["out"],
    "combine": ["out"],
    "attend": ["out", "maxima", "sums"],
    "attend_exp": ["x"],
    "attend_workspace": [],
    "plan": [],
    "probe_fma": [],
    "probe_read": [],
}
METHODS = list(OUTPUTS)
RETURNING = ["attend_workspace", "plan", "probe_fma", "probe_read"]  # the others return None

# Arguments by kind; every argument of every function is in exactly one of these tables or an array.
PLANS = {"attend": ["key_plan", "value_plan"], "attend_workspace": ["key_plan", "value_plan"]} | {
    method: ["plan"] for method in ("rotate", "encode", "decode", "scores", "search", "sketch", "combine")
}
INTEGERS = {
    **{(method, "threads"): (1, 256) for method in PLANS},
    ("rotate", "inverse"): (0, 1),
    ("combine", "is_sketch"): (0, 1),
    ("scores", "accuracy"): (0, 2),
    ("search", "k"): (1, 2**31),
    ("search", "accuracy"): (0, 3),
    ("attend", "accuracy"): (0, 2),
    ("attend_workspace", "accuracy"): (0, 2),
    **{("attend_workspace", name): (0, 2**20) for name in ("lanes", "groups", "count")},
    ("attend_workspace", "tokens"): (0, TOP),
    ("probe_fma", "steps"): (1, 2**30),
}
FLOATS = {("attend", "scale"), ("attend", "softcap")}
OPTIONAL = {("search", "mask"), ("attend", "limits"), ("attend", "mask")}  # arrays that may be None


def scalar_plan(dim=DIM, bits=4, *, search=0, sketch=None):
    """The plan of a codec; `sketch` names a kind."""
    turned = None if sketch is None else Sketch(dim, dim, sketch, 5)
    return ScalarPlan(
        Rotation(dim, "hadamard", 7), codebook_of(dim, bits), "unbiased", scale_candidates(dim, search), turned, False
    )


def good_call(name):
    """The arguments of a call that succeeds, by name and in order; outputs are filled with sevens."""
    return CALLS[name]()


def _sevens(*shape, dtype=np.float32):
    return np.full(shape, 7, dtype)


def _rotate():
    x, capsule = samples(DIM)[:ROWS], pack_plan(scalar_plan())
    return {"plan": capsule, "x": x, "out": _sevens(ROWS, DIM), "inverse": 0, "threads": 1}


def _encode():
    plan = scalar_plan(sketch="gaussian")
    packed, x = _sevens(ROWS, plan.row_bytes, dtype=np.uint8), samples(DIM)[:ROWS]
    arrays = {"x": x, "packed": packed, "scales": _sevens(ROWS), "gammas": _sevens(ROWS)}
    return {"plan": pack_plan(plan), **arrays, "threads": 1}


def _decode():
    plan = scalar_plan()
    packed, scales, _ = NumpyBackend().encode(plan, samples(DIM)[:ROWS])
    return {"plan": pack_plan(plan), "packed": packed, "scales": scales, "out": _sevens(ROWS, DIM), "threads": 1}


def _stored():
    plan = scalar_plan(sketch="gaussian")
    packed, scales, gammas = NumpyBackend().encode(plan, samples(DIM)[:ROWS])
    queries = samples(DIM, 1)[:QUERIES]
    return {"plan": pack_plan(plan), "packed": packed, "scales": scales, "gammas": gammas, "queries": queries}


def _scores():
    return {**_stored(), "out": _sevens(QUERIES, ROWS), "accuracy": 0, "threads": 1}


def _search():
    found = {"out_scores": _sevens(QUERIES, BEST), "out_indices": _sevens(QUERIES, BEST, dtype=np.int64)}
    mask = np.arange(ROWS) != 1
    return {**_stored(), "mask": mask, "k": BEST, "accuracy": 3, **found, "threads": 1}


def _sketch():
    residuals = np.random.default_rng(2).integers(-9999, 9999, (ROWS, DIM))
    out = _sevens(ROWS, DIM // 8, dtype=np.uint8)
    return {"plan": pack_plan(scalar_plan(sketch="gaussian")), "residuals": residuals, "out": out, "threads": 1}


def _combine():
    plan = scalar_plan(sketch="gaussian")
    packed, scales, _ = NumpyBackend().encode(plan, samples(DIM)[:ROWS])
    weights = np.random.default_rng(4).random((QUERIES, ROWS), np.float32)
    arrays = {"packed": packed, "scales": scales, "weights": weights, "is_sketch": 0, "out": _sevens(QUERIES, DIM)}
    return {"plan": pack_plan(plan), **arrays, "threads": 1}


def _attend():
    call = {"key_plan": pack_plan(scalar_plan(64, 4)), "value_plan": pack_plan(scalar_plan(32, 3))}
    for name, plan in (("key", scalar_plan(64, 4)), ("value", scalar_plan(32, 3))):
        packed, scales, _ = NumpyBackend().encode(plan, samples(plan.dim)[: LANES * TOKENS])
        call[f"{name}_packed"] = packed.reshape(LANES, TOKENS, plan.row_bytes)
        call[f"{name}_scales"] = np.abs(scales).reshape(LANES, TOKENS)
    call["queries"] = np.random.default_rng(3).standard_normal((LANES, GROUPS, COUNT, 64)).astype(np.float32)
    call |= {"out": _sevens(LANES, GROUPS, COUNT, 32), "maxima": _sevens(LANES, GROUPS, COUNT)}
    call |= {"sums": _sevens(LANES, GROUPS, COUNT), "limits": np.array([[0, TOKENS - 1], [1, TOKENS]])}
    call["mask"] = np.arange(COUNT * TOKENS).reshape(COUNT, TOKENS) != 2
    return {**call, "scale": 0.125, "softcap": 30.0, "accuracy": 2, "threads": 1}


def _attend_workspace():
    plans = {"key_plan": pack_plan(scalar_plan(64, 4)), "value_plan": pack_plan(scalar_plan(32, 3))}
    return {**plans, "lanes": 2, "groups": 3, "count": 300, "tokens": 7000, "accuracy": 2, "threads": 3}


CALLS = {
    "rotate": _rotate,
    "encode": _encode,
    "decode": _decode,
    "scores": _scores,
    "search": _search,
    "sketch": _sketch,
    "combine": _combine,
    "attend": _attend,
    "attend_exp": lambda: {"x": np.linspace(-3, 3, 64, dtype=np.float32)},
    "attend_workspace": _attend_workspace,
    "plan": lambda: {"plan": np.frombuffer(plan_bytes(scalar_plan()), np.uint8).copy()},
    "probe_fma": lambda: {"steps": 500},
    "probe_read": lambda: {"buffer": np.arange(4096, dtype=np.uint64).view(np.uint8)},
}
ARRAYS = {
    method: [name for name, value in call().items() if isinstance(value, np.ndarray)] for method, call in CALLS.items()
}
assert all(callable(getattr(_simd, method)) for method in METHODS)
