"""Scores, search and sums straight from trellis codes on a device: within float32 rounding of what rows decode to."""

import numpy as np
import pytest
from gpu_plans import same_bits, trellis_plan

from tq_core import trellis_path
from tq_core.numpy_backend import NumpyBackend
from tq_core.testing import samples
from tq_core.trellis_table import BITS, STATES
from tq_kernels_gpu.backend import GpuBackend
from tq_kernels_gpu.ops.scan import copies_of, fits
from tq_kernels_gpu.ops.scores import asked_scores

NUMPY = NumpyBackend()


def _rows(plan, count, seed=0):
    """Packed rows of random bits, all of which are codes, and scales."""
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (count, plan.row_bytes), np.uint8), random.uniform(0.5, 2, count).astype(np.float32)


def _reference(plan, packed, scales, left):
    """Products of `left` (n, dim), rotated, with rows in float64, and what their float32 sums may be off by."""
    stage = trellis_path.centroids(plan.codebook, packed, plan.dim).astype(np.float64) * scales[:, None] / plan.dim
    reach = np.abs(left.astype(np.float64)) @ np.abs(stage).T
    return left.astype(np.float64) @ stage.T, 1e-6 * reach * np.sqrt(plan.dim) + 1e-12


@pytest.mark.parametrize("queries", [1, 3, 9])  # one pass for one, for up to four, tiles
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("states", STATES)
def test_scores_of_every_code(device, states, bits, queries):
    plan = trellis_plan(100, bits, states)
    packed, scales = _rows(plan, 70)
    given = samples(100, 1)[:queries]
    got = GpuBackend(device).scores(plan, packed, scales, None, given)
    expected, bound = _reference(plan, packed, scales, NUMPY.rotate(plan.rotation, given))
    assert got.dtype == np.float32
    assert (np.abs(got - expected) <= bound).all()


@pytest.mark.parametrize(
    ("dim", "bits", "states"), [(7, 4, 8), (33, 3, 8), (129, 1, 256), (300, 4, 1024), (40, 2, 4096)]
)
@pytest.mark.parametrize("queries", [1, 9])
def test_scores_of_every_length_of_row(device, dim, bits, states, queries):
    plan = trellis_plan(dim, bits, states)
    packed, scales = _rows(plan, 37)
    given = samples(dim, 1)[:queries]
    expected, bound = _reference(plan, packed, scales, NUMPY.rotate(plan.rotation, given))
    assert (np.abs(GpuBackend(device).scores(plan, packed, scales, None, given) - expected) <= bound).all()


@pytest.mark.parametrize("accuracy", ["int16", "int8"])
def test_scores_are_exact_at_every_accuracy(device, accuracy):
    plan = trellis_plan(64, 4, 256)
    packed, scales = _rows(plan, 20)
    backend, given = GpuBackend(device), samples(64, 1)[:1]
    exact = backend.scores(plan, packed, scales, None, given)
    same_bits(backend.scores(plan, packed, scales, None, given, accuracy=accuracy), exact)


@pytest.mark.parametrize("accuracy", ["exact", "int8", "auto"])
@pytest.mark.parametrize("queries", [1, 4, 9])
def test_search_finds_the_best_of_its_own_scores(device, queries, accuracy):
    plan = trellis_plan(64, 2, 1024)
    packed, scales = _rows(plan, 90)
    backend, given = GpuBackend(device), samples(64, 1)[:queries]
    mask = np.arange(90) % 7 != 3
    scores = np.where(mask, backend.scores(plan, packed, scales, None, given), -np.inf)
    found, rows = backend.search(plan, packed, scales, None, given, 5, mask, accuracy)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :5]
    np.testing.assert_array_equal(rows, order)
    np.testing.assert_array_equal(found, np.take_along_axis(scores, order, axis=1))


@pytest.mark.parametrize("sums", [1, 3])
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize(("dim", "states"), [(48, 8), (101, 256), (64, 1024), (65, 4096)])
def test_sums_of_every_code(device, dim, states, bits, sums):
    plan = trellis_plan(dim, bits, states)
    packed, scales = _rows(plan, 70, bits)
    weights = np.random.default_rng(5).standard_normal((sums, 70)).astype(np.float32)
    decoded = NUMPY.decode(plan, packed, scales, None).astype(np.float64)
    got = GpuBackend(device).combine(plan, packed, scales, None, weights)
    reach = np.abs(weights.astype(np.float64)) @ np.linalg.norm(decoded, axis=1)
    assert got.dtype == np.float32
    assert (np.abs(got - weights.astype(np.float64) @ decoded) <= 1e-5 * reach[:, None]).all()


def test_no_rows_and_no_queries(device):
    plan, backend = trellis_plan(64, 2, 256), GpuBackend(device)
    packed, scales = _rows(plan, 3)
    queries = samples(64)[:2]
    assert backend.scores(plan, packed[:0], scales[:0], None, queries).shape == (2, 0)
    assert backend.scores(plan, packed, scales, None, queries[:0]).shape == (0, 3)
    assert (backend.combine(plan, packed[:0], scales[:0], None, np.empty((2, 0), np.float32)) == 0).all()


@pytest.mark.parametrize("kib", [64, 99, 163, 227])
def test_tables_take_a_third_of_shared_memory_at_most_and_queries_fit_beside_them(shim, kib):
    device = shim.ShimDevice(shared_limit=kib * 1024)
    for states in STATES:
        for bits in BITS:
            plan = trellis_plan(128, bits, states)
            held = (device.xp.empty((0, plan.row_bytes), np.uint8), device.xp.empty(0, np.float32), None)
            asked = asked_scores(device, plan, *held, device.asarray(samples(128)[:4]), "exact")
            copies = copies_of(device, asked.stage)
            assert copies in (1, 2, 4, 8, 16, 32)
            assert 3 * 4 * len(plan.codebook.levels) * copies <= device.shared_limit
            assert fits(device, asked.stage, None, 4)


@pytest.mark.parametrize("kib", [64, 163, 227])
def test_scores_do_not_depend_on_the_number_of_copies(shim, cpu, kib):
    plan = trellis_plan(64, 2, 1024)
    packed, scales = _rows(plan, 20)
    for count in (1, 3):
        given = samples(64, 1)[:count]
        expected = GpuBackend(cpu).scores(plan, packed, scales, None, given)
        other = GpuBackend(shim.ShimDevice(shared_limit=kib * 1024))
        same_bits(other.scores(plan, packed, scales, None, given), expected)
