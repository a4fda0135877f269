"""Files appear whole or not at all: written beside their destination, then renamed onto it."""

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from tq_trace.errors import TraceAccess, TraceExists, TraceNotFound


def write_file(path: str | os.PathLike[str], write: Callable[[BinaryIO], object], *, overwrite: bool) -> None:
    """Call write(file) and put the finished file at path; on any failure what was there stays as it was.

    Raises TraceExists if something is at path and overwrite is false (a symbolic link counts, and is itself replaced
    when overwriting), TraceNotFound if the folder is missing, TraceAccess for everything else the system refuses.
    """
    target = Path(path)
    with _typed(target):
        _check_target(target, overwrite)
        temporary = target.with_name(f".{target.name[:100]}.{secrets.token_hex(8)}.tmp")
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


def _check_target(target: Path, overwrite: bool) -> None:
    if not target.name:
        raise TraceAccess(f"{target}: this names a folder; give a file name")
    if not target.parent.is_dir():
        raise TraceNotFound(f"{target}: the folder {target.parent} does not exist; create it first")
    if target.is_dir() and not target.is_symlink():
        raise TraceAccess(f"{target}: this is a folder; give a file name")
    if not overwrite and os.path.lexists(target):
        raise TraceExists(f"{target}: already exists; choose another name, or pass overwrite=True")


def _rename_without_replacing(temporary: Path, target: Path) -> None:
    """Rename unless target has appeared meanwhile; a hard link is the portable call that never replaces."""
    try:
        os.link(temporary, target)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links: the check at the start has to do
        os.replace(temporary, target)


@contextmanager
def _typed(target: Path) -> Iterator[None]:
    try:
        yield
    except (TraceAccess, TraceExists, TraceNotFound):
        raise
    except FileExistsError as error:
        raise TraceExists(f"{target}: already exists; choose another name, or pass overwrite=True") from error
    except OSError as error:
        raise TraceAccess(f"{target}: cannot be written: {error.strerror or error}") from error
    except ValueError as error:  # a null byte in the path
        raise TraceAccess(f"{str(target)!r}: not a path: {error}") from error
