"""check_backend passes the two built-in backends and catches every single fault of a wrong one."""

import numpy as np
import pytest

from tq_core import TurboQuantMSE, VectorCodec, from_spec, registry, topk
from tq_core.norms import row_norms
from tq_core.numpy_backend import NumpyBackend
from tq_core.rotation import Rotation
from tq_core.scalar import ScalarBackend
from tq_core.testing import check_backend, samples

DIMS = (8, 33, 64)


def test_numpy_keeps_the_contract():
    check_backend(registry.load("numpy"))


def test_scalar_keeps_it_but_for_rounding_at_the_edges():
    check_backend(registry.load("scalar"), exact=False, dims=(2, 3, 17, 33, 96, 100))


def changed(array, index, change):
    """A copy of array whose entry at index went through change."""
    copy = np.array(array)
    copy[index] = change(copy[index])
    return copy


def next_float(value):
    return np.nextafter(value, np.float32(np.inf), dtype=np.float32)


def encode_with(change):
    """A backend whose encode result went through change(packed, scales, gammas)."""

    class Changed(NumpyBackend):
        def encode(self, plan, x):
            return change(*super().encode(plan, x)) if len(x) else super().encode(plan, x)

    return Changed()


def result_of(name, change):
    """A backend whose operation `name` returns change(result)."""

    def operation(self, *arguments, **options):
        return change(getattr(NumpyBackend, name)(self, *arguments, **options))

    return type("Changed", (NumpyBackend,), {name: operation})()


def narrowing_encode(self, plan, x):
    return NumpyBackend.encode(self, plan, x.astype(np.float32))


def unsearched_encode(self, plan, x):
    return NumpyBackend.encode(self, plan._replace(candidates=(1.0,)), x)


def misruled_encode(self, plan, x):
    return NumpyBackend.encode(self, plan._replace(rule="norm" if plan.rule == "mse" else plan.rule), x)


def shouting_strict_encode(self, plan, x):
    packed, scales, gammas = NumpyBackend.encode(self, plan, x)
    return packed, (row_norms(x).astype(np.float32) if plan.strict else scales), gammas


def no_rows_encode(self, plan, x):
    if not len(x):
        return np.empty((0, plan.row_bytes + 1), np.uint8), np.empty(0, np.float32), None
    return NumpyBackend.encode(self, plan, x)


def coarse_scores(self, plan, packed, scales, gammas, queries, *, accuracy="exact"):
    if accuracy == "int8":
        queries = np.rint(queries / abs(queries).max() * 3) * np.float32(abs(queries).max() / 3)
    return NumpyBackend.scores(self, plan, packed, scales, gammas, queries)


def searching(change):
    """A backend with a search of its own, whose results went through change(scores, indices)."""

    def search(self, plan, packed, scales, gammas, queries, k, mask, accuracy):
        found = self.scores(plan, packed, scales, gammas, queries, accuracy=accuracy)
        eligible = np.ones(len(packed), bool) if mask is None else mask
        scores, rows = topk.best_rows(lambda part, some: found[:, part], queries, len(packed), k, eligible)
        return change(scores, rows)

    return backend_with(search=search)


def backend_with(**operations):
    return type("Changed", (NumpyBackend,), operations)()


def test_a_backend_may_search_by_itself():
    check_backend(searching(lambda scores, rows: (scores, rows)), dims=DIMS)


