"""A trace is valid from construction on: what it gives, and one test for each rule that it refuses to break."""

import numpy as np
import pytest

from tq_core import InvalidDtype, InvalidSpec, NotFinite, ShapeMismatch, TurboQuantError
from tq_trace import Bfloat16, InvalidPosition, KvTrace


def test_facts_and_samples(arguments, trace):
    assert (len(trace), trace.tokens, trace.query_count, trace.head_dim, trace.value_dim) == (2, 5, 2, 4, 3)
    assert (trace.model, trace.benchmark, trace.suite, trace.layer, trace.head, trace.note) == (
        "tiny", "noise", None, 3, None, None
    )  # fmt: skip
    assert trace.nbytes == 4 * (2 * 5 * 4 + 2 * 5 * 3 + 2 * 2 * 4) + 8 * 4
    assert "layer 3" in repr(trace)
    for samples in (list(trace), list(trace.samples), [trace.sample(0), trace.sample(-1)]):
        assert len(samples) == 2
        for number, sample in enumerate(samples):
            for name in sample._fields:
                np.testing.assert_array_equal(getattr(sample, name), arguments[name][number])


@pytest.mark.parametrize("index", [2, -3])
def test_a_sample_that_is_not_there_is_an_index_error(trace, index):
    with pytest.raises(IndexError, match=f"sample {index} of 2"):
        trace.sample(index)


@pytest.mark.parametrize("name", ["keys", "values", "queries", "query_positions"])
def test_a_trace_cannot_be_changed(arguments, trace, name):
    before = getattr(trace, name).copy()
    arguments[name][:] = 0
    np.testing.assert_array_equal(getattr(trace, name), before)
    with pytest.raises(ValueError, match="read-only"):
        getattr(trace, name)[:] = 0
    with pytest.raises(ValueError, match="WRITEABLE"):
        getattr(trace, name).setflags(write=True)
    with pytest.raises(AttributeError):
        setattr(trace, name, before)


def test_metadata_cannot_be_changed(trace):
    with pytest.raises(AttributeError, match="cannot assign"):
        trace.metadata.layer = 1
    with pytest.raises(TypeError, match="item assignment"):
        trace.metadata.extra["a"] = "b"


