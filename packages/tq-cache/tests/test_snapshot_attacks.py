"""Files from strangers: whatever is changed, cut, added or resealed is refused, and nothing large is allocated."""

import os
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tq_cache import DecoderCache, MultiHeadKVCache, QuantizedKVCache, SnapshotAccess, SnapshotNotFound
from tq_core import CorruptData, FormatVersion, TurboQuantError

DIM = 12
POLICY = "k=mse3,v=int5,sinks=1,window=2"


LOADERS = {"head": QuantizedKVCache, "layer": MultiHeadKVCache, "decoder": DecoderCache, "heads": MultiHeadKVCache}


def _load(path, kind="head"):
    return LOADERS[kind].load(path, lazy=False)


@pytest.mark.parametrize("kind", LOADERS)
def test_resealing_a_good_file_changes_nothing(originals, tmp_path, kind, apart, sealed):
    (tmp_path / "file").write_bytes(sealed(*apart(originals[kind])))
    assert (tmp_path / "file").read_bytes() == originals[kind]
    assert len(_load(tmp_path / "file", kind)) == 7


def test_a_change_of_any_byte_of_the_header_is_found(originals, tmp_path):
    data = originals["head"]
    path = tmp_path / "file"
    path.write_bytes(data)
    generator = np.random.default_rng(1)
    end = 8 + int.from_bytes(data[:8], "little")
    with open(path, "r+b", buffering=0) as file:
        for at in range(end):
            for flip in (1 << int(generator.integers(8)), int(generator.integers(1, 256))):
                os.pwrite(file.fileno(), bytes([data[at] ^ flip]), at)
                with pytest.raises((CorruptData, FormatVersion), match=str(path)):
                    QuantizedKVCache.load(path)
            os.pwrite(file.fileno(), data[at : at + 1], at)
    assert path.read_bytes() == data


def test_a_change_of_any_byte_of_a_tensor_is_found(originals, tmp_path):
    data = originals["head"]
    path = tmp_path / "file"
    path.write_bytes(data)
    generator = np.random.default_rng(2)
    start = 8 + int.from_bytes(data[:8], "little")
    places = generator.permutation(np.arange(start, len(data)))
    places = np.concatenate([places, generator.choice(places, max(0, 1000 - len(places)))])[:1000]
    with open(path, "r+b", buffering=0) as file:
        for at in map(int, places):
            os.pwrite(file.fileno(), bytes([data[at] ^ (1 << int(generator.integers(8)))]), at)
            with pytest.raises(CorruptData, match=r"checksum of (layers\.0\.rows\.0\.[kv]\.\w+|tokens\.0) does not"):
                _load(path)
            os.pwrite(file.fileno(), data[at : at + 1], at)
    assert path.read_bytes() == data
    assert len(places) == 1000


def test_a_file_cut_anywhere_is_refused(originals, tmp_path):
    data = originals["decoder"]
    path = tmp_path / "file"
    lengths = sorted({*range(40), *range(40, len(data), 13), *range(len(data) - 20, len(data))}, reverse=True)
    path.write_bytes(data)
    for length in lengths:
        os.truncate(path, length)
        with pytest.raises(CorruptData, match=r"truncated|too few"):
            DecoderCache.load(path)


@pytest.mark.parametrize("extra", [b"\0", b"x" * 64])
def test_appended_bytes_are_refused(originals, tmp_path, extra):
    for data, says in (
        (originals["head"] + extra, "something appended"),
        (extra + originals["head"], r"truncated|not JSON|at most"),
        (originals["head"] + originals["head"], "something appended"),
    ):
        (tmp_path / "file").write_bytes(data)
        with pytest.raises(CorruptData, match=says):
            QuantizedKVCache.load(tmp_path / "file")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"[]", "a JSON list, expected an object"),
        (b"{}", "format is None, expected 'tq-cache'"),
        (b'{"__metadata__":[]}', "format is None"),
        (b'{"__metadata__":{"format":"pt"}}', "format is 'pt'"),
        (b"\xff\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"__metadata__":{"format":"tq-cache","format_version":"1"},"a":1' + b"1" * 5000 + b"}", "not JSON"),
        (b'{"__metadata__":{"format":"tq-cache","format_version":"1"}} \n', "not in canonical form"),
        (b'{"__metadata__":{"format":"tq-cache","format_version":"1"}}', "checksum of the header|canonical"),
        (b'{"__metadata__":{"format":"tq-cache","format":"tq-cache","format_version":"1"}}', "not in canonical form"),
    ],
)
def test_headers_of_another_form(tmp_path, text, says):
    (tmp_path / "file").write_bytes(len(text).to_bytes(8, "little") + text)
    with pytest.raises(CorruptData, match=says):
        QuantizedKVCache.load(tmp_path / "file")


def test_a_key_given_twice_under_a_right_checksum_is_refused(originals, tmp_path):
    text = originals["head"][8:].replace(b'"seed":"0"', b'"seed":"0","seed":"0"', 1)
    (tmp_path / "file").write_bytes((int.from_bytes(originals["head"][:8], "little") + 11).to_bytes(8, "little") + text)
    with pytest.raises(CorruptData, match="not in canonical form"):
        QuantizedKVCache.load(tmp_path / "file")


