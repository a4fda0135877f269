"""Files from strangers: every outcome is a valid trace or one of our errors that names the file."""

import json
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from tq_core import CorruptData, NotFinite, ShapeMismatch, TurboQuantError
from tq_trace import InvalidPosition, KvTrace, TraceAccess, TraceNotFound, container
from tq_trace.layout import MAX_HEADER

STRINGS = {"model": "m", "benchmark": "b", "layer": "0"}


def tensors(**changes):
    plain = {
        "keys": np.ones((1, 3, 2), np.float32),
        "values": np.ones((1, 3, 2), np.float32),
        "queries": np.ones((1, 1, 2), np.float32),
        "query_positions": np.zeros((1, 1), np.int64),
    }
    return {name: array for name, array in (plain | changes).items() if array is not None}


def official(strings=STRINGS, **changes):
    return safetensors.numpy.save(tensors(**changes), strings)


def parts(data):
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def joined(header, body):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def edited(edit):
    """A valid file whose header was changed in place by edit(header)."""
    header, body = parts(official())
    edit(header)
    return joined(header, body)


def refuse(tmp_path, data, error, message):
    path = tmp_path / "stranger.safetensors"
    path.write_bytes(data)
    with pytest.raises(error, match=message) as caught:
        KvTrace.load(path, lazy=False)
    assert isinstance(caught.value, TurboQuantError)
    assert str(caught.value).startswith(f"{path}: ")


HEADERS = {
    "empty": (b"", "0 bytes are too few"),
    "seven bytes": (bytes(7), "7 bytes are too few"),
    "no header": (bytes(8), "header is not JSON"),
    "absurd length": (b"\xff" * 8 + b"{}", "header of 18446744073709551615 bytes announced, 2 at hand"),
    "text": (b"hello world, this is text", "announced, 17 at hand"),
    "not UTF-8": (joined(b"\xff\xfe{}", b""), "header is not JSON in UTF-8"),
    "not JSON": (joined(b"{'a': 1}", b""), "header is not JSON"),
    "nested": (joined(b"[" * 100_000, b""), "header is not JSON"),
    "huge number": (joined(b'{"keys": ' + b"9" * 5000 + b"}", b""), "header is not JSON"),
    "list": (joined([], b""), "header is a JSON list"),
    "tensor twice": (joined(b'{"keys": 1, "keys": 2}', b""), "names something twice"),
    "metadata twice": (joined(b'{"__metadata__": {"a": "1", "a": "2"}}', b""), "names something twice"),
    "metadata is a list": (edited(lambda h: h.update(__metadata__=["model"])), "metadata is a JSON list"),
    "metadata is null": (edited(lambda h: h.update(__metadata__=None)), "metadata is a JSON NoneType"),
    "number in metadata": (
        edited(lambda h: h["__metadata__"].update(layer=3)),
        "metadata 'layer' is 3, expected a string",
    ),
    "lone surrogate": (
        joined(json.dumps(parts(official())[0]).encode().replace(b'"m"', b'"\\ud800"'), parts(official())[1]),
        "not a valid safetensors file",
    ),
    "tensor is a number": (edited(lambda h: h.update(keys=3)), "keys needs exactly dtype, shape and data_offsets"),
    "tensor without offsets": (edited(lambda h: h["keys"].pop("data_offsets")), "keys needs exactly dtype"),
    "dtype is a list": (
        edited(lambda h: h["keys"].update(dtype=["F32"])),
        r"keys has dtype \['F32'\], expected one of F16",
    ),
    "shape is text": (edited(lambda h: h["keys"].update(shape="1,3,2")), "keys has shape '1,3,2', expected a list"),
    "shape of floats": (edited(lambda h: h["keys"].update(shape=[1.0, 3, 2])), "expected a list of positive"),
    "shape of booleans": (edited(lambda h: h["keys"].update(shape=[True, 3, 2])), "expected a list of positive"),
    "negative shape": (edited(lambda h: h["keys"].update(shape=[-1, -3, 2])), "expected a list of positive"),
    "zero in a huge shape": (edited(lambda h: h["keys"].update(shape=[0, 2**63, 5])), "expected a list of positive"),
    "overflowing shape": (
        edited(lambda h: h["keys"].update(shape=[2**32, 2**32, 2**32])),
        "bytes announced, 64 at hand",
    ),
    "another rank": (edited(lambda h: h["keys"].update(shape=[3, 2])), "keys has shape .*, expected 3 axes"),
    "overlap": (edited(lambda h: h["keys"].update(data_offsets=[0, 24])), "not a valid safetensors file"),
    "backwards": (edited(lambda h: h["keys"].update(data_offsets=[32, 8])), "not a valid safetensors file"),
    "outside": (edited(lambda h: h["keys"].update(data_offsets=[800, 824])), "not a valid safetensors file"),
    "offsets are text": (edited(lambda h: h["keys"].update(data_offsets="x")), "not a valid safetensors file"),
    "shape does not fit offsets": (
        edited(lambda h: (h["keys"].update(shape=[1, 1, 4]), h["queries"].update(shape=[1, 2, 2]))),
        "not a valid safetensors file",
    ),
    "truncated": (official()[:-1], "64 bytes announced, 63 at hand: truncated"),
    "something appended": (official() + b"x", "64 bytes announced, 65 at hand"),
    "tensor missing": (official(queries=None), r"missing: \['queries'\], not known: \[\]"),
    "tensor too many": (official(bias=np.ones(3)), r"missing: \[\], not known: \['bias'\]"),
    "integer keys": (official(keys=np.ones((1, 3, 2), np.int32)), "keys has dtype 'I32', expected one of F16, BF16"),
    "boolean positions": (official(query_positions=np.zeros((1, 1), bool)), "query_positions has dtype 'BOOL'"),
    "float positions": (official(query_positions=np.zeros((1, 1))), "query_positions has dtype 'F64'"),
    "no metadata": (official(None), "metadata lacks model, benchmark, layer"),
    "no layer": (official({"model": "m", "benchmark": "b"}), "metadata lacks layer"),
    "layer in words": (official(STRINGS | {"layer": "three"}), "metadata layer is 'three', expected an integer"),
    "layer below zero": (official(STRINGS | {"layer": "-1"}), "metadata layer is '-1'"),
    "layer with a zero before": (official(STRINGS | {"layer": "03"}), "metadata layer is '03'"),
    "layer of other digits": (official(STRINGS | {"layer": "\u0663"}), "metadata layer is"),
    "endless layer": (official(STRINGS | {"layer": "9" * 9000}), "metadata layer is"),
    "head in words": (official(STRINGS | {"head": ""}), "metadata head is ''"),
}


