"""Scans of many rows at once on a real device, whose blocks and warps overlap as no CPU shows. Label: "ran on GPU"."""

import numpy as np
import pytest
from gpu_plans import scalar_plan

from tq_core.numpy_backend import NumpyBackend
from tq_core.sketch import Sketch
from tq_core.testing import samples
from tq_kernels_gpu.ops.combine import combine
from tq_kernels_gpu.ops.decode import decode
from tq_kernels_gpu.ops.scores import scores
from tq_kernels_gpu.ops.search import search
from tq_kernels_gpu.ops.sketch import sketch_bits

pytestmark = pytest.mark.gpu
ROWS = 300_001


@pytest.fixture(scope="module", params=[1, 2, 3, 4, 8, "3+1"])
def stored(request, gpu):
    """A plan of dim 128 and many rows of it on the device: any bytes are codes."""
    sketch = Sketch(128, 128, "hadamard", 5) if request.param == "3+1" else None
    plan = scalar_plan(128, 3 if sketch else request.param, sketch=sketch)
    random = np.random.default_rng(7)
    packed = random.integers(0, 256, (ROWS, plan.row_bytes), np.uint8)
    scales = random.uniform(0.5, 2, ROWS).astype(np.float32)
    gammas = random.uniform(0.05, 0.2, ROWS).astype(np.float32) if sketch else None
    return plan, *(None if array is None else gpu.asarray(array) for array in (packed, scales, gammas))


@pytest.mark.parametrize("count", [1, 2, 4, 8, 70])
def test_scores_are_those_of_decoded_rows(gpu, stored, count):
    plan, *rows = stored
    queries = gpu.asarray(np.random.default_rng(1).standard_normal((count, 128)).astype(np.float32))
    decoded = decode(gpu, plan, *rows).astype(np.float64)
    exact = queries.astype(np.float64) @ decoded.T
    lengths = gpu.xp.linalg.norm(queries.astype(np.float64), axis=1)[:, None] * gpu.xp.linalg.norm(decoded, axis=1)
    got = scores(gpu, plan, *rows, queries)
    assert float((gpu.xp.abs(got - exact) / lengths).max()) < 3e-6
    rough = scores(gpu, plan, *rows, queries, accuracy="int8")
    assert float((gpu.xp.abs(rough - exact) / lengths).max()) < 0.1


@pytest.mark.parametrize("accuracy", ["exact", "int8", "auto"])
@pytest.mark.parametrize("k", [1, 10, 100, 1000])
@pytest.mark.parametrize("count", [1, 3, 9])
def test_searches_find_the_best_of_their_scores(gpu, stored, count, k, accuracy):
    plan, *rows = stored
    queries = gpu.asarray(np.random.default_rng(2).standard_normal((count, 128)).astype(np.float32))
    mask = np.arange(ROWS) % 5 > 0
    own = scores(gpu, plan, *rows, queries, accuracy="exact" if accuracy == "auto" else accuracy)
    allowed = np.where(mask, gpu.to_host(own), np.float32(-np.inf))
    order = np.argsort(-allowed, axis=1, kind="stable")[:, :k]
    found, indices = search(gpu, plan, *rows, queries, k, gpu.asarray(mask), accuracy)
    got = gpu.to_host(indices)
    if accuracy == "auto":  # may miss what its scan in 8 bits ranks far too low
        shared = [len(set(one.tolist()) & set(other.tolist())) for one, other in zip(got, order, strict=True)]
        assert min(shared) >= 0.95 * k
        expected = np.take_along_axis(allowed, got, axis=1)
        np.testing.assert_array_equal(gpu.to_host(found), expected)
        assert (np.diff(expected, axis=1) <= 0).all()
    else:
        np.testing.assert_array_equal(got, order)
        np.testing.assert_array_equal(gpu.to_host(found), np.take_along_axis(allowed, order, axis=1))


@pytest.mark.parametrize("sums", [1, 20])
def test_sums_are_those_of_decoded_rows(gpu, stored, sums):
    plan, *rows = stored
    weights = gpu.asarray(np.random.default_rng(3).uniform(0, 1, (sums, ROWS)).astype(np.float32))
    decoded = decode(gpu, plan, *rows).astype(np.float64)
    exact = weights.astype(np.float64) @ decoded
    reach = weights.astype(np.float64) @ gpu.xp.linalg.norm(decoded, axis=1)
    got = combine(gpu, plan, *rows, weights)
    assert float((gpu.xp.abs(got - exact) / reach[:, None]).max()) < 3e-6


def test_the_same_call_gives_the_same_bits(gpu, stored):
    plan, *rows = stored
    queries = gpu.asarray(samples(128, 1)[:3])
    weights = gpu.asarray(np.random.default_rng(4).uniform(0, 1, (3, ROWS)).astype(np.float32))
    for _ in range(5):
        assert bool((scores(gpu, plan, *rows, queries) == scores(gpu, plan, *rows, queries)).all())
        assert bool((combine(gpu, plan, *rows, weights) == combine(gpu, plan, *rows, weights)).all())


def test_sketches_of_many_rows(gpu):
    sketch = Sketch(128, 200, "gaussian", 5)
    residuals = np.random.default_rng(5).integers(-40_000, 40_000, (5000, 128))
    expected = NumpyBackend().sketch(sketch, residuals)
    for dtype in (np.int32, np.int64):
        got = sketch_bits(gpu, sketch, gpu.asarray(residuals.astype(dtype)))
        np.testing.assert_array_equal(gpu.to_host(got), expected)


def test_searches_run_on_the_current_stream(gpu, stored):
    plan, *rows = stored
    queries = gpu.asarray(samples(128, 1)[:1])
    expected = gpu.to_host(search(gpu, plan, *rows, queries, 10, None, "auto")[1])
    with gpu.xp.cuda.Stream(non_blocking=True) as stream:
        _, indices = search(gpu, plan, *rows, queries, 10, None, "auto")
        stream.synchronize()
    np.testing.assert_array_equal(gpu.to_host(indices), expected)