@pytest.mark.parametrize("version", ["0", "2", "1.1", "10", "01", ""])
def test_other_format_versions_are_named_before_their_layout_is_judged(originals, tmp_path, version, apart, sealed):
    header, body = apart(originals["head"])
    header["__metadata__"].update(format_version=version, unheard="of")
    (tmp_path / "file").write_bytes(sealed(header, body))
    with pytest.raises(FormatVersion, match=f"format version '{version}'; this release reads '1': upgrade tq-cache"):
        QuantizedKVCache.load(tmp_path / "file")


@pytest.mark.parametrize("length", [2**24 + 1, 2**31, 2**63, 2**64 - 1])
def test_an_absurd_header_length_allocates_nothing(originals, tmp_path, length):
    path = tmp_path / "file"
    with open(path, "wb") as file:
        file.write(length.to_bytes(8, "little") + originals["head"][8:])
        file.truncate(2**31 + 100)  # sparse
    tracemalloc.start()
    try:
        with pytest.raises(CorruptData, match=r"header of \d+ bytes"):
            QuantizedKVCache.load(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 18
    finally:
        tracemalloc.stop()


def test_a_file_of_the_safetensors_package_is_not_ours(originals, tmp_path, apart):
    official = pytest.importorskip("safetensors.numpy", reason="the official package is not installed")
    path = tmp_path / "file"
    official.save_file({"a": np.zeros(4, np.float32)}, path)
    with pytest.raises(CorruptData, match="not a file of this package"):
        QuantizedKVCache.load(path)
    path.write_bytes(originals["head"])
    tensors, facts = official.load_file(path), apart(originals["head"])[0]["__metadata__"]
    official.save_file(tensors, path, metadata=facts)
    with pytest.raises(CorruptData, match="not in canonical form"):
        QuantizedKVCache.load(path)


def test_what_is_no_regular_file_is_refused_at_once(tmp_path):
    (tmp_path / "device").symlink_to("/dev/zero")
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe")
    begin = time.monotonic()
    for name in ("device", "pipe", "."):
        with pytest.raises(SnapshotAccess, match="not a regular file"):
            QuantizedKVCache.load(tmp_path / name)
    for name in ("broken", "missing", "no/folder"):
        with pytest.raises(SnapshotNotFound, match="no such file"):
            QuantizedKVCache.load(tmp_path / name)
    with pytest.raises(SnapshotAccess, match="not the name of a file"):
        QuantizedKVCache.load("a\0b")
    assert time.monotonic() - begin < 5


@pytest.mark.parametrize("size", [0, 1, 8, 9])
def test_files_too_short_for_anything(tmp_path, size):
    (tmp_path / "file").write_bytes(b"\0" * size)
    with pytest.raises(CorruptData, match=f"{size} bytes are too few"):
        QuantizedKVCache.load(tmp_path / "file")


def test_a_link_to_a_snapshot_is_followed(originals, tmp_path):
    (tmp_path / "file").write_bytes(originals["head"])
    (tmp_path / "link").symlink_to(tmp_path / "file")
    assert len(QuantizedKVCache.load(tmp_path / "link")) == 7


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=5),
    st.builds(list),
    st.builds(dict),
)
SMALL = st.sampled_from(["", "0", "1", "2", "-1", "null", "[]", "[[0]]", "{}", "head", "layer", "decoder", "k=mse4"])


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz") / "file"


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_resealed_header_loads_or_is_a_typed_error(originals, scratch, data, apart, sealed):
    kind = data.draw(st.sampled_from(sorted(LOADERS)))
    header, body = apart(originals[kind])
    for _ in range(data.draw(st.integers(1, 3))):
        name = data.draw(st.sampled_from(sorted(header)))
        if name == "__metadata__" or not isinstance(header[name], dict):
            fact = data.draw(st.sampled_from(sorted(header["__metadata__"])))
            header["__metadata__"][fact] = data.draw(st.one_of(SMALL, JUNK))
            continue
        key = data.draw(st.sampled_from(["dtype", "shape", "data_offsets", "all"]))
        if key == "all":
            header[name] = data.draw(JUNK)
        elif key == "dtype":
            header[name][key] = data.draw(st.one_of(st.sampled_from(["U8", "F16", "F32", "F64", "I64"]), JUNK))
        else:
            numbers = st.one_of(st.integers(0, 8), st.integers(0, 200), JUNK)
            header[name][key] = data.draw(st.one_of(st.lists(numbers, max_size=5), JUNK))
    scratch.write_bytes(sealed(header, body, digests=False))
    try:
        cache = _load(scratch, kind)
    except TurboQuantError as error:
        message = str(error)
    else:
        message = str(scratch)
        queries = np.ones((2, 4, 1, DIM), np.float32)
        if kind == "decoder":
            found = cache.attend(queries[: cache.batch], 0)
        else:
            found = cache.attend(queries[0, 0] if kind == "head" else queries[0])
        assert np.isfinite(found).all()
    assert str(scratch) in message