@pytest.mark.parametrize("case", HEADERS)
def test_what_is_no_trace_file_is_corrupt_data(tmp_path, case):
    data, message = HEADERS[case]
    refuse(tmp_path, data, CorruptData, message)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"keys": np.full((1, 3, 2), np.nan, np.float16)}, NotFinite, r"keys\[0, 0, 0\] is nan"),
        ({"values": np.ones((1, 2, 2))}, ShapeMismatch, r"values have shape \(1, 2, 2\)"),
        ({"query_positions": np.array([[-1]])}, InvalidPosition, r"query_positions\[0, 0\] is -1"),
        (
            {"query_positions": np.array([[3]], np.uint8)},
            InvalidPosition,
            r"query_positions\[0, 0\] is 3, expected 0\.\.2",
        ),
    ],
)
def test_bad_values_in_a_file_are_named_with_the_file(tmp_path, changes, error, message):
    refuse(tmp_path, official(**changes), error, message)


def test_a_header_beyond_the_limit_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "sparse"
    with open(path, "wb") as file:
        file.write((MAX_HEADER + 1).to_bytes(8, "little"))
        file.truncate(1 << 30)
    assert_refused_in_little_memory(path, f"header of {MAX_HEADER + 1} bytes; at most")


def test_a_body_that_the_header_does_not_announce_is_never_read(tmp_path):
    path = tmp_path / "sparse"
    with open(path, "wb") as file:
        file.write(official())
        file.truncate(1 << 34)
    assert_refused_in_little_memory(path, "64 bytes announced")


def assert_refused_in_little_memory(path, message):
    tracemalloc.start()
    try:
        with pytest.raises(CorruptData, match=message):
            KvTrace.load(path)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_a_file_that_does_not_fit_in_memory_is_refused(trace_file, monkeypatch):
    def exhausted(*arguments):
        raise MemoryError

    monkeypatch.setattr(container.np, "memmap", exhausted)
    with pytest.raises(TraceAccess, match=r"trace\.safetensors: \d+ bytes do not fit in memory"):
        KvTrace.load(trace_file)