FAULTS = {
    "one flipped code": (encode_with(lambda p, s, g: (changed(p, (3, 0), lambda b: b ^ 1), s, g)), "codes, .*1 bytes"),
    "a flipped code in the last row": (
        encode_with(lambda p, s, g: (changed(p, (-1, -1), lambda b: b ^ 1), s, g)),
        "codes, .*1 bytes differ",
    ),
    "a scale off by one unit in the last place": (
        encode_with(lambda p, s, g: (p, changed(s, 2, next_float), g)),
        "scales, .*bytes differ",
    ),
    "a residual norm off by one unit": (
        encode_with(lambda p, s, g: (p, s, None if g is None else changed(g, 2, next_float))),
        "residual norms, .*bytes differ",
    ),
    "no residual norms": (encode_with(lambda p, s, g: (p, s, None)), "residual norms are missing"),
    "residual norms unasked for": (encode_with(lambda p, s, g: (p, s, s)), "residual norms are missing or unasked for"),
    "scales in float64": (encode_with(lambda p, s, g: (p, s.astype(float), g)), r"scales, .*\(24,\) float64, expected"),
    "narrowing before norms": (backend_with(encode=narrowing_encode), "float64 input"),
    "no scale search": (backend_with(encode=unsearched_encode), r"codes, .*candidates"),
    "one scale rule for another": (backend_with(encode=misruled_encode), "scales, .*mse"),
    "a strict row with a norm": (backend_with(encode=shouting_strict_encode), "strict rows have scale 1"),
    "a malformed empty batch": (backend_with(encode=no_rows_encode), "an empty batch has no codes"),
    "a rotation off by one unit": (
        result_of("rotate", lambda z: changed(z, (0, 1), next_float)),
        "rotate, .*bytes differ",
    ),
    "an inverse off by one unit": (
        result_of("unrotate", lambda x: changed(x, (0, 1), next_float)),
        "unrotate, .*bytes differ",
    ),
    "a decoded row off by a thousandth": (result_of("decode", lambda x: x * np.float32(1.001)), "decode, .*off by"),
    "a score off by a tenth": (
        result_of("scores", lambda s: changed(s, (1, 5), lambda v: v + abs(s).max()) if s.size else s),
        "scores: off by",
    ),
    "transposed scores": (result_of("scores", lambda s: s.T.copy()), r"scores are \(24, 5\)"),
    "scores in float64": (result_of("scores", lambda s: s.astype(float)), "scores are .*float64"),
    "integer arithmetic of too few bits": (backend_with(scores=coarse_scores), "int8 scores: they add"),
    "a search that forgets the order": (searching(lambda s, i: (s[:, ::-1].copy(), i[:, ::-1].copy())), "exact search"),
    "a search that pads with zeros": (searching(lambda s, i: (s, np.maximum(i, 0))), "missing rows are not -1"),
    "a search of other scores": (searching(lambda s, i: (s * np.float32(1.01), i)), "exact search: other scores"),
    "a flipped sketch bit": (result_of("sketch", lambda b: changed(b, (0, 0), lambda v: v ^ 4)), "sketch, .*1 bytes"),
    "an unsketch of another scale": (result_of("unsketch", lambda r: r * np.float32(1.01)), "unsketch, .*off by"),
    "sketch scores of another scale": (
        result_of("sketch_scores", lambda s: s * np.float32(1.1)),
        "sketch_scores, .*off by",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_single_fault_is_caught_and_named(fault):
    backend, message = FAULTS[fault]
    with pytest.raises(AssertionError, match=message):
        check_backend(backend, dims=DIMS)


@pytest.mark.parametrize(
    "operation", ["rotate", "unrotate", "encode", "decode", "scores", "sketch", "unsketch", "sketch_scores"]
)
def test_a_missing_operation_is_caught(operation):
    backend = backend_with()
    parts = {name: getattr(backend, name) for name in dir(backend) if not name.startswith("__") and name != operation}
    with pytest.raises(AssertionError, match="operations of the Backend protocol are missing"):
        check_backend(type("Partial", (), parts)(), dims=DIMS)


def test_another_api_version_is_caught():
    with pytest.raises(AssertionError, match="api_version 2, expected 1"):
        check_backend(backend_with(api_version=2), dims=DIMS)


def test_a_backend_that_writes_to_its_input_is_caught():
    def scribbling_encode(self, plan, x):
        result = NumpyBackend.encode(self, plan, x)
        address = x.__array_interface__["data"][0]
        if x.size:  # as a C kernel would, past numpy's read-only flag
            import ctypes

            ctypes.memset(address, 0x3F, 1)
        return result

    with pytest.raises(AssertionError, match=r"encode, .*the input was written to"):
        check_backend(backend_with(encode=scribbling_encode), dims=DIMS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p, s, g: (changed(p, (0, 0), lambda b: b ^ 1), s, g), "away from an edge"),
        (lambda p, s, g: (changed(p, (0, 0), lambda b: b ^ 7), s, g), "more than one|away from an edge"),
        (lambda p, s, g: (p, s * np.float32(1.05), g), "scales, .*off by"),
        (lambda p, s, g: (p, s, None if g is None else g * np.float32(1.05)), "residual norms, .*off by"),
        (lambda p, s, g: (p[:, :-1], s, g), "codes are"),
    ],
)
def test_an_oracle_may_not_be_wrong_beyond_rounding(change, message):
    with pytest.raises(AssertionError, match=message):
        check_backend(encode_with(change), exact=False, dims=DIMS)


