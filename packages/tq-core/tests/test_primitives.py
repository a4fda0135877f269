"""The numpy-free primitives: the same as the numpy implementations, interpreted and compiled alike.

`TQ_EXPECT_COMPILED=1` makes this suite fail on an interpreted install, where a fallback would pass unnoticed.
"""

import os

import numpy as np
import pytest
from librt.vecs import vec
from mypy_extensions import i64

import tq_core
from tq_core import hadamard as vectorised
from tq_core import packing, random_bits
from tq_core._prim import bits, book, encode, hadamard, orders, pack, score, sketch
from tq_core.codebook import codebook, codebook_of
from tq_core.norms import row_norms
from tq_core.numpy_backend import NumpyBackend
from tq_core.plan import ScalarPlan, scale_candidates
from tq_core.radix import RADICES
from tq_core.rotation import ORDERS, Rotation, binary_blocks, kronecker_order
from tq_core.sketch import Sketch

MODULES = (bits, book, encode, hadamard, orders, pack, score, sketch)
DIMS = (2, 3, 7, 8, 9, 12, 15, 16, 17, 20, 31, 33, 40, 48, 63, 64, 65, 80, 96, 100, 127, 128, 129, 192)
NUMPY = NumpyBackend()


def floats(values) -> vec:
    return vec[float](np.asarray(values, np.float64).ravel().tolist())


def array(values) -> np.ndarray:
    return np.array(list(values), np.float64)


def unsigned(word: int) -> int:
    return word & (1 << 64) - 1


def encoder_of(plan: ScalarPlan) -> encode.Encoder:
    """The plan of the numpy backend, built anew from the seed alone by the primitives."""
    dim, seed = plan.dim, plan.rotation.seed
    signs = None
    if plan.sketch is not None:
        gaussian = plan.sketch.kind == "gaussian"
        signs = sketch.gaussian(dim, dim, plan.sketch.seed) if gaussian else sketch.structured(dim, plan.sketch.seed)
    halves = [book.solve_levels(dim, len(one.levels)) for one in plan.codebook.books]
    rule = encode.RULES.index(plan.rule)
    return encode.Encoder(hadamard.hadamard(dim, seed), halves, rule, list(plan.candidates), signs, plan.strict)


def plan_of(dim: int, width: float, rule: str = "unbiased", search: int = 0, kind: str | None = None) -> ScalarPlan:
    signs = None if kind is None else Sketch(dim, dim, kind, 3)
    return ScalarPlan(
        Rotation(dim, "hadamard", 3), codebook_of(dim, width), rule, scale_candidates(dim, search), signs, strict=False
    )


