"""Files appear whole or not at all: written beside their destination, then renamed onto it."""

import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tq_cache.errors import SnapshotAccess, SnapshotExists, SnapshotNotFound
from tq_core import InvalidDtype

StrPath = str | os.PathLike[str]


def as_path(path: StrPath) -> Path:
    """path as a Path, or InvalidDtype."""
    if not isinstance(path, (str, os.PathLike)) or not isinstance(os.fspath(path), str):
        raise InvalidDtype(f"path must be a string or a Path, got {type(path).__name__}")
    return Path(path)


@contextmanager
def refusals(path: Path, doing: str) -> Iterator[None]:
    """What the operating system refuses within, as an error of this package that begins with the path."""
    try:
        yield
    except (SnapshotAccess, SnapshotExists, SnapshotNotFound):
        raise
    except FileExistsError as error:
        raise SnapshotExists(f"{path}: already exists; choose another name, or pass overwrite=True") from error
    except FileNotFoundError as error:
        raise SnapshotNotFound(f"{path}: no such file or folder") from error
    except OSError as error:
        raise SnapshotAccess(f"{path}: cannot be {doing}: {error.strerror or error}") from error


def check_target(target: Path, overwrite: bool) -> None:
    """Refuse a destination where no file may be put, before any work is done."""
    if "\0" in str(target) or not target.name:
        raise SnapshotAccess(f"{str(target)!r}: not the name of a file")
    with refusals(target, "written"):
        if not target.parent.is_dir():
            raise SnapshotNotFound(f"{target}: the folder {target.parent} does not exist; create it first")
        if target.is_dir():
            raise SnapshotAccess(f"{target}: this is a folder; give the name of a file")
        if os.path.lexists(target):
            if not overwrite:
                raise SnapshotExists(f"{target}: already exists; choose another name, or pass overwrite=True")
            if target.exists() and not target.is_file():
                raise SnapshotAccess(f"{target}: not a regular file; it will not be replaced")


def write_file(target: Path, blocks: Iterable[bytes | memoryview], *, overwrite: bool) -> None:
    """Put a file of those blocks at target, on disk before it has its name; a failure leaves what was there.

    Raises SnapshotExists where something is at target and overwrite is false, SnapshotNotFound where the folder is
    missing, SnapshotAccess for everything else the system refuses. A symbolic link is itself replaced.
    """
    check_target(target, overwrite)
    temporary = target.with_name(f".{target.name[:100]}.{secrets.token_hex(8)}.tmp")
    with refusals(target, "written"):
        try:
            with open(temporary, "xb") as file:
                for block in blocks:
                    file.write(block)
                file.flush()
                os.fsync(file.fileno())
            if overwrite:
                os.replace(temporary, target)
            else:
                _rename_without_replacing(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
    _sync_folder(target.parent)


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
