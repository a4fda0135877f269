"""Every legal form of the same numbers gives the same codes: dtypes, strides, byte orders, batches of none."""

import numpy as np
import pytest

from tq_core import QJL, PolarQuant, TurboQuantMSE, TurboQuantProd, VectorCodec, normalize


def half_precision_units(rows, dim):
    """Rows of +-1/sqrt(dim), dim a power of four: unit norm exactly, and exact in every dtype."""
    signs = np.random.default_rng(4).integers(0, 2, (rows, dim)) * 2 - 1
    return (signs / np.sqrt(dim)).astype(np.float16)


EXACT = [
    TurboQuantMSE(64, 3),
    TurboQuantMSE(256, 4, rotation="dense"),
    TurboQuantProd(64, 4),
    PolarQuant(64, 4),
    QJL(64),
    VectorCodec(TurboQuantMSE(64, 4), search=3),
    VectorCodec(PolarQuant(64, 4)),
]


def encode(maker, x):
    return maker.encode(x) if isinstance(maker, VectorCodec) else maker.quantize(x)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f2", ">f4", ">f8"])
@pytest.mark.parametrize("maker", EXACT, ids=repr)
def test_dtypes_and_byte_orders_of_the_same_numbers(maker, dtype):
    x = half_precision_units(5, maker.dim)
    assert encode(maker, x.astype(dtype)) == encode(maker, x.astype(np.float32))


def strided_forms(x):
    """The same (rows, dim) numbers in other memory."""
    padded = np.zeros((2 * len(x), 3 * x.shape[1]), x.dtype)
    padded[::2, ::3] = x
    flipped = np.ascontiguousarray(x[::-1, ::-1])
    frozen = x.copy()
    frozen.setflags(write=False)
    misaligned = np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(x.dtype).reshape(x.shape)
    return {
        "fortran": np.asfortranarray(x),
        "strided": padded[::2, ::3],
        "negative strides": flipped[::-1, ::-1],
        "read-only": frozen,
        "misaligned": misaligned,
        "broadcast": np.broadcast_to(x[:1], x.shape),
        "list": x.tolist(),
        "subclass": x.view(type("Mine", (np.ndarray,), {})),
    }


@pytest.mark.parametrize("form", ["fortran", "strided", "negative strides", "read-only", "misaligned", "subclass"])
def test_strides_alignment_and_subclasses_make_no_difference(encoder, unit_rows, form):
    x = unit_rows(7, encoder.dim)
    assert encoder.encode(strided_forms(x)[form]) == encoder.encode(x)


def test_broadcast_rows_are_rows(encoder, unit_rows):
    x = unit_rows(3, encoder.dim)
    made = encoder.encode(strided_forms(x)["broadcast"])
    assert made == encoder.encode(np.repeat(x[:1], 3, axis=0))


def test_lists_of_floats_are_float64_rows(encoder, unit_rows):
    x = unit_rows(3, encoder.dim).astype(np.float64)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    assert encoder.encode(x.tolist()) == encoder.encode(x)


def test_queries_in_every_form_score_the_same(encoder, unit_rows):
    made = encoder.encode(unit_rows(6, encoder.dim))
    queries = unit_rows(3, encoder.dim, seed=8)
    expected = encoder.scores(made, queries)
    assert expected.dtype == np.float32
    assert expected.shape == (3, 6)
    for form, same in strided_forms(queries).items():
        if form != "broadcast":
            assert np.array_equal(encoder.scores(made, same), expected), form
    assert np.array_equal(encoder.scores(made, queries.astype(">f8")), expected)
    rounded = queries.astype(np.float16)
    assert np.array_equal(encoder.scores(made, rounded), encoder.scores(made, rounded.astype(np.float64)))


def test_inputs_are_never_written(encoder, unit_rows):
    x, queries = unit_rows(5, encoder.dim), unit_rows(5, encoder.dim, seed=9)
    before = x.tobytes(), queries.tobytes()
    made = encoder.encode(x)
    encoder.decode(made)
    encoder.scores(made, queries)
    assert (x.tobytes(), queries.tobytes()) == before