def exact_rows(dim: int) -> np.ndarray:
    """Rows of power-of-two norm and few coordinates: their rotation is exact in float32, hence in float64."""
    rows = np.zeros((6, dim), np.float32)
    rows[0, 0], rows[1, dim - 1], rows[2, dim // 2] = 1, -2, 0.25
    rows[3, [0, 1, 2, dim - 1]] = 1, 1, -1, 1
    rows[4, [0, dim - 1, 3, 5]] = -4
    return rows


def test_compiled_when_expected():
    in_wheel = [not module.__file__.endswith(".py") for module in MODULES]
    assert all(in_wheel) or not any(in_wheel)
    assert in_wheel[0] == tq_core.COMPILED
    if os.environ.get("TQ_EXPECT_COMPILED") == "1":
        assert tq_core.COMPILED


@pytest.mark.parametrize("seed", [0, 1, 7, (1 << 63) - 1, 1 << 63, (1 << 64) - 1])
def test_words_and_keys_are_the_same(seed):
    for stream in (16, 33, 48, 64, 97):
        key = bits.stream_key(seed, stream)
        assert -(1 << 63) <= key < 1 << 63
        assert unsigned(key) == random_bits.stream_key(seed, stream)
        for start in (0, 5, 1 << 40):
            words = [unsigned(bits.word(key, start + index)) for index in range(4)]
            assert words == random_bits.words(unsigned(key), start, 4).tolist()


def test_the_first_words_of_seed_0_are_these():
    """Pinned by hand from the definition, so that both implementations cannot drift together."""
    mask, golden = (1 << 64) - 1, 0x9E3779B97F4A7C15

    def mix(z):
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & mask
        z = (z ^ z >> 27) * 0x94D049BB133111EB & mask
        return z ^ z >> 31

    key = mix((mix(golden) + 16 * golden) & mask)
    assert unsigned(bits.stream_key(0, 16)) == key
    assert unsigned(bits.word(bits.stream_key(0, 16), 0)) == mix((key + golden) & mask)
    assert mix(golden) == 0xE220A8397B1DCDAF  # splitmix64's published first output for seed 0


@pytest.mark.parametrize("count", [0, 1, 2, 63, 64, 65, 129])
def test_signs_and_permutations_are_the_same(count):
    for seed in (0, 9, (1 << 64) - 1):
        key = bits.stream_key(seed, bits.SIGNS)
        assert array(bits.signs(key, count)).tolist() == random_bits.signs(unsigned(key), count).tolist()
        assert list(bits.permutation(key, count)) == random_bits.permutation(unsigned(key), count).tolist()


def test_gaussians_are_the_same_bit_for_bit():
    for seed in (0, 5):
        key = bits.stream_key(seed, bits.HAAR)
        assert array(bits.gaussians(key, 3001)).tolist() == random_bits.gaussians(unsigned(key), 3001).tolist()


def test_natural_log_is_right_to_a_few_units():
    values = np.concatenate(
        [np.random.default_rng(1).uniform(size=500), [2.0**-106, 0.5, bits.SQRT_HALF, 1 - 2.0**-53]]
    )
    found = np.array([bits.natural_log(float(value)) for value in values])
    assert (np.abs(found - np.log(values)) <= 4e-16 * np.maximum(np.abs(np.log(values)), 1e-3) + 1e-17).all()


def test_orders_and_blocks_are_the_same():
    assert orders.SMALL_ORDERS == ORDERS
    for dim in range(2, 400):
        assert orders.kronecker_order(dim) == kronecker_order(dim)
        assert tuple(hadamard.binary_blocks(dim)) == binary_blocks(dim)


@pytest.mark.parametrize("order", [1, 12, 20])
def test_transforms_are_hadamard_matrices(order):
    """H H^T = dim I, entries +-1, and `transpose` really is the transpose; all exact."""
    dim = 4 * order
    forward, backward = np.empty((dim, dim)), np.empty((dim, dim))
    for column in range(dim):
        for matrix, transpose in ((forward, False), (backward, True)):
            x = floats(np.eye(dim)[column])
            orders.transform(x, order, transpose)
            matrix[:, column] = array(x)
    assert (np.abs(forward) == 1).all()
    assert (forward @ forward.T == dim * np.eye(dim)).all()
    assert (backward == forward.T).all()


@pytest.mark.parametrize("dim", DIMS)
def test_rotations_are_the_same_within_float32(dim):
    rotation, transform = Rotation(dim, "hadamard", 11), hadamard.hadamard(dim, 11)
    x = np.random.default_rng(dim).standard_normal((5, dim)).astype(np.float32)
    expected, back = vectorised.forward(rotation, x), vectorised.inverse(rotation, x)
    for row, z, u in zip(x, expected, back, strict=True):
        found = array(hadamard.forward(transform, floats(row)))
        assert found == pytest.approx(z, rel=0, abs=2e-6 * float(np.abs(z).max()))
        assert array(hadamard.inverse(transform, floats(row))) == pytest.approx(
            u, rel=0, abs=2e-6 * float(np.abs(u).max())
        )
        assert array(hadamard.inverse(transform, floats(found))) == pytest.approx(row, rel=0, abs=1e-14 * dim)


@pytest.mark.parametrize("dim", [4, 16, 64, 128, 1024])
def test_rotations_are_identical_where_floats_are_exact(dim):
    """Sparse power-of-two rows need no rounding until the factor, itself a power of two at these dims."""
    rotation, transform = Rotation(dim, "hadamard", 11), hadamard.hadamard(dim, 11)
    x = exact_rows(dim) if dim > 5 else np.eye(dim, dtype=np.float32)
    for row, z in zip(x, vectorised.forward(rotation, x), strict=True):
        assert array(hadamard.forward(transform, floats(row))).tolist() == z.tolist()


def test_dense_rotation_is_a_matrix_product():
    rotation = Rotation(33, "dense", 2)
    transform = hadamard.dense(33, floats(rotation.matrix))
    x = np.random.default_rng(0).standard_normal(33)
    z = array(hadamard.forward(transform, floats(x)))
    assert z == pytest.approx(rotation.matrix.astype(float) @ x * 33**0.5, rel=1e-12)
    assert array(hadamard.inverse(transform, floats(z))) == pytest.approx(x, rel=0, abs=1e-6)


@pytest.mark.parametrize("width", range(1, 9))
def test_packing_is_the_same(width):
    for dim in DIMS:
        codes = np.random.default_rng(dim).integers(0, 2**width, (2, dim)).astype(np.uint8)
        packed = packing.pack(codes, width)
        assert pack.row_bytes(dim, width) == packing.row_bytes(dim, width) == packed.shape[1]
        for row, expected in zip(codes, packed, strict=True):
            assert pack.pack(row.tobytes(), width) == expected.tobytes()
        assert pack.unpack(packed.tobytes(), packed.shape[1], dim, width) == codes[1].tobytes()


def test_planes_are_the_same():
    assert {width: pack.PLANES[width] for width in range(1, 9)} == packing.PLANES


def test_rounding_is_half_to_even_and_clamped():
    values = [-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.4999999, 32766.5, -32766.5, 1e9 + 0.5]
    assert [encode.nearest(value) for value in values] == np.rint(values).astype(int).tolist()
    for value, expected in ((32767.0, 32767), (32766.5, 32766), (1e30, 32767), (-32768.0, -32767), (-1e30, -32767)):
        assert encode.coordinate(value) == expected


def test_rounding_to_float32_is_the_same():
    x = np.random.default_rng(2).standard_normal(200) * 10.0 ** np.random.default_rng(3).uniform(-44, 38, 200)
    found = floats(x)
    encode.round_to_float32(found)
    assert array(found).tolist() == x.astype(np.float32).astype(float).tolist()


def test_norms_are_the_same_bit_for_bit():
    for dim in DIMS:
        x = np.random.default_rng(dim).standard_normal((4, dim)) * 10.0 ** np.arange(-3, 5, 2)[:, None]
        assert [encode.row_norm(floats(row)) for row in x] == row_norms(x).tolist()


@pytest.mark.parametrize("width", [1, 2, 4, 8])
def test_bins_are_the_same_for_every_coordinate(width):
    table = codebook(96, width)
    thresholds = vec[i64]([int(threshold) for threshold in table.thresholds])
    values = np.unique(np.concatenate([np.arange(0, 32768, 17), table.thresholds, table.thresholds + 1, [32767]]))
    expected = np.searchsorted(table.thresholds, values, side="left")
    assert [encode.magnitude(thresholds, int(value)) for value in values] == expected.tolist()
    assert [encode.magnitude(thresholds, -int(value)) for value in values] == expected.tolist()


@pytest.mark.parametrize("dim", [16, 64, 128, 256])
def test_rows_are_identical_where_floats_are_exact(dim):
    """Codes, scale, sketch and residual norm, bit for bit, for each rule, with and without search and sketch."""
    x = exact_rows(dim)
    plans = [plan_of(dim, 4, rule) for rule in encode.RULES] + [
        plan_of(dim, width) for width in (*range(1, 9), *RADICES)
    ]
    plans += [plan_of(dim, 2.25, "mse", 9), plan_of(dim, 3.5, "norm", 9)]
    plans += [plan_of(dim, 3, "mse", 9), plan_of(dim, 2, kind="gaussian"), plan_of(dim, 4, "plain", kind="gaussian")]
    for plan in plans:
        packed, scales, gammas = NUMPY.encode(plan, x)
        encoder = encoder_of(plan)
        for index, row in enumerate(x):
            data, scale, gamma = encode.encode_row(encoder, row.tobytes())
            assert data == packed[index].tobytes()
            assert np.float32(scale) == scales[index]
            if gammas is not None:
                assert np.float32(gamma) == gammas[index]


@pytest.mark.parametrize("dim", DIMS)
def test_codes_differ_only_at_bin_edges(dim):
    x = np.random.default_rng(dim).standard_normal((8, dim)).astype(np.float32)
    for width in (1, 3, 4, 8):
        plan = plan_of(dim, width)
        packed, scales, _ = NUMPY.encode(plan, x)
        encoder = encoder_of(plan)
        found = [encode.encode_row(encoder, row.tobytes()) for row in x]
        mine = packing.unpack(
            np.frombuffer(b"".join(data for data, _, _ in found), np.uint8).reshape(8, -1), dim, width
        )
        theirs = packing.unpack(packed, dim, width)
        differ = mine != theirs
        scaled = 4096.0 * vectorised.forward(plan.rotation, (x / row_norms(x)[:, None]).astype(np.float32))
        edges = np.concatenate([[-0.5], plan.codebook.thresholds.astype(float)]) + 0.5
        distance = np.abs(np.abs(scaled)[..., None] - edges).min(axis=-1)
        assert (distance[differ] < 0.02).all()
        same = ~differ.any(axis=1)
        assert same.sum() >= 5
        assert np.array([scale for _, scale, _ in found])[same] == pytest.approx(scales[same], rel=1e-4)


@pytest.mark.parametrize("dim", [7, 64, 96, 100])
@pytest.mark.parametrize("kind", [None, "gaussian", "hadamard"])
def test_decoding_and_scoring_are_the_same_within_float32(dim, kind):
    plan = plan_of(dim, 3, kind=kind)
    x = np.random.default_rng(dim).standard_normal((6, dim)).astype(np.float32)
    query = np.random.default_rng(1).standard_normal((1, dim)).astype(np.float32)
    packed, scales, gammas = NUMPY.encode(plan, x)
    rows, expected = NUMPY.decode(plan, packed, scales, gammas), NUMPY.scores(plan, packed, scales, gammas, query)[0]
    encoder, data, width = encoder_of(plan), packed.tobytes(), packed.shape[1]
    rotated = hadamard.forward(encoder.transform, floats(query))
    room = 1e-4 * float(np.linalg.norm(query)) * row_norms(x)
    for index in range(len(x)):
        gamma = 0.0 if gammas is None else float(gammas[index])
        found = array(score.decode_row(encoder, data, index * width, float(scales[index]), gamma))
        assert found == pytest.approx(rows[index], rel=0, abs=1e-5 * float(np.abs(rows[index]).max()))
        estimate = score.score_row(encoder, rotated, data, index * width) * float(scales[index])
        if kind is not None:
            turned = floats(array(rotated) / dim**0.5)
            projected = sketch.project(encoder.signs, turned)
            estimate += gamma * sketch.score(projected, data, index * width + plan.stage_bytes)
        assert estimate == pytest.approx(float(expected[index]), rel=0, abs=float(room[index]))


@pytest.mark.parametrize(("dim", "projections"), [(8, 8), (33, 33), (16, 50), (64, 7)])
def test_gaussian_sketches_are_the_same_bit_for_bit(dim, projections):
    reference, signs = Sketch(dim, projections, "gaussian", 4), sketch.gaussian(dim, projections, 4)
    assert list(signs.matrix) == reference.matrix.ravel().tolist()
    assert signs.constant == pytest.approx(reference.constant, rel=1e-15)
    residuals = np.random.default_rng(5).integers(-2000, 2000, (6, dim))
    for row, expected in zip(residuals, NUMPY.sketch(reference, residuals), strict=True):
        assert sketch.residual_bits(signs, vec[i64](row.tolist())) == expected.tobytes()


@pytest.mark.parametrize("dim", [8, 33, 96, 128])
def test_structured_sketches_have_the_same_constant_and_signs(dim):
    reference, signs = Sketch(dim, dim, "hadamard", 4), sketch.structured(dim, 4)
    assert signs.constant == pytest.approx(reference.constant, rel=1e-12)
    assert array(signs.transform.signs).tolist() == reference.rotation.signs.ravel().tolist()


WRONG = {
    "a negative seed": (ValueError, lambda: bits.stream_key(-1, 0)),
    "a seed of 65 bits": (ValueError, lambda: bits.stream_key(1 << 64, 0)),
    "no codebook of dim 1": (ValueError, lambda: book.solve(1, 4)),
    "no codebook of 9 bits": (ValueError, lambda: book.solve(64, 9)),
    "a short row": (ValueError, lambda: encode.encode_row(encoder_of(plan_of(8, 2)), b"\0" * 31)),
    "a long vector": (ValueError, lambda: encode.encode_vector(encoder_of(plan_of(8, 2)), floats(np.ones(9)))),
    "missing packed bytes": (IndexError, lambda: pack.unpack(b"\0\0\0", 0, 8, 4)),
    "a width without planes": (IndexError, lambda: pack.pack(b"\0", 9)),
    "missing sketch bytes": (IndexError, lambda: sketch.sign(b"\0", 0, 8)),
    "text for a key": (TypeError, lambda: bits.signs("key", 3)),
    "text for a seed": (TypeError, lambda: bits.stream_key("0", 0)),
    "None for a value": (TypeError, lambda: encode.nearest(None)),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments_raise_the_same_type_interpreted_and_compiled(case):
    error, call = WRONG[case]
    with pytest.raises(error):
        call()