def test_the_samples_are_adversarial():
    x = samples(64)
    assert x.shape == (24, 64)
    norms = np.linalg.norm(x.astype(np.float64), axis=1)
    assert (norms == 0).sum() == 1
    assert norms.max() > 1e15
    assert norms[norms > 0].min() < 1e-29
    assert np.array_equal(x[0], x[18])
    assert {int((row != 0).sum()) for row in x} >= {0, 1, 2, 32, 64}


def test_the_oracle_differs_from_numpy_at_most_at_the_edges_for_every_rule_and_search(gaussian_rows):
    x = gaussian_rows(60, 40)
    for scale in ("plain", "mse", "norm", "unbiased"):
        for search in (0, 5):
            fast, slow = (
                VectorCodec(TurboQuantMSE(40, 3, backend=name), scale=scale, norm_dtype="float32", search=search)
                for name in ("numpy", "scalar")
            )
            a, b = fast.encode(x), slow.encode(x)
            same = (a.arrays["packed"] == b.arrays["packed"]).all(axis=1)
            assert same.mean() > 0.9
            assert np.allclose(a.arrays["scales"][same], b.arrays["scales"][same], rtol=1e-3)
            assert np.allclose(slow.decode(a), fast.decode(a), atol=1e-4)
            assert np.allclose(slow.scores(a, x[:5]), fast.scores(a, x[:5]), atol=1e-3)


def test_every_quantizer_runs_on_the_oracle_and_agrees(encoder, unit_rows):
    x = unit_rows(12, encoder.dim)
    oracle = from_spec(encoder.spec, backend="scalar")
    encode, decode = (
        (oracle.encode, oracle.decode) if isinstance(oracle, VectorCodec) else (oracle.quantize, oracle.dequantize)
    )
    made, slowly = encoder.encode(x), encode(x)
    assert (made.arrays["packed"] != slowly.arrays["packed"]).mean() < 0.02
    lengths = np.linalg.norm(encoder.decode(made), axis=1, keepdims=True)
    assert (np.abs(decode(made) - encoder.decode(made)) <= 1e-3 * lengths).all()
    assert (np.abs(oracle.scores(made, x) - encoder.scores(made, x)) <= 1e-3 * lengths.T).all()
    none = encode(x[:0])
    assert none == encoder.encode(x[:0])
    assert decode(none).shape == (0, encoder.dim)
    assert oracle.scores(none, x).shape == (12, 0)
    assert oracle.scores(made, x[:0]).shape == (0, 12)


def test_the_oracle_keeps_its_tables_only_as_long_as_they_are_used():
    backend = ScalarBackend()
    rotation = Rotation(8, "hadamard", 1)
    backend.rotate(rotation, np.ones((1, 8), np.float32))
    assert len(backend._transforms) == 1
    del rotation
    assert len(backend._transforms) == 0