def test_codes_do_not_change_with_the_array_they_came_from(encoder, unit_rows):
    x = unit_rows(5, encoder.dim)
    made = encoder.encode(x)
    bytes_before = made.to_bytes()
    x[:] = 0
    assert made.to_bytes() == bytes_before


def test_decoded_arrays_are_new_writable_and_contiguous(encoder, unit_rows):
    made = encoder.encode(unit_rows(5, encoder.dim))
    first, second = encoder.decode(made), encoder.decode(made)
    assert first.dtype == np.float32
    assert first.flags.c_contiguous
    first[:] = 0
    assert np.array_equal(encoder.decode(made), second)


def test_a_single_vector_keeps_its_rank(encoder, unit_rows):
    x = unit_rows(1, encoder.dim)
    one, batch = encoder.encode(x[0]), encoder.encode(x)
    assert one.single
    assert not batch.single
    assert one == batch
    assert encoder.decode(one).shape == (encoder.dim,)
    assert encoder.decode(batch).shape == (1, encoder.dim)
    assert np.array_equal(encoder.decode(one), encoder.decode(batch)[0])
    assert encoder.scores(one, x[0]).shape == encoder.scores(batch, x).shape == (1, 1)


def test_empty_batches_are_legal_everywhere(encoder, unit_rows):
    x = unit_rows(4, encoder.dim)
    none = encoder.encode(x[:0])
    assert len(none) == none.nbytes == 0
    assert encoder.decode(none).shape == (0, encoder.dim)
    assert encoder.scores(none, x).shape == (4, 0)
    some = encoder.encode(x)
    assert encoder.scores(some, x[:0]).shape == (0, 4)
    assert encoder.scores(none, x[:0]).shape == (0, 0)
    kind = type(some)
    assert kind.from_bytes(none.to_bytes()) == none
    assert kind.concatenate([none, some, none]) == some
    assert some[:0] == some[[]] == some[np.zeros(4, bool)] == none


def test_searching_nothing_finds_nothing(codec, unit_rows):
    x = unit_rows(4, codec.dim)
    scores, rows = codec.search(codec.encode(x[:0]), x, 3)
    assert np.isneginf(scores).all()
    assert (rows == -1).all()
    scores, rows = codec.search(codec.encode(x), x[:0], 3)
    assert scores.shape == rows.shape == (0, 3)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4"])
def test_normalize_gives_unit_rows_and_norms(gaussian_rows, dtype):
    x = gaussian_rows(6, 40).astype(dtype) * np.array(3, dtype)
    unit, norms = normalize(x)
    assert unit.dtype == np.float32
    assert norms.dtype == np.float64
    exact = x.astype(np.float64)
    assert norms == pytest.approx(np.linalg.norm(exact, axis=1), rel=1e-14)
    assert np.abs(unit * norms[:, None] - exact).max() < 1e-5
    one, norm = normalize(x[2])
    assert np.array_equal(one, unit[2])
    assert norm == norms[2]
    assert np.shape(norm) == ()


def test_normalize_of_nothing():
    unit, norms = normalize(np.empty((0, 8)))
    assert unit.shape == (0, 8)
    assert norms.shape == (0,)


@pytest.mark.parametrize("exponent", [-1074, -1060, -600, -300, 300, 600, 1020])
def test_normalize_survives_huge_and_subnormal_float64(exponent):
    x = np.ldexp(np.array([[3.0, 4.0], [0.0, 1.0]]), exponent)
    unit, norms = normalize(x)
    assert np.allclose(unit, [[0.6, 0.8], [0.0, 1.0]], rtol=1e-6)
    assert norms.tolist() == np.ldexp(np.array([5.0, 1.0]), exponent).tolist()


def test_bfloat16_is_widened_and_keeps_its_own_tolerance(gaussian_rows):
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="bfloat16 arrays come from ml_dtypes, which is not installed")
    x = gaussian_rows(20, 64).astype(ml_dtypes.bfloat16)
    codec = VectorCodec(TurboQuantMSE(64, 4))
    assert codec.encode(x) == codec.encode(x.astype(np.float32))
    unit = normalize(x)[0].astype(ml_dtypes.bfloat16)
    assert len(TurboQuantMSE(64, 4).quantize(unit)) == 20
