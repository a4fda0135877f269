"""What can go wrong with trace files and is not already named in tq_core: the file system, and query positions."""

from typing import Final

from tq_cache.atomic_file import Refusals
from tq_core import TurboQuantError


class TraceNotFound(TurboQuantError, FileNotFoundError):
    """There is no file at the path, or no folder to write it into."""


class TraceExists(TurboQuantError, FileExistsError):
    """A file is in the way and overwriting was not asked for."""


class TraceAccess(TurboQuantError, OSError):
    """The file system refused: a folder or device in place of a file, no permission, a full disk."""


FILES: Final = Refusals(TraceAccess, TraceExists, TraceNotFound)


class InvalidPosition(TurboQuantError, ValueError):
    """A query position that is negative or not inside the tokens; the message gives its coordinates."""


class MissingExtra(TurboQuantError, ImportError):
    """What was asked for needs a library that is an extra of this package and is not installed."""
