"""Errors of caches and policies, in the tree of tq_core."""

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
    """A policy that this model's layers or dims cannot follow; it is never bent silently."""
