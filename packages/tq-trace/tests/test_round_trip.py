"""What is saved comes back bit for bit, and the official package and this one read each other's files."""

import copy
import json
import pickle

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from tq_trace import Bfloat16, KvTrace, Metadata, TraceExists

FLOATS = {"float16": np.float16, "float32": np.float32, "float64": np.float64}
ORIGIN = {"model": "tiny", "benchmark": "noise", "layer": 0}
INTEGERS = [np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64]


def bits_of(trace):
    return {name: array.tobytes() for name, (_, array) in trace._held.stored.items()}


@pytest.mark.parametrize("dtype", FLOATS)
def test_every_float_dtype_comes_back_bit_for_bit(arguments, tmp_path, dtype):
    extreme = np.finfo(dtype)
    for name in ("keys", "values", "queries"):
        arguments[name] = arguments[name].astype(dtype)
    arguments["keys"][0, 0] = [extreme.max, extreme.smallest_subnormal, -0.0, extreme.eps]
    KvTrace(**arguments).save(tmp_path / "t")
    loaded = KvTrace.load(tmp_path / "t")
    for name in ("keys", "values", "queries"):
        assert getattr(loaded, name).dtype == dtype
        assert getattr(loaded, name).tobytes() == arguments[name].tobytes()
    assert loaded.dtypes == {"keys": dtype, "values": dtype, "queries": dtype, "query_positions": "int64"}


def test_every_finite_bfloat16_comes_back_bit_for_bit_and_widens_exactly(tmp_path):
    every = np.arange(1 << 16, dtype=np.uint16)
    finite = every[(every & 0x7F80) != 0x7F80]
    bits = finite.reshape(1, -1, 8)
    KvTrace(Bfloat16(bits), Bfloat16(bits), Bfloat16(bits), np.zeros(bits.shape[:2], int), **ORIGIN).save(
        tmp_path / "t"
    )
    loaded = KvTrace.load(tmp_path / "t")
    assert loaded._held.stored["keys"][1].tobytes() == bits.tobytes()
    assert loaded.dtypes["keys"] == "bfloat16"
    widened = loaded.keys
    assert widened.dtype == np.float32
    assert (widened.view(np.uint32) == bits.astype(np.uint32) << 16).all()
    np.testing.assert_array_equal(loaded.sample(0).keys, widened[0])


def test_bfloat16_arrays_of_ml_dtypes_are_taken_as_they_are(arguments):
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    narrow = arguments["keys"].astype(ml_dtypes.bfloat16)
    arguments["keys"] = narrow[:, :, ::-1]
    trace = KvTrace(**arguments)
    assert trace.dtypes["keys"] == "bfloat16"
    np.testing.assert_array_equal(trace.keys, narrow[:, :, ::-1].astype(np.float32))


@pytest.mark.parametrize("dtype", INTEGERS)
def test_positions_of_any_integer_dtype_are_read_and_written_as_int64(arguments, tmp_path, dtype):
    tensors = {name: arguments[name] for name in ("keys", "values", "queries")}
    tensors["query_positions"] = arguments["query_positions"].astype(dtype)
    safetensors.numpy.save_file(tensors, tmp_path / "theirs", {"model": "m", "benchmark": "b", "layer": "0"})
    loaded = KvTrace.load(tmp_path / "theirs")
    assert loaded.query_positions.dtype == np.int64
    np.testing.assert_array_equal(loaded.query_positions, arguments["query_positions"])
    loaded.save(tmp_path / "ours")
    assert safetensors.numpy.load_file(tmp_path / "ours")["query_positions"].dtype == np.int64


def test_official_package_reads_our_file(arguments, tmp_path):
    arguments |= {"suite": "s", "head": 1, "note": "tränen\n\u2028", "values": arguments["values"].astype(np.float16)}
    KvTrace(**arguments).save(tmp_path / "t")
    found = safetensors.numpy.load_file(tmp_path / "t")
    assert set(found) == {"keys", "values", "queries", "query_positions"}
    for name, array in found.items():
        assert array.dtype == arguments[name].dtype
        np.testing.assert_array_equal(array, arguments[name])
    with safetensors.safe_open(tmp_path / "t", framework="np") as file:
        assert file.metadata() == {
            "model": "tiny", "benchmark": "noise", "layer": "3", "suite": "s", "head": "1", "note": "tränen\n\u2028"
        }  # fmt: skip


