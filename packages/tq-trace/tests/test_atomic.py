"""A save is whole or it is nothing: what stood there before still stands after any failure."""

import os
import stat

import pytest

from tq_cache import atomic_file
from tq_trace import KvTrace, TraceAccess, TraceExists, TraceNotFound, layout


@pytest.fixture
def other(arguments):
    return KvTrace(**arguments | {"note": "the other one"})


def test_a_save_does_not_replace_what_is_there(trace_file, trace, other):
    with pytest.raises(TraceExists, match=r"already exists; choose another name, or pass overwrite=True") as caught:
        other.save(trace_file)
    assert isinstance(caught.value, FileExistsError)
    assert KvTrace.load(trace_file) == trace


def test_overwrite_replaces(trace_file, other):
    other.save(trace_file, overwrite=True)
    assert KvTrace.load(trace_file) == other
    assert os.listdir(trace_file.parent) == [trace_file.name]


def test_a_failing_write_leaves_the_old_file_and_nothing_else(trace_file, trace, other, monkeypatch):
    def full(file, tensors, metadata):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(layout, "write", full)
    with pytest.raises(TraceAccess, match="cannot be written: No space left on device"):
        other.save(trace_file, overwrite=True)
    with pytest.raises(TraceAccess, match="No space left"):
        other.save(trace_file.with_name("new"))
    assert os.listdir(trace_file.parent) == [trace_file.name]
    assert KvTrace.load(trace_file) == trace


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(trace_file, trace, other, monkeypatch):
    def interrupted(file, tensors, metadata):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(layout, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        other.save(trace_file, overwrite=True)
    assert os.listdir(trace_file.parent) == [trace_file.name]
    assert KvTrace.load(trace_file) == trace


def test_a_failing_rename_leaves_the_old_file_and_nothing_else(trace_file, trace, other, monkeypatch):
    def refused(source, target):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "replace", refused)
    with pytest.raises(TraceAccess, match="Permission denied"):
        other.save(trace_file, overwrite=True)
    assert os.listdir(trace_file.parent) == [trace_file.name]
    assert KvTrace.load(trace_file) == trace


def test_a_file_that_appears_during_the_write_is_not_replaced(tmp_path, trace, monkeypatch):
    path = tmp_path / "t"

    def slow(file, tensors, metadata):
        path.write_text("someone was faster")

    monkeypatch.setattr(layout, "write", slow)
    with pytest.raises(TraceExists, match="already exists"):
        trace.save(path)
    assert path.read_text() == "someone was faster"
    assert os.listdir(tmp_path) == ["t"]


def test_a_file_system_without_hard_links_is_written(tmp_path, trace, monkeypatch):
    def unsupported(source, target):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", unsupported)
    trace.save(tmp_path / "t")
    assert KvTrace.load(tmp_path / "t") == trace
    assert os.listdir(tmp_path) == ["t"]


def test_a_missing_folder_is_named(tmp_path, trace):
    with pytest.raises(TraceNotFound, match=r"the folder .*nowhere does not exist"):
        trace.save(tmp_path / "nowhere" / "t")


def test_a_folder_is_not_replaced(tmp_path, trace):
    with pytest.raises(TraceAccess, match="this is a folder"):
        trace.save(tmp_path, overwrite=True)


@pytest.mark.parametrize("path", ["", "/", "a\0b"])
def test_what_names_no_file_is_refused(path, trace):
    with pytest.raises(TraceAccess, match="not the name of a file"):
        trace.save(path, overwrite=True)


def test_a_dangling_link_counts_as_there_and_is_itself_replaced(tmp_path, trace):
    link, target = tmp_path / "link", tmp_path / "target"
    link.symlink_to(target)
    with pytest.raises(TraceExists, match="already exists"):
        trace.save(link)
    trace.save(link, overwrite=True)
    assert not link.is_symlink()
    assert not target.exists()
    assert KvTrace.load(link) == trace


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_what_is_no_regular_file_is_not_replaced(tmp_path, trace):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(TraceAccess, match="not a regular file; it will not be replaced"):
        trace.save(tmp_path / "pipe", overwrite=True)
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no permission bits")
def test_a_new_file_has_the_permissions_of_any_other_new_file(tmp_path, trace):
    trace.save(tmp_path / "ours")
    (tmp_path / "plain").write_text("")
    mode = stat.S_IMODE((tmp_path / "plain").stat().st_mode)
    assert stat.S_IMODE((tmp_path / "ours").stat().st_mode) == mode


def test_a_long_name_has_room_for_its_temporary(tmp_path):
    name = "x" * 255
    atomic_file.write_file(tmp_path / name, lambda file: file.write(b"1"), overwrite=False)
    assert (tmp_path / name).read_bytes() == b"1"
