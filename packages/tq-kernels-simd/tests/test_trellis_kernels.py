"""Rows of every trellis, decoded, scored, combined and attended at every level, between pages that may not be touched.

Any bits are a row of a trellis, so that rows here are random bits, whose windows meet every level of a table.
"""

import hashlib
import sys

import numpy as np
import pytest
from attention_oracle import relative
from children import LEVELS, main, passes_at, python
from placed import at_odd_address, at_page_end, at_page_start

from tq_core.numpy_backend import NumpyBackend
from tq_core.rotation import Rotation
from tq_core.trellis_plan import TrellisPlan
from tq_core.trellis_table import BITS, STATES, trellis
from tq_kernels_simd import SimdBackend
from tq_kernels_simd.attention import PackedAttention

REFERENCE, BACKEND = NumpyBackend(), SimdBackend()
DIMS = (16, 21, 24, 40, 47, 63, 64, 65, 72, 100, 120, 128, 130, 192, 200, 256, 320)
GROUPS = (1, 2, 3, 4, 5, 9)  # query heads of a key head: one to four are served without a tile
PLACES = at_page_end, at_page_start, at_odd_address


def plans():
    """Every table and dim that a trellis may have, of those above."""
    for states in STATES:
        for bits in BITS:
            table = trellis(bits, states)
            for dim in DIMS:
                if dim * bits >= 4 * table.window:
                    yield TrellisPlan(Rotation(dim, "hadamard", 7), table, "unbiased", (1.0,), strict=False)


def stored(plan, rows):
    """Random rows, their unused bits 0, with scales."""
    rng = np.random.default_rng(plan.dim * 16 + plan.codebook.bits)
    bits = rng.integers(0, 2, (rows, plan.dim * plan.codebook.bits), np.uint8)
    return np.packbits(bits, axis=1, bitorder="little"), rng.uniform(0.5, 2, rows).astype(np.float32)


def close(got, expected, where):
    error = relative(got, expected)
    assert error <= 1e-6, (where, error)


def check_decode():
    for number, plan in enumerate(plans()):
        packed, scales = stored(plan, 5)
        place = PLACES[number % 3]
        got = BACKEND.decode(plan, place(packed), scales, None)
        close(got, REFERENCE.decode(plan, packed, scales, None), (plan.dim, plan.codebook.bits, plan.codebook.window))


def check_products():
    for number, plan in enumerate(plans()):
        packed, scales = stored(plan, 70)
        place, where = PLACES[number % 3], (plan.dim, plan.codebook.bits, plan.codebook.window)
        queries = np.random.default_rng(number).standard_normal((3, plan.dim)).astype(np.float32)
        weights = np.random.default_rng(number).standard_normal((3, 70)).astype(np.float32)
        decoded = REFERENCE.decode(plan, packed, scales, None).astype(np.float64)
        close(BACKEND.scores(plan, place(packed), scales, None, queries), queries @ decoded.T, where)
        close(BACKEND.combine(plan, place(packed), scales, None, weights), weights @ decoded, where)


def check_attention():
    for number, plan in enumerate(plans()):
        groups, tokens = GROUPS[number % len(GROUPS)], (1, 67, 31, 128, 34)[number % 5]
        packed, scales = stored(plan, 2 * tokens)
        store = PLACES[number % 3](packed).reshape(2, tokens, -1), scales.reshape(2, tokens)
        queries = np.random.default_rng(number).standard_normal((2, groups, 1, plan.dim)).astype(np.float32)
        door = PackedAttention(plan, plan, BACKEND, accuracy="exact")
        got = door.attend(*store, *store, queries, scale=plan.dim**-0.5).finished()
        decoded = REFERENCE.decode(plan, packed, scales, None).astype(np.float64).reshape(2, tokens, plan.dim)
        logits = np.einsum("lgnd,ltd->lgnt", queries, decoded) * plan.dim**-0.5
        shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
        expected = np.einsum("lgnt,ltd->lgnd", shares / shares.sum(axis=-1, keepdims=True), decoded)
        error = relative(got, expected)
        assert error <= 2e-6, (plan.dim, plan.codebook.bits, plan.codebook.window, groups, tokens, error)


def scans():
    """Plans with rows, scales and queries, whatever arithmetic an int8 scan of them has."""
    for number, plan in enumerate(plans()):
        packed, scales = stored(plan, 41)
        queries = np.random.default_rng(number).standard_normal(((1, 2, 33)[number % 3], plan.dim)).astype(np.float32)
        yield plan, PLACES[number % 3](packed), scales, queries


def check_scans():
    for plan, packed, scales, queries in scans():
        exact, got = (BACKEND.scores(plan, packed, scales, None, queries, accuracy=how) for how in ("exact", "int8"))
        length = np.linalg.norm(REFERENCE.rotate(plan.rotation, queries), axis=1)[:, None] / plan.dim
        added = np.sqrt(np.mean(((got - exact) / (length * scales)) ** 2) / plan.codebook.distortion)
        bound = 0.13 if len(queries) > 2 else 0.2  # a query or two may have a great number that makes the others coarse
        assert added <= bound, (plan.dim, plan.codebook.bits, plan.codebook.window, added)
        found = BACKEND.search(plan, packed, scales, None, queries, 7, None, "auto")
        best = np.argsort(-exact, axis=1, kind="stable")[:, :7]
        assert np.array_equal(found[0], np.take_along_axis(exact, best, 1))


def check_integers():
    digest = hashlib.sha256()
    for plan, packed, scales, queries in scans():
        if plan.dim * plan.codebook.bits % 8 == 0:
            digest.update(BACKEND.scores(plan, packed, scales, None, queries, accuracy="int8").tobytes())
    sys.stdout.write(digest.hexdigest() + " ")


CHECKS = {check.__name__: check for check in (check_decode, check_products, check_attention, check_scans)}


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", CHECKS)
def test_rows_of_every_trellis_are_what_numpy_reads(level, name):
    assert passes_at(level, __file__, name)


def test_scans_in_integers_are_the_same_numbers_at_every_level():
    found = {python(__file__, "check_integers", TQ_ISA=level).split()[0] for level in LEVELS}
    assert len(found) == 1


if __name__ == "__main__":
    main({**CHECKS, "check_integers": check_integers})
