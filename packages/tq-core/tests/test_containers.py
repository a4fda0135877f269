"""Codes and Encoded: selected, joined, compared, pickled and written without a byte more than they hold."""

import copy
import hashlib
import json
import pickle

import numpy as np
import pytest

import tq_core
from tq_core import Codes, Encoded, RowOutOfRange, ShapeMismatch, SpecMismatch, TurboQuantMSE, VectorCodec


@pytest.fixture
def made(encoder, unit_rows):
    """Nine rows of every kind."""
    return encoder.encode(unit_rows(9, encoder.dim))


def rows_of(codes):
    return [tuple(array[row].tobytes() for array in codes.arrays.values()) for row in range(len(codes))]


@pytest.mark.parametrize(
    "index",
    [
        *(slice(2, 5), slice(None), slice(-3, None), slice(None, None, 2), slice(None, None, -1), slice(7, 2, -3)),
        *(slice(5, 5), [3, 1, 1, -1], np.array([8, 0], np.uint8), np.array([-9, 2]), np.arange(9) % 3 == 0, [True] * 9),
    ],
    ids=repr,
)
def test_rows_are_selected_as_numpy_selects(made, index):
    chosen = made[index]
    order = np.arange(9)[index].tolist()
    assert type(chosen) is type(made)
    assert rows_of(chosen) == [rows_of(made)[row] for row in order]
    assert not chosen.single
    for array in chosen.arrays.values():
        assert array.flags.c_contiguous
        assert not array.flags.writeable


@pytest.mark.parametrize("row", [0, 8, -1, -9, np.int64(4), np.uint8(4)])
def test_one_row_is_a_single_vector(encoder, made, row):
    one = made[row]
    assert one.single
    assert rows_of(one) == [rows_of(made)[int(row)]]
    assert encoder.decode(one).shape == (encoder.dim,)


def test_codes_iterate_row_by_row(made):
    assert [rows_of(one)[0] for one in made] == rows_of(made)


@pytest.mark.parametrize("row", [9, -10, 10**20])
def test_rows_that_are_not_there(made, row):
    with pytest.raises(RowOutOfRange, match=f"there are 9 rows, got row {row}"):
        made[row]


@pytest.mark.parametrize("rows", [[0, 9], [-10], np.array([200], np.uint8)])
def test_index_arrays_beyond_the_rows(made, rows):
    with pytest.raises(RowOutOfRange, match="there are 9 rows, got indices from"):
        made[rows]


@pytest.mark.parametrize("length", [0, 8, 10])
def test_masks_of_another_length(made, length):
    with pytest.raises(ShapeMismatch, match=f"a mask over 9 rows has 9 entries, got {length}"):
        made[np.ones(length, bool)]


@pytest.mark.parametrize("index", [True, False, None, 1.0, "0", [[0, 1]], [0.5], np.bool_(True), ..., [1.0, 2.0]])
def test_what_selects_no_rows(made, index):
    with pytest.raises(ShapeMismatch, match="rows are selected by an int, a slice or a 1-D index or mask"):
        made[index]


def test_ragged_indices(made):
    with pytest.raises(ShapeMismatch, match="the index must be an array of rows of one length"):
        made[[[0], [1, 2]]]


def test_slices_share_memory_and_index_arrays_do_not(made):
    assert np.shares_memory(made[2:5].arrays["packed"], made.arrays["packed"])
    assert not np.shares_memory(made[[2, 3]].arrays["packed"], made.arrays["packed"])


def test_concatenation_undoes_slicing(made):
    kind = type(made)
    assert kind.concatenate([made[:2], made[2:3], made[3:]]) == made
    assert kind.concatenate(part for part in (made[:4], made[4:])) == made
    assert kind.concatenate([made]) == made
    assert not kind.concatenate([made[0]]).single


def test_concatenating_nothing():
    with pytest.raises(ShapeMismatch, match="concatenate needs at least one part"):
        Codes.concatenate([])


def test_concatenating_rows_of_different_quantizers(unit_rows):
    x = unit_rows(2, 64)
    parts = [TurboQuantMSE(64, 4, seed=seed).quantize(x) for seed in (1, 2)]
    with pytest.raises(SpecMismatch, match="parts differ in spec"):
        Codes.concatenate(parts)


def test_concatenating_codes_with_encoded_rows(unit_rows):
    x = unit_rows(2, 64)
    encoded = VectorCodec(TurboQuantMSE(64, 4)).encode(x)
    with pytest.raises(SpecMismatch, match=r"Codes\.concatenate joins Codes only, got Encoded"):
        Codes.concatenate([encoded])
    with pytest.raises(SpecMismatch, match=r"Encoded\.concatenate joins Encoded only, got bytes"):
        Encoded.concatenate([encoded, b"rows"])