def test_official_package_reads_our_bfloat16(arguments, tmp_path):
    bits = np.arange(40, dtype=np.uint16).reshape(2, 5, 4)
    KvTrace(**arguments | {"keys": Bfloat16(bits)}).save(tmp_path / "t")
    found = dict(safetensors.deserialize((tmp_path / "t").read_bytes()))
    assert found["keys"]["dtype"] == "BF16"
    assert bytes(found["keys"]["data"]) == bits.tobytes()


def split(data):
    """Header (in its order) and body of a safetensors file."""
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def test_tensors_are_laid_out_as_the_official_package_does(arguments, tmp_path):
    arguments["values"] = arguments["values"].astype(np.float16)
    KvTrace(**arguments).save(tmp_path / "t")
    tensors = {name: arguments[name] for name in ("keys", "values", "queries", "query_positions")}
    ours, our_body = split((tmp_path / "t").read_bytes())
    theirs, their_body = split(safetensors.numpy.save(tensors))
    assert ours.pop("__metadata__") == {"model": "tiny", "benchmark": "noise", "layer": "3"}
    assert list(ours.items()) == list(theirs.items())
    assert our_body == their_body


@pytest.mark.parametrize("length", range(8))
def test_every_tensor_is_aligned(arguments, tmp_path, length):
    KvTrace(**arguments | {"note": "x" * length, "values": np.ones((2, 5, 1), np.float16)}).save(tmp_path / "t")
    data = (tmp_path / "t").read_bytes()
    header, body = split(data)
    start = len(data) - len(body)
    assert {name: (start + header[name]["data_offsets"][0]) % 8 for name in ("query_positions", "keys")} == {
        "query_positions": 0,
        "keys": 0,
    }
    assert (start + header["values"]["data_offsets"][0]) % 2 == 0


def test_file_of_the_official_package_is_read_with_strange_metadata_kept(arguments, tmp_path):
    tensors = {name: arguments[name] for name in ("keys", "values", "queries", "query_positions")}
    strings = {"model": "m", "benchmark": "b", "layer": "7", "format": "pt"}
    safetensors.numpy.save_file(tensors, tmp_path / "theirs", strings)
    loaded = KvTrace.load(tmp_path / "theirs")
    assert loaded.metadata == Metadata("m", "b", 7, extra={"format": "pt"})
    loaded.save(tmp_path / "ours")
    assert KvTrace.load(tmp_path / "ours") == loaded
    assert loaded.metadata.to_strings() == strings


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(*[st.integers(1, 4)] * 5),
    st.sampled_from(sorted(FLOATS)),
    st.text(st.characters(codec="utf-8"), max_size=20),
    st.none() | st.text(st.characters(codec="utf-8"), max_size=20),
    st.none() | st.integers(0, 10**9 - 1),
    st.integers(0, 1000),
)
def test_any_trace_comes_back_equal(tmp_path_factory, lengths, dtype, text, optional, head, seed):
    samples, tokens, query_count, head_dim, value_dim = lengths
    random = np.random.default_rng(seed)
    trace = KvTrace(
        random.standard_normal((samples, tokens, head_dim)).astype(dtype),
        random.standard_normal((samples, tokens, value_dim)).astype(dtype),
        random.standard_normal((samples, query_count, head_dim)).astype(np.float16),
        random.integers(0, tokens, (samples, query_count)),
        model=text, benchmark=text, layer=seed, suite=optional, head=head, note=optional,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("any") / "t"
    trace.save(path)
    loaded = KvTrace.load(path)
    assert loaded == trace
    assert bits_of(loaded) == bits_of(trace)


def test_strides_and_byte_order_do_not_matter(arguments):
    plain = KvTrace(**arguments)
    for name in ("keys", "values", "queries"):
        arguments[name] = np.asfortranarray(arguments[name]).astype(">f4")
    arguments["query_positions"] = arguments["query_positions"].astype(">u2")
    assert KvTrace(**arguments) == plain


def test_pickle_and_copy_give_an_equal_trace(trace):
    assert pickle.loads(pickle.dumps(trace)) == trace
    assert copy.deepcopy(trace) == trace
    assert pickle.loads(pickle.dumps(trace.metadata)) == trace.metadata


def test_errors_pickle():
    error = pickle.loads(pickle.dumps(TraceExists("there: already exists")))
    assert isinstance(error, FileExistsError)
    assert str(error) == "there: already exists"


def test_traces_differ_in_dtype_bits_and_metadata(arguments, trace):
    assert KvTrace(**arguments | {"keys": arguments["keys"].astype(np.float64)}) != trace
    assert KvTrace(**arguments | {"layer": 4}) != trace
    changed = arguments["values"].copy()
    changed[1, 4, 2] = -changed[1, 4, 2]
    assert KvTrace(**arguments | {"values": changed}) != trace
    assert trace != "trace"
