"""The text form of a policy: `name=value` parts, some for certain layers or heads, each fault with its place."""

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple

from tq_cache.errors import InvalidPolicy
from tq_cache.presets import PRESETS
from tq_cache.stores import AnyStore, Store, store_named

NORMS: Final = ("float16", "float32")
GIVEN: Final = "given"

STORES: Final = ("k", "v", "kscale", "vscale", "ksearch", "vsearch")
LEARNED: Final = ("kmean", "ksplit", "vsplit")
# Options in canonical order; `k` and `v` are required, the rest has defaults that are not printed.
OPTIONS: Final = (*STORES, *LEARNED, "norms", "sinks", "window", "boundary")
MAX_OVERRIDES: Final = 1024  # each is checked against the others, and the text may be a stranger's
BY_LAYER: Final = (*STORES, *LEARNED, "sinks", "window")

_SPAN: Final = r"([0-9]{1,5})(?:-([0-9]{1,5}))?\."
_SCOPE: Final = re.compile(rf"(?:layer{_SPAN})?(?:head{_SPAN})?(.*)")

Span = tuple[int, int]
Stores = tuple[AnyStore, AnyStore]


class Override(NamedTuple):
    """One option of some layers, some heads, or both: `layer0-1.k=mse8`, `head2.k=mse8`, `layer3.head0-1.v=mse8`.

    Spans are (first, last); None means all.
    """

    layers: Span | None
    heads: Span | None
    option: str
    value: str

    def __str__(self) -> str:
        spans = ((name, span) for name, span in (("layer", self.layers), ("head", self.heads)) if span is not None)
        scope = "".join(f"{name}{a}." if a == b else f"{name}{a}-{b}." for name, (a, b) in spans)
        return f"{scope}{self.option}={self.value}"

    def covers_layer(self, layer: int) -> bool:
        """Whether it is about that layer, or about some head of it."""
        return self.layers is None or self.layers[0] <= layer <= self.layers[1]

    def covers(self, layer: int, head: int | None) -> bool:
        """Whether it applies to that head of that layer; head None: to all heads of the layer."""
        return self.covers_layer(layer) and (
            self.heads is None or (head is not None and self.heads[0] <= head <= self.heads[1])
        )

    @property
    def read(self) -> Any:
        """The value as the option's reader gives it."""
        return _read(self.option, self.value)


class Parts(NamedTuple):
    """A policy's text, taken apart and checked part by part."""

    options: Mapping[str, Any]  # option -> value as its reader gives it
    overrides: tuple[Override, ...]


def parts_of(text: str) -> Parts:
    """Take a policy's text apart; InvalidPolicy names the part at fault and where it stands."""
    given: dict[str, Any] = {}
    overrides: list[Override] = []
    position = 0

    def where() -> str:  # made for an error alone: the text may be long
        return f"at character {position + 1} of {text!r:.500}"

    for part in text.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not name or not value:
            raise InvalidPolicy(
                f"expected name=value {where()}, got {part.strip()!r}; a policy reads like "
                f"'k=mse4,v=mse4,window=128' or is one of {', '.join(PRESETS)}",
                part,
            )
        try:
            if name.startswith(("layer", "head")):
                overrides.append(override_of(name, value))
            elif name not in OPTIONS:
                known = f"{', '.join(OPTIONS)}, layerA-B.OPTION, headA-B.OPTION"
                raise InvalidPolicy(f"unknown option {name!r}; known: {known}", part)
            elif name in given:
                raise InvalidPolicy(f"{name!r} is given twice", part)
            else:
                given[name] = READERS[name](value)
        except InvalidPolicy as error:
            raise InvalidPolicy(f"{error.message} ({part.strip()!r} {where()})", part) from None
        if len(overrides) > MAX_OVERRIDES:
            break  # refused as a policy, however many there are
        position += len(part) + 1
    for side in ("k", "v"):
        if side not in given:
            raise InvalidPolicy(
                f"a policy says how keys and values are stored; {side}=... is missing in {text!r}", side
            )
    return Parts(given, tuple(overrides))


def override_of(name: str, value: str) -> Override:
    """The override of `layerA-B.headC-D.option` and its value, in canonical form."""
    match = _SCOPE.fullmatch(name)
    option = "" if match is None else match[5]
    if match is None or option not in BY_LAYER or option == name:
        raise InvalidPolicy(
            f"a layer's option reads layer3.k or layer0-1.v, a head's head2.k or layer3.head0-1.k, with one of "
            f"{', '.join(BY_LAYER)}",
            name,
        )
    layers = _span("layers", match[1], match[2])
    heads = _span("heads", match[3], match[4])
    if heads is not None and option not in STORES:
        raise InvalidPolicy(
            f"{option} is one for all heads of a layer; heads have {', '.join(STORES)} of their own",
            name,
        )
    read = READERS[option](value)
    return Override(layers, heads, option, str(read) if isinstance(read, (int, str)) else read.name)


def with_option(stores: Stores, option: str, value: Any) -> Stores:
    """Key and value stores after one option of theirs; a new quantizer keeps scale and search where it has them."""
    keys, values = stores
    old = keys if option[0] == "k" else values
    if option in ("k", "v"):
        new = value.with_rules(old.scale, old.search) if value.is_scaled and old.is_scaled else value
    elif option[1:] == "scale":
        new = old.with_rules(value, old.search)
    else:
        new = old.with_rules(old.scale, value)
    return (new, values) if option[0] == "k" else (keys, new)


def number(text: str) -> int:
    """A whole number of at most ten digits."""
    if not (text.isascii() and text.isdigit() and len(text) <= 10):
        raise InvalidPolicy(f"expected a whole number, got {text!r}", text)
    return int(text)


@lru_cache(maxsize=256)
def _read(option: str, value: str) -> Any:
    return READERS[option](value)


def _span(what: str, first: str | None, last: str | None) -> Span | None:
    if first is None:
        return None
    low, high = int(first), int(last or first)
    if high < low:
        raise InvalidPolicy(f"{what} count upwards, got {low}-{high}", f"{low}-{high}")
    return low, high


def _boundary(text: str) -> tuple[int, int]:
    layers, at, bits = text.partition("@")
    if not at:
        raise InvalidPolicy(f"boundary reads layers@bits, for example 2@8, got {text!r}", text)
    return number(layers), number(bits)


def _scale(text: str) -> str:
    return Store("mse", 4, scale=text).scale


def _search(text: str) -> int:
    return Store("mse", 4, search=number(text)).search


def _learned(text: str) -> int | str:
    return GIVEN if text == GIVEN else number(text)


def _norms(text: str) -> str:
    if text not in NORMS:
        raise InvalidPolicy(f"norms are stored as {' or '.join(NORMS)}, got {text!r}", text)
    return text


READERS: Final[Mapping[str, Callable[[str], Any]]] = {
    "k": store_named,
    "v": store_named,
    "kscale": _scale,
    "vscale": _scale,
    "ksearch": _search,
    "vsearch": _search,
    "kmean": _learned,
    "ksplit": _learned,
    "vsplit": _learned,
    "norms": _norms,
    "sinks": number,
    "window": number,
    "boundary": _boundary,
}
