"""Properties of encoding under hypothesis: rows are independent of each other, of their order and of their batch."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tq_core import Codes, Encoded, PolarQuant, TurboQuantMSE, TurboQuantProd, VectorCodec, packing

# derandomised and without a database: the same examples everywhere, and nothing written
quick = settings(
    max_examples=40, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)

CODECS = [
    VectorCodec(TurboQuantMSE(20, 3), norm_dtype="float32", underflow="zero"),
    VectorCodec(TurboQuantMSE(33, 5, seed=2), search=5, norm_dtype="float32", underflow="zero"),
    VectorCodec(TurboQuantMSE(12, 4, rotation="dense"), norm_dtype="float32", underflow="zero"),
    VectorCodec(TurboQuantProd(24, 3), norm_dtype="float32", underflow="zero"),
    VectorCodec(PolarQuant(16, 4), norm_dtype="float32", underflow="zero"),
]
codecs = st.sampled_from(CODECS)
values = st.floats(-1e6, 1e6, width=32)


@st.composite
def batches(draw, least=0, most=6):
    """A codec and a batch of float32 rows for it."""
    codec = draw(codecs)
    rows = draw(st.lists(st.lists(values, min_size=codec.dim, max_size=codec.dim), min_size=least, max_size=most))
    return codec, np.array(rows, np.float32).reshape(-1, codec.dim)


@quick
@given(batches(least=1), st.data())
def test_selecting_codes_is_encoding_the_selection(batch, data):
    codec, x = batch
    index = data.draw(st.lists(st.integers(0, len(x) - 1), max_size=8))
    assert codec.encode(x)[index] == codec.encode(x[index])


@quick
@given(batches(), st.integers(0, 6))
def test_joining_codes_is_encoding_the_joined_rows(batch, cut):
    codec, x = batch
    parts = [codec.encode(x[:cut]), codec.encode(x[cut:])]
    assert Encoded.concatenate(parts) == codec.encode(x)


@quick
@given(batches(), st.slices(6))
def test_slicing_codes_is_encoding_the_slice(batch, cut):
    codec, x = batch
    assert codec.encode(x)[cut] == codec.encode(x[cut])


@quick
@given(batches())
def test_bytes_round_trip(batch):
    codec, x = batch
    encoded = codec.encode(x)
    again = Encoded.from_bytes(encoded.to_bytes())
    assert again == encoded
    assert again.to_bytes() == encoded.to_bytes()
    assert np.array_equal(codec.decode(again), codec.decode(encoded))


@quick
@given(batches(least=1))
def test_negating_a_row_negates_what_it_decodes_to(batch):
    codec, x = batch
    if isinstance(codec.quantizer, TurboQuantMSE):  # sketches break ties at zero, polar bins begin at an edge
        rotated = codec.quantizer.backend.rotate(codec.plan.rotation, x)
        x = x[(np.abs(rotated) > 0).all(axis=1)]
        decoded = codec.decode(codec.encode(x))
        opposed = codec.decode(codec.encode(-x))
        lengths = np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
        assert (np.abs(decoded + opposed) <= 0.02 * lengths).all()


@quick
@given(batches(least=1))
def test_decoded_rows_are_finite_and_near(batch):
    codec, x = batch
    decoded = codec.decode(codec.encode(x)).astype(np.float64)
    assert np.isfinite(decoded).all()
    lengths = np.linalg.norm(x.astype(np.float64), axis=1)
    assert (np.linalg.norm(decoded - x, axis=1) <= 1.6 * lengths + 1e-30).all()


@quick
@given(st.integers(1, 8), st.integers(1, 70), st.integers(0, 4), st.data())
def test_packing_round_trips(bits, dim, rows, data):
    drawn = data.draw(st.binary(min_size=rows * dim, max_size=rows * dim))
    codes = np.frombuffer(drawn, np.uint8).reshape(rows, dim) & np.uint8((1 << bits) - 1)
    packed = packing.pack(codes, bits)
    assert np.array_equal(packing.unpack(packed, dim, bits), codes)
    assert packing.has_clean_padding(packed, dim, packing.PLANES[bits])


@quick
@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_never_codes(data):
    from tq_core import TurboQuantError

    for kind in (Codes, Encoded):
        with pytest.raises(TurboQuantError):
            kind.from_bytes(data)
