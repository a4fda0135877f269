"""Checks new keys and values before any layer takes them, so that a step fails as a whole or not at all.

A cache refuses a vector that it cannot store, and does not know the names of a graph's tensors. Here the first vector
in doubt is named by what it came in, before attention of a step is trusted with it.
"""

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tq_cache import CachePolicy
from tq_core import NotFinite, ScaleRange
from tq_core.checks import FEW

# A quarter of float16's 65504: scale factors, ranges and residual norms stored as float16 stay below 4 times the norm.
LARGEST_NORM: Final = 16376.0
SURELY_FINITE: Final = 1e300  # below float64's largest, so that infinity never passes


def largest_norm(policy: CachePolicy) -> float:
    """The norm up to which every vector surely fits what the policy stores beside or instead of codes."""
    fits = [
        store.name == "float32" or (policy.norms == "float32" and store.name != "float16")
        for side in (policy.keys, policy.values)
        for store in side.parts
    ]
    # less a mean that is not known yet, a vector may be twice as long
    return math.inf if all(fits) else LARGEST_NORM / (2 if policy.learns else 1)


def check_rows(rows: NDArray[np.floating], limit: float, what: str) -> None:
    """Raise NotFinite or ScaleRange for the first of (batch, heads, tokens, dim) vectors that cannot be stored."""
    # No square of a norm is more than the sum of all; a comparison with NaN is False.
    if rows.size <= FEW and float(np.vdot(rows, rows)) <= min(limit * limit, SURELY_FINITE):
        return
    wide = rows.astype(np.float64)
    squares = np.einsum("bhtd,bhtd->bht", wide, wide)
    if np.isfinite(squares).all() and squares.max(initial=0.0) <= limit * limit:
        return
    finite = np.isfinite(rows).all(axis=-1)
    wrong = ~finite if not finite.all() else squares > limit * limit
    batch, head, token = (int(i) for i in np.argwhere(wrong)[0])
    where = f"{what} of new token {token}, head {head}, sequence {batch}"
    if not finite.all():
        raise NotFinite(f"{where} has NaN or infinity; the model does not run in this precision")
    raise ScaleRange(
        f"{where} has norm {math.sqrt(squares[batch, head, token]):.6g}, more than the {limit:.6g} that surely fits "
        "float16; say norms=float32 in the policy, with stores other than float16"
    )