def test_equality_is_of_spec_and_bytes(encoder, made, unit_rows):
    assert made == encoder.encode(unit_rows(9, encoder.dim))
    assert made != encoder.encode(unit_rows(9, encoder.dim, seed=2))
    assert made != made[:8]
    assert made != made.to_bytes()
    other_spec = tq_core.from_spec(seed_changed(encoder.spec))
    again = other_spec.encode if isinstance(other_spec, VectorCodec) else other_spec.quantize
    assert made != again(unit_rows(9, encoder.dim))


def seed_changed(spec):
    if "quantizer" in spec:
        return {**spec, "quantizer": seed_changed(spec["quantizer"])}
    return {**spec, "seed": spec["seed"] + 1}


def test_codes_are_not_hashable(made):
    with pytest.raises(TypeError, match="unhashable"):
        hash(made)


def test_arrays_cannot_be_written(made):
    for name, array in made.arrays.items():
        with pytest.raises(ValueError, match="read-only"):
            array[:] = 0
        with pytest.raises(ValueError, match="cannot set WRITEABLE flag"):
            array.setflags(write=True)
        with pytest.raises(TypeError, match="does not support item assignment"):
            made.arrays[name] = array


def test_specs_are_copies(made):
    before = copy.deepcopy(made.spec)
    made.spec["kind"] = "other"
    if "quantizer" in made.spec:
        made.spec["quantizer"]["dim"] = 3
    assert made.spec == before


def test_nbytes_is_what_the_arrays_hold(made):
    assert made.nbytes == sum(array.nbytes for array in made.arrays.values())
    assert made[:4].nbytes * 9 == made.nbytes * 4


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_pickling_goes_through_the_checked_bytes(made, protocol):
    again = pickle.loads(pickle.dumps(made, protocol))
    assert again == made
    assert type(again) is type(made)
    assert pickle.loads(pickle.dumps(made[3], protocol)).single


def test_copies_are_equal(made):
    assert copy.copy(made) == copy.deepcopy(made) == made


def test_repr_says_rows_bytes_and_spec(made):
    assert repr(made) == f"{type(made).__name__}(9 rows, {made.nbytes} bytes, spec={made.spec})"


@pytest.mark.parametrize("wrapper", [bytes, bytearray, memoryview, lambda data: np.frombuffer(data, np.uint8)])
def test_bytes_come_back_from_any_buffer(encoder, made, wrapper):
    again = type(made).from_bytes(wrapper(made.to_bytes()))
    assert again == made
    assert again.spec == encoder.spec
    assert again[0].single
    assert np.array_equal(encoder.decode(again), encoder.decode(made))


def test_reading_does_not_keep_the_buffer(made):
    data = bytearray(made.to_bytes())
    again = type(made).from_bytes(data)
    data[:] = bytes(len(data))
    assert again == made


def test_rows_selected_with_a_step_are_written_in_order(made):
    assert type(made).from_bytes(made[::-2].to_bytes()) == made[[8, 6, 4, 2, 0]]


def test_the_bytes_of_a_tiny_container_are_exactly_these():
    codes = Codes(TurboQuantMSE(4, 2).spec, {"packed": np.array([[0b11_10_01_00]], np.uint8)}, single=True)
    header = (
        b'{"kind":"codes","rows":1,"single":true,"spec":{"bits":2,"dim":4,"kind":"mse","rotation":"hadamard","seed":0}}'
    )
    fixed = b"TQv\0" + b"\x01\0\0\0" + bytes([len(header), 0, 0, 0]) + b"\x01" + bytes(7)
    digest = hashlib.sha256(fixed + header + b"\xe4").digest()
    assert codes.to_bytes() == fixed + digest + header + b"\xe4"


def test_the_payload_is_the_arrays_in_the_written_order(encoder, made, taken_apart):
    header, payload = taken_apart(made.to_bytes())
    assert header == json.loads(json.dumps({"kind": made.KIND, "rows": 9, "single": False, "spec": encoder.spec}))
    order = [name for name in ("packed", "gammas", "radii", "scales") if name in made.arrays]
    assert payload == b"".join(made.arrays[name].tobytes() for name in order)
    assert len(payload) == made.nbytes


def test_wrapping_shares_a_cache_s_buffers(codec, unit_rows):
    encoded = codec.encode(unit_rows(5, codec.dim))
    buffers = {name: array.copy() for name, array in encoded.arrays.items()}
    wrapped = codec.wrap(buffers)
    assert wrapped == encoded
    assert np.shares_memory(wrapped.arrays["packed"], buffers["packed"])
    buffers["packed"][0] ^= 1  # the caller's array stays the caller's
    assert wrapped != encoded