def test_validate_finds_memory_changed_behind_our_back(trace):
    trace.validate()
    array = trace._held.stored["values"][1]
    array.setflags(write=True)
    array[1, 2, 0] = np.nan
    with pytest.raises(NotFinite, match=r"values\[1, 2, 0\] is nan"):
        trace.validate()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["keys", "values", "queries"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_value_that_is_not_finite_is_named(arguments, name, bad, dtype):
    array = arguments[name].astype(dtype)
    array[1, 1, 2] = bad
    with pytest.raises(NotFinite, match=rf"{name}\[1, 1, 2\] is {bad}"):
        KvTrace(**arguments | {name: array})


@pytest.mark.parametrize(("bits", "shown"), [(0x7F80, "inf"), (0xFF80, "-inf"), (0x7FC0, "nan"), (0xFF81, "nan")])
def test_a_bfloat16_value_that_is_not_finite_is_named(arguments, bits, shown):
    array = np.zeros((2, 5, 3), np.uint16)
    array[0, 4, 1] = bits
    with pytest.raises(NotFinite, match=rf"values\[0, 4, 1\] is {shown};"):
        KvTrace(**arguments | {"values": Bfloat16(array)})


@pytest.mark.parametrize("position", [-1, 5, -(2**63), 2**63 - 1])
def test_a_position_outside_the_tokens_is_named_not_clamped(arguments, position):
    positions = np.array([[0, 4], [position, 9]])
    with pytest.raises(InvalidPosition, match=rf"query_positions\[1, 0\] is {position}, expected 0\.\.4"):
        KvTrace(**arguments | {"query_positions": positions})


def test_a_position_that_int64_cannot_hold_is_named(arguments):
    positions = np.array([[0, 2**64 - 1], [0, 0]], np.uint64)
    with pytest.raises(InvalidPosition, match=rf"\[0, 1\] is {2**64 - 1}"):
        KvTrace(**arguments | {"query_positions": positions})


@pytest.mark.parametrize("dtype", [np.bool_, np.float32, object])
def test_positions_that_are_no_integers_are_refused(arguments, dtype):
    with pytest.raises(InvalidDtype, match="query_positions must be integers"):
        KvTrace(**arguments | {"query_positions": np.zeros((2, 2), dtype)})


@pytest.mark.parametrize("dtype", [np.int32, np.bool_, np.complex64, np.longdouble, object, "U3"])
@pytest.mark.parametrize("name", ["keys", "values", "queries"])
def test_other_dtypes_are_refused(arguments, name, dtype):
    with pytest.raises(InvalidDtype, match=f"{name} must be float16, bfloat16, float32 or float64"):
        KvTrace(**arguments | {name: np.zeros(arguments[name].shape, dtype)})


def test_bfloat16_values_are_not_taken_for_bits():
    with pytest.raises(InvalidDtype, match="bits must be uint16, got float32"):
        Bfloat16(np.ones(3, np.float32))


def test_what_is_no_array_is_refused(arguments):
    with pytest.raises(InvalidDtype, match="keys cannot be read as an array"):
        KvTrace(**arguments | {"keys": [[1.0], [1.0, 2.0]]})


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("keys", (5, 4), r"keys must have the axes \(samples, tokens or query_count, head_dim\), got shape \(5, 4\)"),
        ("query_positions", (2, 2, 1), r"query_positions must have the axes \(samples, query_count\)"),
        ("keys", (0, 5, 4), "at least one of everything"),
        ("values", (2, 5, 0), "at least one of everything"),
        ("values", (1, 5, 3), r"values have shape \(1, 5, 3\), expected \(2, 5\) samples and tokens"),
        ("values", (2, 6, 3), r"values have shape \(2, 6, 3\), expected \(2, 5\) samples and tokens"),
        ("queries", (1, 2, 4), r"queries have shape \(1, 2, 4\), expected 2 samples of head_dim 4"),
        ("queries", (2, 2, 3), r"queries have shape \(2, 2, 3\), expected 2 samples of head_dim 4"),
        ("query_positions", (2, 1), r"query_positions have shape \(2, 1\), expected \(2, 2\)"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(arguments, name, shape, message):
    with pytest.raises(ShapeMismatch, match=message):
        KvTrace(**arguments | {name: np.zeros(shape, arguments[name].dtype)})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("model", None, "model must be a string, got None"),
        ("benchmark", 3, "benchmark must be a string, got 3"),
        ("suite", b"x", "suite must be a string"),
        ("note", "\ud800", "note is .* no Unicode text"),
        ("layer", None, "layer must be an integer, got None"),
        ("layer", "3", "layer must be an integer, got '3'"),
        ("layer", True, "layer must be an integer, got True"),
        ("layer", -1, r"layer must lie in 0\.\.999999999, got -1"),
        ("head", 1.0, r"head must be an integer, got 1\.0"),
        ("head", 10**9, "head must lie in"),
        ("extra", ["a"], "extra must map strings to strings"),
        ("extra", {"a": 1}, "extra 'a' must be a string"),
        ("extra", {1: "a"}, "a name in extra must be a string"),
        ("extra", {"layer": "4"}, "extra holds 'layer'"),
        ("note", "x" * (1 << 23), "metadata makes a header of .* shorten it"),
    ],
)
def test_metadata_that_a_file_cannot_say_is_refused(arguments, name, value, message):
    with pytest.raises(InvalidSpec, match=message):
        KvTrace(**arguments | {name: value})


def test_numpy_integers_are_integers(arguments):
    trace = KvTrace(**arguments | {"layer": np.int64(2), "head": np.uint8(0)})
    assert (trace.layer, trace.head) == (2, 0)
    assert type(trace.layer) is int


@pytest.mark.parametrize("error", [InvalidPosition])
def test_a_stranger_catches_value_errors(error):
    assert issubclass(error, TurboQuantError)
    assert issubclass(error, ValueError)
