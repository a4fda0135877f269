"""The text form of a policy: `name=value` parts, some for a range of layers, read with the place of each fault."""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final, NamedTuple

from tq_cache.errors import InvalidPolicy
from tq_cache.presets import PRESETS
from tq_cache.stores import SCALED, Store

NORMS: Final = ("float16", "float32")

# Options in canonical order; `k` and `v` are required, the rest has defaults that are not printed.
OPTIONS: Final = ("k", "v", "kscale", "vscale", "ksearch", "vsearch", "norms", "sinks", "window", "boundary")
BY_LAYER: Final = ("k", "v", "kscale", "vscale", "ksearch", "vsearch", "sinks", "window")

_SCOPE: Final = re.compile(r"layer([0-9]{1,5})(?:-([0-9]{1,5}))?\.(.*)")


class Override(NamedTuple):
    """One option of layers `first..last`: `layer0-1.k=mse8`."""

    first: int
    last: int
    option: str
    value: str

    def __str__(self) -> str:
        span = f"{self.first}" if self.first == self.last else f"{self.first}-{self.last}"
        return f"layer{span}.{self.option}={self.value}"


class Parts(NamedTuple):
    """A policy's text, taken apart and checked part by part."""

    options: Mapping[str, Any]  # option -> value as its reader gives it
    overrides: tuple[Override, ...]


def parts_of(text: str) -> Parts:
    """Take a policy's text apart; InvalidPolicy names the part at fault and where it stands."""
    given: dict[str, Any] = {}
    overrides: list[Override] = []
    position = 0
    for part in text.split(","):
        where = f"at character {position + 1} of {text!r}"
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not name or not value:
            raise InvalidPolicy(
                f"expected name=value {where}, got {part.strip()!r}; a policy reads like "
                f"'k=mse4,v=mse4,window=128' or is one of {', '.join(PRESETS)}",
                part,
            )
        try:
            if name.startswith("layer"):
                overrides.append(override_of(name, value))
            elif name not in OPTIONS:
                raise InvalidPolicy(f"unknown option {name!r}; known: {', '.join(OPTIONS)}, layerA-B.OPTION", part)
            elif name in given:
                raise InvalidPolicy(f"{name!r} is given twice", part)
            else:
                given[name] = READERS[name](value)
        except InvalidPolicy as error:
            raise InvalidPolicy(f"{error.message} ({part.strip()!r} {where})", part) from None
        position += len(part) + 1
    for side in ("k", "v"):
        if side not in given:
            raise InvalidPolicy(
                f"a policy says how keys and values are stored; {side}=... is missing in {text!r}", side
            )
    return Parts(given, tuple(overrides))


def override_of(name: str, value: str) -> Override:
    """The override of `layerA-B.option` and its value, in canonical form."""
    match = _SCOPE.fullmatch(name)
    if match is None or match[3] not in BY_LAYER:
        raise InvalidPolicy(f"a layer's option reads layer3.k or layer0-1.v, with one of {', '.join(BY_LAYER)}", name)
    first, last, option = int(match[1]), int(match[2] or match[1]), match[3]
    if last < first:
        raise InvalidPolicy(f"layers count upwards, got {first}-{last}", name)
    read = READERS[option](value)
    return Override(first, last, option, read.name if isinstance(read, Store) else str(read))


def with_option(stores: tuple[Store, Store], option: str, value: Any) -> tuple[Store, Store]:
    """Key and value stores after one option of theirs; a new quantizer keeps scale and search where it has them."""
    side = 0 if option[0] == "k" else 1
    store = stores[side]
    if option in ("k", "v"):
        keeps = value.kind in SCALED and store.kind in SCALED
        store = replace(value, scale=store.scale, search=store.search) if keeps else value
    else:
        store = replace(store, **{option[1:]: value})
    return (store, stores[1]) if side == 0 else (stores[0], store)


def number(text: str) -> int:
    """A whole number of at most ten digits."""
    if not (text.isascii() and text.isdigit() and len(text) <= 10):
        raise InvalidPolicy(f"expected a whole number, got {text!r}", text)
    return int(text)


def _boundary(text: str) -> tuple[int, int]:
    layers, at, bits = text.partition("@")
    if not at:
        raise InvalidPolicy(f"boundary reads layers@bits, for example 2@8, got {text!r}", text)
    return number(layers), number(bits)


def _scale(text: str) -> str:
    return Store("mse", 4, scale=text).scale


def _search(text: str) -> int:
    return Store("mse", 4, search=number(text)).search


def _norms(text: str) -> str:
    if text not in NORMS:
        raise InvalidPolicy(f"norms are stored as {' or '.join(NORMS)}, got {text!r}", text)
    return text


READERS: Final[Mapping[str, Callable[[str], Any]]] = {
    "k": Store.parse,
    "v": Store.parse,
    "kscale": _scale,
    "vscale": _scale,
    "ksearch": _search,
    "vsearch": _search,
    "norms": _norms,
    "sinks": number,
    "window": number,
    "boundary": _boundary,
}
