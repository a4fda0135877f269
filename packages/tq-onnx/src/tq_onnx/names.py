"""Names of a decoder's tensors: those of common exporters, and those that a genai_config.json gives."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tq_core import CorruptData

_PAST: Final = re.compile(r"past(?:_key_values)?\.(\d{1,6})\.(key|value)")
_PATTERN: Final = re.compile(r"[^%]{0,120}%d[^%]{0,120}")


@dataclass(frozen=True)
class Names:
    """How to find tensors by what they are; without arguments, as optimum and the hub name them.

    `patterns` maps past and present patterns, each with one `%d` for the layer, to ("past" or "present", part);
    `own` maps a usual name such as "input_ids" to what this graph calls it, where that differs.
    """

    patterns: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    own: Mapping[str, str] = field(default_factory=dict)

    def usual(self, name: str) -> str:
        """The usual name of an input or output."""
        return next((usual for usual, own in self.own.items() if own == name), name)

    def is_cache(self, name: str) -> bool:
        """Whether an input carries anything from one step to the next."""
        return name.startswith("past") or self.place_of(name) is not None

    def place_of(self, name: str) -> tuple[int, str] | None:
        """Layer and part ("key" or "value") of a past."""
        for pattern, (role, part) in self.patterns.items():
            if role == "past" and part in ("key", "value"):
                before, after = map(re.escape, pattern.split("%d"))
                match = re.fullmatch(f"{before}(\\d{{1,6}}){after}", name)
                if match:
                    return int(match[1]), part
        match = _PAST.fullmatch(name)
        return (int(match[1]), match[2]) if match else None

    def presents_of(self, layer: int, part: str) -> list[str]:
        """Names under which the output for a past may be found, most likely first."""
        given = [name.replace("%d", str(layer)) for name, role in self.patterns.items() if role == ("present", part)]
        return [*given, f"present.{layer}.{part}", f"present_key_values.{layer}.{part}"]

    def presents_of_state(self, past: str) -> list[str]:
        """Names under which the output for a state of fixed size may be found."""
        short = re.sub(r"^past_key_values(?=[._])", "present", past)
        return list(dict.fromkeys([re.sub(r"^past", "present", short), re.sub(r"^past", "present", past)]))


def names_of_genai(decoder: Mapping[str, Any]) -> Names:
    """The names that the decoder section of a genai_config.json gives, or CorruptData."""
    patterns: dict[str, tuple[str, str]] = {}
    own: dict[str, str] = {}
    for section, role in (("inputs", "past"), ("outputs", "present")):
        given = decoder.get(section, {})
        if not isinstance(given, Mapping):
            raise CorruptData(f"genai_config.json: {section} must hold names, got {type(given).__name__}")
        for key, name in given.items():
            if not isinstance(name, str) or not 0 < len(name) <= 256:
                raise CorruptData(f"genai_config.json: {section}.{key} must be a name, got {name!r:.80}")
            match = re.fullmatch(rf"{role}_(\w+)_names", key)
            if match is None:
                own[key] = name
            elif not _PATTERN.fullmatch(name):
                raise CorruptData(f"genai_config.json: {section}.{key} must have one %d for the layer, got {name!r}")
            else:
                patterns[name] = (role, match[1])
    return Names(patterns, {usual: name for usual, name in own.items() if usual != name})
