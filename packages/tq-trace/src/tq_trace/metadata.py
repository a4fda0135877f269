"""What a trace says about itself, checked: as values for Python, as strings for the file."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Self

from tq_core import CorruptData, InvalidSpec

MAX_INDEX: Final = 10**9 - 1
REQUIRED: Final = ("model", "benchmark", "layer")
_TEXTS: Final = ("model", "benchmark", "suite", "note")
_KNOWN: Final = ("model", "benchmark", "suite", "layer", "head", "note")
_INDEX: Final = re.compile("0|[1-9][0-9]{0,8}")


@dataclass(frozen=True)
class Metadata:
    """Where a trace comes from. `extra` holds strings that others wrote into the file; they are kept, never read."""

    model: str
    benchmark: str
    layer: int
    suite: str | None = None
    head: int | None = None
    note: str | None = None
    extra: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in _TEXTS:
            value = getattr(self, name)
            if value is not None or name in REQUIRED:
                _require_text(value, name)
        for name in ("layer", "head"):
            value = getattr(self, name)
            if value is not None or name in REQUIRED:
                object.__setattr__(self, name, _index(value, name))
        object.__setattr__(self, "extra", MappingProxyType(_checked_extra(self.extra)))

    def __reduce__(self) -> tuple[Any, ...]:
        known = tuple(getattr(self, name) for name in ("model", "benchmark", "layer", "suite", "head", "note"))
        return type(self), (*known, dict(self.extra))

    @classmethod
    def from_strings(cls, strings: Mapping[str, str]) -> Self:
        """Read the strings of a file. Raises CorruptData."""
        missing = [name for name in REQUIRED if name not in strings]
        if missing:
            raise CorruptData(f"metadata lacks {', '.join(missing)}; a trace says {', '.join(REQUIRED)}")
        known: dict[str, Any] = {name: strings[name] for name in _KNOWN if name in strings}
        for name in ("layer", "head"):
            if name in known:
                if not _INDEX.fullmatch(known[name]):
                    raise CorruptData(
                        f"metadata {name} is {known[name]!r:.40}, expected an integer from 0 to {MAX_INDEX}"
                    )
                known[name] = int(known[name])
        return cls(**known, extra={name: text for name, text in strings.items() if name not in _KNOWN})

    def to_strings(self) -> dict[str, str]:
        """The strings of a file: what is None is left out."""
        values = {name: getattr(self, name) for name in _KNOWN}
        return {name: str(value) for name, value in values.items() if value is not None} | dict(self.extra)


def _require_text(value: object, name: str) -> None:
    if not isinstance(value, str):
        raise InvalidSpec(f"{name} must be a string, got {value!r:.40}")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise InvalidSpec(f"{name} is {value!r:.40}, which is no Unicode text: UTF-8 cannot hold a lone surrogate")


def _index(value: Any, name: str) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise InvalidSpec(f"{name} must be an integer, got {value!r:.40}")
    index: int = value.__index__()
    if not 0 <= index <= MAX_INDEX:
        raise InvalidSpec(f"{name} must lie in 0..{MAX_INDEX}, got {index}")
    return index


def _checked_extra(extra: object) -> dict[str, str]:
    if not isinstance(extra, Mapping):
        raise InvalidSpec(f"extra must map strings to strings, got {extra!r:.40}")
    for name, text in extra.items():
        _require_text(name, "a name in extra")
        _require_text(text, f"extra {name!r:.40}")
        if name in _KNOWN:
            raise InvalidSpec(f"extra holds {name!r}, which has an argument of its own")
    return dict(extra)
