"""Sketches on a device: bits as those of `numpy`, what is made of them within rounding; encode and decode of prod."""

import numpy as np
import pytest
from gpu_plans import same_bits, scalar_plan

from tq_core.errors import BackendUnavailable, InvalidDtype, ShapeMismatch
from tq_core.numpy_backend import NumpyBackend
from tq_core.plan import RULES
from tq_core.sketch import Sketch
from tq_core.testing import samples
from tq_kernels_gpu.backend import GpuBackend
from tq_kernels_gpu.ops.decode import decode
from tq_kernels_gpu.ops.sketch import sketch_bits, unsketch, write_sketch

NUMPY = NumpyBackend()
SKETCHES = [(3, 3, "gaussian"), (40, 100, "gaussian"), (100, 9, "gaussian"), (128, 128, "gaussian")]
SKETCHES += [(dim, dim, "hadamard") for dim in (3, 8, 64, 100, 768)]


def _close(got, expected, tolerance=3e-6):
    assert got.shape == expected.shape
    assert got.dtype == expected.dtype
    lengths = np.linalg.norm(expected.astype(np.float64), axis=1, keepdims=True)
    assert (np.abs(got.astype(np.float64) - expected) <= tolerance * lengths + 1e-35).all()


@pytest.mark.parametrize(("dim", "projections", "kind"), SKETCHES)
def test_bits_estimates_and_scores(device, dim, projections, kind):
    sketch, backend = Sketch(dim, projections, kind, 5), GpuBackend(device)
    integers = np.rint(samples(dim)[:18] * 4).astype(np.int64)
    bits = NUMPY.sketch(sketch, integers)
    same_bits(backend.sketch(sketch, integers), bits)
    _close(backend.unsketch(sketch, bits), NUMPY.unsketch(sketch, bits))
    for count in (1, 5, 11):
        queries = samples(dim, 1)[:count]
        expected = NUMPY.sketch_scores(sketch, bits, queries)
        got = backend.sketch_scores(sketch, bits, queries)
        # terms of a sum may cancel: what they add up to without signs is what its rounding is of
        reach = (
            np.linalg.norm(queries.astype(np.float64), axis=1)[:, None] * sketch.constant * projections * np.sqrt(dim)
        )
        assert got.shape == expected.shape
        assert (np.abs(got - expected) <= 3e-6 * reach + 1e-35).all()


def test_sums_of_exactly_zero_count_as_positive(device):
    sketch = Sketch(64, 64, "gaussian", 5)
    residuals = np.zeros((2, 64), np.int64)
    residuals[1, :2] = sketch.matrix[7, 1], -sketch.matrix[7, 0]  # orthogonal to projection 7
    got = GpuBackend(device).sketch(sketch, residuals)
    assert (got[0] == 255).all()
    assert got[1, 0] >> 7
    same_bits(got, NUMPY.sketch(sketch, residuals))


def test_sums_beyond_32_bits_are_exact(device):
    sketch = Sketch(100, 72, "gaussian", 5)
    residuals = np.rint(samples(100)[:18] * 2.0**29).astype(np.int64)
    residuals[3] = sketch.matrix[11]
    residuals[3, 0] -= 2**33 + 1
    same_bits(GpuBackend(device).sketch(sketch, residuals), NUMPY.sketch(sketch, residuals))


def test_residuals_of_32_bits_sketch_as_those_of_64(device):
    for kind in ("gaussian", "hadamard"):
        sketch, residuals = Sketch(128, 128, kind, 5), np.rint(samples(128)[:17] * 4096).astype(np.int64)
        got = sketch_bits(device, sketch, device.asarray(residuals.astype(np.int32)))
        same_bits(device.to_host(got), NUMPY.sketch(sketch, residuals))


