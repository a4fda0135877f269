"""A snapshot appears whole or not at all, and replaces nothing unasked."""

import errno
import os

import pytest

from tq_cache import (
    QuantizedKVCache,
    SnapshotAccess,
    SnapshotExists,
    SnapshotNotFound,
    atomic_file,
    safetensors_file,
)
from tq_core import InvalidSpec, TurboQuantError


@pytest.fixture
def cache(filled):
    return filled("head")


def test_an_existing_file_is_replaced_only_when_asked(cache, tmp_path):
    path = tmp_path / "cache"
    path.write_text("precious")
    with pytest.raises(SnapshotExists, match="already exists; choose another name, or pass overwrite=True") as caught:
        cache.save(path)
    assert isinstance(caught.value, FileExistsError)
    assert isinstance(caught.value, TurboQuantError)
    assert path.read_text() == "precious"
    cache.save(path, overwrite=True)
    assert len(QuantizedKVCache.load(path)) == 7
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_is_replaced_and_not_written_through(cache, tmp_path):
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "link").symlink_to(tmp_path / "precious")
    with pytest.raises(SnapshotExists):
        cache.save(tmp_path / "link")
    cache.save(tmp_path / "link", overwrite=True)
    assert (tmp_path / "precious").read_text() == "precious"
    assert not (tmp_path / "link").is_symlink()


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda folder: folder, SnapshotAccess, "this is a folder"),
        (lambda folder: folder / "no" / "cache", SnapshotNotFound, "does not exist; create it first"),
        (lambda folder: "", SnapshotAccess, "not the name of a file"),
        (lambda folder: str(folder / "a\0b"), SnapshotAccess, "not the name of a file"),
        (lambda folder: folder / ("x" * 300), SnapshotAccess, "cannot be written"),
        (lambda folder: "/dev/null", SnapshotAccess, "not a regular file; it will not be replaced"),
    ],
)
def test_where_no_file_can_be_put(cache, tmp_path, make, error, says):
    with pytest.raises(error, match=says):
        cache.save(make(tmp_path), overwrite=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(cache, tmp_path, monkeypatch, call, failure):
    path = tmp_path / "cache"
    cache.save(path)
    before = path.read_bytes()
    cache.crop(3)

    def fail(*arguments):
        raise failure

    monkeypatch.setattr(atomic_file.os, call, fail)
    expected = SnapshotAccess if isinstance(failure, OSError) else KeyboardInterrupt
    with pytest.raises(expected, match="No space left" if isinstance(failure, OSError) else None):
        cache.save(path, overwrite=True)
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_appears_meanwhile_is_not_replaced(cache, tmp_path, monkeypatch):
    path = tmp_path / "cache"
    real = os.fsync

    def sync(descriptor):
        path.write_text("precious")
        real(descriptor)

    monkeypatch.setattr(atomic_file.os, "fsync", sync)
    with pytest.raises(SnapshotExists, match="already exists"):
        cache.save(path)
    assert path.read_text() == "precious"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_on_disk_before_it_has_its_name(cache, tmp_path, monkeypatch):
    calls = []
    path = tmp_path / "cache"
    real = {"fsync": os.fsync, "replace": os.replace}
    for name, call in real.items():
        monkeypatch.setattr(
            atomic_file.os, name, lambda *a, name=name, call=call: (calls.append((name, path.exists())), call(*a))[1]
        )
    cache.save(path, overwrite=True)
    assert calls == [("fsync", False), ("replace", False), ("fsync", True)]  # the last is the folder's


def test_a_header_beyond_what_is_read_is_not_written(cache, tmp_path, monkeypatch):
    monkeypatch.setattr(safetensors_file, "MAX_HEADER", 2000)
    with pytest.raises(InvalidSpec, match=r"9 tensors need a header of \d+ bytes, at most 2000 .*split"):
        cache.save(tmp_path / "cache")
    assert list(tmp_path.iterdir()) == []
