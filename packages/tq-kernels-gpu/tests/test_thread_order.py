"""No result depends on the order in which threads run between barriers: the logic holds from the last to the first."""

import pytest
from gpu_plans import WIDTHS, same_bits, scalar_plan, trellis_plan

from tq_core.numpy_backend import NumpyBackend
from tq_core.sketch import Sketch
from tq_core.testing import samples
from tq_kernels_gpu.backend import GpuBackend

NUMPY = NumpyBackend()


@pytest.fixture(scope="module")
def backwards(shim):
    """The backend of a device whose threads run from the last to the first."""
    return GpuBackend(shim.ShimDevice(backwards=True))


@pytest.mark.parametrize("dim", [7, 12, 20, 64, 100, 128, 256, 320, 768, 1000, 1024, 1536])
def test_rotation(backwards, dim):
    rotation, x = scalar_plan(dim, 1).rotation, samples(dim)
    same_bits(backwards.rotate(rotation, x), NUMPY.rotate(rotation, x))
    same_bits(backwards.unrotate(rotation, x), NUMPY.unrotate(rotation, x))


@pytest.mark.parametrize("dim", [33, 128, 1000])
def test_encode_and_decode(backwards, dim):
    for bits in WIDTHS:
        plan = scalar_plan(dim, bits, search=3)
        packed, scales, _ = NUMPY.encode(plan, samples(dim))
        got = backwards.encode(plan, samples(dim))
        same_bits(got[0], packed)
        same_bits(got[1], scales)
        same_bits(backwards.decode(plan, packed, scales, None), NUMPY.decode(plan, packed, scales, None))


@pytest.mark.parametrize("dim", [100, 128])
def test_scores_search_and_sums(backwards, cpu, dim):
    forwards = GpuBackend(cpu)
    for bits in (3, 4, 2.25):
        sketch = None if bits == 2.25 else Sketch(dim, dim, "gaussian", 5)
        plan = scalar_plan(dim, bits, sketch=sketch)
        rows = NUMPY.encode(plan, samples(dim))
        for got, expected in zip(backwards.encode(plan, samples(dim)), rows, strict=True):
            if expected is not None:
                same_bits(got, expected)
        for count in (1, 3, 11):
            queries, weights = samples(dim, 1)[:count], samples(24, 2)[:count]
            for accuracy in ("exact", "int8"):
                got = backwards.scores(plan, *rows, queries, accuracy=accuracy)
                same_bits(got, forwards.scores(plan, *rows, queries, accuracy=accuracy))
            same_bits(backwards.combine(plan, *rows, weights), forwards.combine(plan, *rows, weights))
            for k in (5, 30):
                for got, expected in zip(
                    backwards.search(plan, *rows, queries, k, None, "auto"),
                    forwards.search(plan, *rows, queries, k, None, "auto"),
                    strict=True,
                ):
                    same_bits(got, expected)


@pytest.mark.parametrize(("bits", "states"), [(1, 8), (4, 8), (4, 256), (1, 1024), (3, 1024), (2, 4096)])
def test_walks_of_a_trellis(backwards, bits, states):
    plan, x = trellis_plan(64, bits, states, search=3), samples(64)[:17:4]
    packed, scales, _ = NUMPY.encode(plan, x)
    got = backwards.encode(plan, x)
    same_bits(got[0], packed)
    same_bits(got[1], scales)
    same_bits(backwards.decode(plan, packed, scales, None), NUMPY.decode(plan, packed, scales, None))
