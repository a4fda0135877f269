"""Files appear whole or not at all, written beside their destination and renamed onto it; only regular ones are read.

What the system refuses becomes an error of the package whose file it is.
"""

import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from tq_cache.errors import SnapshotAccess, SnapshotExists, SnapshotNotFound
from tq_core import InvalidDtype, TurboQuantError

StrPath = str | os.PathLike[str]


class Refusals(NamedTuple):
    """The error types of one kind of file."""

    access: type[TurboQuantError]
    exists: type[TurboQuantError]
    missing: type[TurboQuantError]


SNAPSHOT: Final = Refusals(SnapshotAccess, SnapshotExists, SnapshotNotFound)


def as_path(path: StrPath) -> Path:
    """path as a Path, or InvalidDtype."""
    if not isinstance(path, (str, os.PathLike)) or not isinstance(os.fspath(path), str):
        raise InvalidDtype(f"path must be a string or a Path, got {type(path).__name__}")
    return Path(path)


@contextmanager
def regular_file(path: Path, what: str, refusals: Refusals) -> Iterator[tuple[int, int]]:
    """Descriptor and size of the regular file at path, `what` it should be. Never waits: opening an idle pipe would.

    What the system refuses within is `refusals`' as well.
    """
    if "\0" in str(path):
        raise refusals.access(f"{str(path)!r}: not the name of a file")
    irregular = refusals.access(f"{path}: not a regular file; give the path of {what}")
    with _typed(path, "read", refusals):
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
        if not stat.S_ISREG(os.stat(path).st_mode):  # before opening: a device may act on being opened
            raise irregular
        descriptor = os.open(path, flags)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise irregular
            yield descriptor, status.st_size
        finally:
            os.close(descriptor)


def check_target(target: Path, overwrite: bool, refusals: Refusals = SNAPSHOT) -> None:
    """Refuse a destination where no file may be put, before any work is done."""
    if "\0" in str(target) or not target.name:
        raise refusals.access(f"{str(target)!r}: not the name of a file")
    with _typed(target, "written", refusals):
        if not target.parent.is_dir():
            raise refusals.missing(f"{target}: the folder {target.parent} does not exist; create it first")
        if target.is_dir():
            raise refusals.access(f"{target}: this is a folder; give the name of a file")
        if os.path.lexists(target):
            if not overwrite:
                raise refusals.exists(f"{target}: already exists; choose another name, or pass overwrite=True")
            if target.exists() and not target.is_file():
                raise refusals.access(f"{target}: not a regular file; it will not be replaced")


def write_file(
    target: Path, write: Callable[[BinaryIO], object], *, overwrite: bool, refusals: Refusals = SNAPSHOT
) -> None:
    """Call write(file) and put the file at target, on disk before it has its name; a failure leaves what was there.

    Raises `refusals.exists` where something is at target and overwrite is false, `missing` where the folder is,
    `access` for everything else the system refuses. A symbolic link counts, and is itself replaced.
    """
    check_target(target, overwrite, refusals)
    temporary = target.with_name(f".{target.name[:100]}.{secrets.token_hex(8)}.tmp")
    with _typed(target, "written", refusals):
        try:
            with open(temporary, "xb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            if overwrite:
                os.replace(temporary, target)
            else:
                _rename_without_replacing(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
    _sync_folder(target.parent)


@contextmanager
def _typed(path: Path, doing: str, refusals: Refusals) -> Iterator[None]:
    """What the operating system refuses within, as an error that begins with the path."""
    try:
        yield
    except refusals:
        raise
    except FileExistsError as error:
        raise refusals.exists(f"{path}: already exists; choose another name, or pass overwrite=True") from error
    except FileNotFoundError as error:
        raise refusals.missing(f"{path}: no such file") from error
    except OSError as error:
        raise refusals.access(f"{path}: cannot be {doing}: {error.strerror or error}") from error


def _rename_without_replacing(temporary: Path, target: Path) -> None:
    """Rename unless target has appeared meanwhile; a hard link is the portable call that never replaces."""
    try:
        os.link(temporary, target)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links: the check at the start has to do
        os.replace(temporary, target)


def _sync_folder(folder: Path) -> None:
    """Make the new name itself survive a power cut, where the system can do that for folders."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
