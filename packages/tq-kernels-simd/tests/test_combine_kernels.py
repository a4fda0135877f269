"""Weighted sums of packed rows at every level against float64 sums of decoded rows."""

import json

import numpy as np
import pytest
from children import LEVELS, in_child

from tq_core import TurboQuantMSE, TurboQuantProd, VectorCodec
from tq_core.errors import InvalidSpec
from tq_kernels_simd import _simd
from tq_kernels_simd.backend import SimdBackend
from tq_kernels_simd.plan import pack_rotation

SIMD = SimdBackend()

CASES = """
import json
import numpy as np
from tq_core import TurboQuantMSE, TurboQuantProd, VectorCodec
random = np.random.default_rng(8)
found = {}
quantizers = [TurboQuantMSE(dim, bits, backend="simd") for dim in (3, 64, 100, 160)
              for bits in (1, 2, 2.25, 2.5, 3, 3.25, 3.5, 4, 5, 6, 7, 8)]
quantizers += [TurboQuantProd(dim, bits, sketch=kind, backend="simd")
               for dim, bits in ((33, 2), (64, 5), (130, 4)) for kind in ("gaussian", "hadamard")]
quantizers.append(TurboQuantMSE(40, 3, rotation="dense", backend="simd"))
for quantizer in quantizers:
    codec = VectorCodec(quantizer)
    for rows, sums in ((1, 1), (63, 2), (64, 3), (65, 7), (200, 35)):
        encoded = codec.encode(random.standard_normal((rows, quantizer.dim)).astype(np.float32) + 0.5)
        weights = random.random((sums, rows)).astype(np.float32)
        expected = weights.astype(np.float64) @ codec.decode(encoded).astype(np.float64)
        error = np.linalg.norm(codec.combine(encoded, weights) - expected) / np.linalg.norm(expected)
        found[f"{quantizer!r} {rows} {sums}"] = float(error)
print(json.dumps(found))
"""


@pytest.mark.parametrize("level", LEVELS)
def test_sums_equal_those_of_decoded_rows(level):
    errors = json.loads(in_child(CASES, TQ_ISA=level))
    worst = max(errors, key=errors.get)
    assert len(errors) == 55 * 5
    assert errors[worst] <= 2e-6, f"{worst}: {errors[worst]}"


def encoded_rows(rows, quantizer=None):
    codec = VectorCodec(quantizer or TurboQuantMSE(32, 4, backend="simd"))
    vectors = np.random.default_rng(9).standard_normal((rows, 32)).astype(np.float32)
    return codec, codec.encode(vectors)


def test_a_long_sum_of_equal_rows_loses_nothing():
    codec, encoded = encoded_rows(1)
    packed = np.repeat(encoded.arrays["packed"], 300_000, axis=0)
    scales = np.ones(len(packed), np.float32)
    weights = np.full((1, len(packed)), 0.1, np.float32)  # equal terms round the same way each time
    one = SIMD.combine(codec.plan, packed[:1], scales[:1], None, weights[:, :1])
    whole = SIMD.combine(codec.plan, packed, scales, None, weights)
    expected = one.astype(np.float64) * len(packed)
    assert np.linalg.norm(whole - expected) <= 1e-5 * np.linalg.norm(expected)


def test_a_sum_depends_neither_on_those_beside_it_nor_on_threads():
    codec, encoded = encoded_rows(150, TurboQuantProd(32, 3, backend="simd"))
    arrays = [encoded.arrays[name] for name in ("packed", "scales", "gammas")]
    arrays[1:] = [array.astype(np.float32) for array in arrays[1:]]
    weights = np.random.default_rng(1).random((37, 150), np.float32)
    found = SIMD.combine(codec.plan, *arrays, weights)
    threaded = SimdBackend(threads=3).combine(codec.plan, *arrays, weights)
    assert found.tobytes() == threaded.tobytes()


def test_no_rows_give_zeros_and_no_sums_nothing():
    codec, encoded = encoded_rows(4)
    packed, scales = encoded.arrays["packed"], encoded.arrays["scales"].astype(np.float32)
    assert not SIMD.combine(codec.plan, packed[:0], scales[:0], None, np.empty((3, 0), np.float32)).any()
    assert SIMD.combine(codec.plan, packed, scales, None, np.empty((0, 4), np.float32)).shape == (0, 32)


@pytest.mark.parametrize(("is_sketch", "missing"), [(0, "a codebook"), (1, "a sketch")])
def test_a_plan_without_what_is_summed_is_refused(is_sketch, missing):
    bare = pack_rotation(VectorCodec(TurboQuantMSE(32, 4)).plan.rotation)
    arrays = [np.zeros(shape, dtype) for shape, dtype in (((1, 0), "B"), ((1,), "f"), ((1, 1), "f"), ((1, 32), "f"))]
    with pytest.raises(InvalidSpec, match=f"plan must have {missing}, got one without"):
        _simd.combine(bare, *arrays[:3], is_sketch, arrays[3], 1)