def test_bits_go_where_they_are_told_and_nowhere_else(device):
    sketch = Sketch(64, 20, "gaussian", 5)
    residuals = np.rint(samples(64)[:5] * 4).astype(np.int64)
    packed = device.xp.full((5, 9), 0xA5, np.uint8)
    write_sketch(device, sketch, device.asarray(residuals), packed, 4)
    got = device.to_host(packed)
    same_bits(np.ascontiguousarray(got[:, 4:7]), NUMPY.sketch(sketch, residuals))
    assert (got[:, [0, 1, 2, 3, 7, 8]] == 0xA5).all()


@pytest.mark.parametrize("kind", ["gaussian", "hadamard"])
@pytest.mark.parametrize(
    ("dim", "bits", "rule", "search"), [(8, 1, "mse", 0), (64, 2, "plain", 0), (128, 3, "norm", 3)]
)
def test_prod_is_encoded_to_the_bit_and_decoded(device, dim, bits, rule, search, kind):
    plan = scalar_plan(dim, bits, rule=rule, search=search, sketch=Sketch(dim, dim, kind, 5))
    expected, backend = NUMPY.encode(plan, samples(dim)), GpuBackend(device)
    for got, one in zip(backend.encode(plan, samples(dim)), expected, strict=True):
        same_bits(got, one)
    _close(backend.decode(plan, *expected), NUMPY.decode(plan, *expected))


@pytest.mark.parametrize("rule", RULES)
def test_prod_of_a_dimension_of_blocks(device, rule):
    plan = scalar_plan(100, 4, rule=rule, sketch=Sketch(100, 100, "gaussian", 5))
    expected, backend = NUMPY.encode(plan, samples(100)), GpuBackend(device)
    for got, one in zip(backend.encode(plan, samples(100)), expected, strict=True):
        same_bits(got, one)
    _close(backend.decode(plan, *expected), NUMPY.decode(plan, *expected))


def test_prod_decodes_to_float16_and_to_no_other_dtype(device):
    plan = scalar_plan(64, 3, sketch=Sketch(64, 64, "gaussian", 5))
    rows = NUMPY.encode(plan, samples(64)[:17])
    held, out = [device.asarray(array) for array in rows], device.xp.empty((17, 64), np.float16)
    assert decode(device, plan, *held, out=out) is out
    np.testing.assert_allclose(device.to_host(out), NUMPY.decode(plan, *rows), rtol=1e-3, atol=1e-2)
    with pytest.raises(BackendUnavailable, match="float32 and float16 alone, got uint16"):
        decode(device, plan, *held, out=device.xp.empty((17, 64), np.uint16))
    with pytest.raises(ShapeMismatch, match=r"out must be \(17, 64\), got \(16, 64\)"):
        decode(device, plan, *held, out=out[:16])
    with pytest.raises(ShapeMismatch, match=r"gammas must be \(17,\)"):
        decode(device, plan, *held[:2], held[2][:3])


def test_no_rows(device):
    for kind in ("gaussian", "hadamard"):
        sketch, backend = Sketch(64, 64, kind, 5), GpuBackend(device)
        bits = backend.sketch(sketch, np.empty((0, 64), np.int64))
        assert bits.shape == (0, 8)
        assert backend.unsketch(sketch, bits).shape == (0, 64)
        assert backend.sketch_scores(sketch, bits, samples(64)).shape == (24, 0)


def test_arrays_that_do_not_fit_are_refused(device):
    sketch, xp = Sketch(64, 64, "gaussian", 5), device.xp
    with pytest.raises(ShapeMismatch, match=r"rows to sketch must be \(rows, 64\), got \(3, 63\)"):
        sketch_bits(device, sketch, xp.zeros((3, 63), np.int64))
    with pytest.raises(InvalidDtype, match="must be int32 or int64, got float32"):
        sketch_bits(device, sketch, xp.zeros((3, 64), np.float32))
    with pytest.raises(ShapeMismatch, match=r"sketches must be \(rows, 8\), got \(3, 7\)"):
        unsketch(device, sketch, xp.zeros((3, 7), np.uint8))