def test_the_safetensors_package_has_a_say(trace_file, monkeypatch):
    def refused(*arguments):
        raise safetensors.SafetensorError("no")

    monkeypatch.setattr(container, "safe_open", refused)
    with pytest.raises(CorruptData, match="not a valid safetensors file: no"):
        KvTrace.load(trace_file)


def test_a_missing_file_is_a_file_not_found_error(tmp_path):
    with pytest.raises(TraceNotFound, match="nowhere: no such file") as caught:
        KvTrace.load(tmp_path / "nowhere")
    assert isinstance(caught.value, FileNotFoundError)


def test_a_folder_is_no_trace(tmp_path):
    with pytest.raises(TraceAccess, match="not a regular file"):
        KvTrace.load(tmp_path)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="this system does not list open files")
def test_refused_files_are_closed(tmp_path):
    (tmp_path / "empty").touch()
    for path in (tmp_path, tmp_path / "empty"):
        with pytest.raises(TurboQuantError, match=r"not a regular file|too few"):
            KvTrace.load(path)
    # those of other files come and go with the collector
    held = [os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    assert not [name for name in held if name.startswith(str(tmp_path))]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_refused_without_waiting_for_a_writer(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(TraceAccess, match="not a regular file"):
        KvTrace.load(tmp_path / "pipe")


def test_an_endless_device_behind_a_link_is_refused(tmp_path):
    (tmp_path / "link").symlink_to("/dev/zero")
    with pytest.raises(TraceAccess, match="not a regular file"):
        KvTrace.load(tmp_path / "link")


def test_links_to_nowhere_and_in_circles_are_refused(tmp_path):
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(TraceNotFound, match="no such file"):
        KvTrace.load(tmp_path / "dangling")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    with pytest.raises(TraceAccess, match="cannot be read"):
        KvTrace.load(tmp_path / "circle")


def test_a_link_to_a_trace_is_read(tmp_path, trace_file, trace):
    """Model hubs keep every file behind a link."""
    (tmp_path / "link").symlink_to(trace_file)
    assert KvTrace.load(tmp_path / "link") == trace


def test_a_path_with_a_null_byte_is_refused():
    with pytest.raises(TraceAccess, match="not the name of a file"):
        KvTrace.load("a\0b")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may read everything")
def test_a_file_without_permission_is_refused(trace_file):
    trace_file.chmod(0)
    with pytest.raises(TraceAccess, match="Permission denied"):
        KvTrace.load(trace_file)


VALID = official()


def outcome(path, data):
    """Load data: only our errors may escape, and what is accepted the official package reads the same."""
    path.write_bytes(data)
    try:
        trace = KvTrace.load(path)
    except TurboQuantError:
        return
    trace.validate()
    found = safetensors.numpy.load(data)
    for name, array in found.items():
        assert getattr(trace, name).tobytes() == array.astype(getattr(trace, name).dtype).tobytes()


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz") / "file"


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, len(VALID) - 1), st.integers(1, 255)), min_size=1, max_size=4),
    st.none() | st.integers(0, len(VALID)),
)
def test_flipped_and_truncated_bytes_never_escape(scratch, flips, cut):
    data = bytearray(VALID)
    for where, mask in flips:
        data[where] ^= mask
    outcome(scratch, bytes(data[:cut]))


def test_every_single_truncation_is_refused(scratch):
    for cut in range(len(VALID)):
        scratch.write_bytes(VALID[:cut])
        with pytest.raises(CorruptData):
            KvTrace.load(scratch)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=4)
    | st.sampled_from(["F16", "BF16", "F32", "F64", "I64", "BOOL", "C64", "F4", "0", "99"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_headers_of_strange_json_never_escape(scratch, data):
    header, body = parts(VALID)
    for _ in range(data.draw(st.integers(1, 2))):
        place = data.draw(st.sampled_from(sorted(header)))
        if isinstance(header[place], dict) and header[place] and data.draw(st.booleans()):
            field = data.draw(st.sampled_from(sorted(header[place])))
            header[place][field] = data.draw(JSON | st.lists(st.integers(0, 90), min_size=2, max_size=3))
        else:
            header[place] = data.draw(JSON)
    outcome(scratch, joined(header, body))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_noise_never_escapes(scratch, noise):
    outcome(scratch, noise)
    outcome(scratch, joined(noise, b""))
