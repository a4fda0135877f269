"""Errors of caches, policies and snapshots, in the tree of tq_core."""

from tq_core import TurboQuantError


class MissingDependency(TurboQuantError, ImportError):
    """A package that an extra of this one brings is not installed."""


class UnsupportedModel(TurboQuantError, ValueError):
    """A model whose state or attention these caches cannot take over."""


class UnsupportedTensor(TurboQuantError, TypeError):
    """A tensor that cannot be read here: on another device, or of a dtype that numpy and torch do not share."""


class InvalidPolicy(TurboQuantError, ValueError):
    """A policy that says nothing readable, or something that no cache can do. `part` is the piece at fault."""

    def __init__(self, message: str, part: str = "") -> None:
        self.message, self.part = message, part
        super().__init__(message)

    def __reduce__(self) -> tuple[type["InvalidPolicy"], tuple[str, str]]:
        return type(self), (self.message, self.part)


class PolicyMismatch(TurboQuantError, ValueError):
    """A policy that this model's layers, heads or dims cannot follow; never bent silently. `part` is what cannot be."""

    def __init__(self, message: str, part: str = "") -> None:
        self.message, self.part = message, part
        super().__init__(message)

    def __reduce__(self) -> tuple[type["PolicyMismatch"], tuple[str, str]]:
        return type(self), (self.message, self.part)


class SnapshotMismatch(TurboQuantError, ValueError):
    """A snapshot of something else than was asked for: `fact` names what, `saved` and `given` are both values."""

    def __init__(self, path: str, fact: str, saved: object, given: object, hint: str = "") -> None:
        self.path, self.fact, self.saved, self.given, self.hint = path, fact, saved, given, hint
        said = f"{path}: saved with {fact} {saved!r:.200}, expected {given!r:.200}"
        super().__init__(said + (f"; {hint}" if hint else ""))

    def __reduce__(self) -> tuple[type["SnapshotMismatch"], tuple[str, str, object, object, str]]:
        return type(self), (self.path, self.fact, self.saved, self.given, self.hint)


class SnapshotNotFound(TurboQuantError, FileNotFoundError):
    """There is no file at the path, or no folder to write it into."""


class SnapshotExists(TurboQuantError, FileExistsError):
    """A file is in the way and overwriting was not asked for."""


class SnapshotAccess(TurboQuantError, OSError):
    """The file system refused: a folder or device in place of a file, no permission, a full disk."""
