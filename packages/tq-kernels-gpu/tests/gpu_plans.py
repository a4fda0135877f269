"""Plans and rows that the tests of several operations share."""

import numpy as np

from tq_core.codebook import codebook_of
from tq_core.plan import ScalarPlan, scale_candidates
from tq_core.rotation import Rotation
from tq_core.trellis_plan import TrellisPlan, trellis_candidates
from tq_core.trellis_table import trellis

WIDTHS = (*range(1, 9), 2.25, 2.5, 3.25, 3.5)


def scalar_plan(dim, bits, *, rule="unbiased", search=0, strict=False, kind="hadamard", sketch=None):
    """A plan without defaults that tests would have to know."""
    candidates = scale_candidates(dim, search)
    return ScalarPlan(Rotation(dim, kind, 7), codebook_of(dim, bits), rule, candidates, sketch, strict)


def trellis_plan(dim, bits, states, *, rule="unbiased", search=0, strict=False, kind="hadamard"):
    """The same for a trellis code."""
    candidates = trellis_candidates(dim, search)
    return TrellisPlan(Rotation(dim, kind, 7), trellis(bits, states), rule, candidates, strict=strict)


def same_bits(got, expected):
    """Asserts that two arrays are equal in shape, dtype and every bit."""
    assert got.shape == expected.shape
    assert got.dtype == expected.dtype
    np.testing.assert_array_equal(
        np.ascontiguousarray(got).view(np.uint8), np.ascontiguousarray(expected).view(np.uint8)
    )
