"""CachePolicy: the small language for what is stored how."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from tq_cache.errors import InvalidPolicy, PolicyMismatch
from tq_cache.stores import Store

# Names that users know, each by the nearest policy of this package. `turboquant_*` are vLLM's: codes for keys with norm
# correction (nc), plain integers for values, two layers at each end in float16. `turbo*` are those of llama.cpp forks.
PRESETS: Final = {
    "balanced": "k=mse4,v=mse4,sinks=4,window=128,boundary=2@8",
    "safe": "k=mse8,v=mse4",
    "turboquant_k8v4": "k=mse8,v=int4,boundary=2@16",
    "turboquant_4bit_nc": "k=mse4,v=int4,kscale=norm,boundary=2@16",
    "turboquant_k3v4_nc": "k=mse3,v=int4,kscale=norm,boundary=2@16",
    "turboquant_3bit_nc": "k=mse3,v=int3,kscale=norm,boundary=2@16",
    "turbo4": "k=mse4,v=mse4,kscale=norm,vscale=norm",
    "turbo3": "k=mse3,v=mse3,kscale=norm,vscale=norm",
    "turbo2": "k=mse2,v=mse2,kscale=norm,vscale=norm",
}
NORMS: Final = ("float16", "float32")
MAX_TOKENS: Final = 1 << 31

# Options in canonical order; `k` and `v` are required, the rest has defaults that are not printed.
OPTIONS: Final = ("k", "v", "kscale", "vscale", "ksearch", "vsearch", "norms", "sinks", "window", "boundary")


@dataclass(frozen=True)
class CachePolicy:
    """What is stored how. `str(policy)` is canonical and parses back to an equal policy.

    `keys`, `values`: the store of each side. `sinks`, `window`: how many first and last tokens stay in full
    precision, as they came. `boundary`: `(layers, bits)`, that many layers at each end of the model at other bits (16
    and 32: floats). `norms`: dtype of the one scale a vector. Below 4-bit keys see `is_experimental`.
    """

    keys: Store
    values: Store
    sinks: int = 0
    window: int = 0
    boundary: tuple[int, int] = (0, 8)
    norms: str = "float16"

    def __post_init__(self) -> None:
        for name, tokens in (("sinks", self.sinks), ("window", self.window)):
            if isinstance(tokens, bool) or not isinstance(tokens, int) or not 0 <= tokens < MAX_TOKENS:
                raise InvalidPolicy(f"{name} is a number of tokens, 0 or more, got {tokens!r}", f"{name}={tokens}")
        layers, bits = self.boundary
        if layers < 0:
            raise InvalidPolicy(f"boundary layers are 0 or more, got {layers}", f"boundary={layers}@{bits}")
        if layers:
            self.keys.at_bits(bits), self.values.at_bits(bits)  # refuses bits that either store lacks
        else:
            object.__setattr__(self, "boundary", (0, 8))  # bits of no layers are no difference
        if self.norms not in NORMS:
            raise InvalidPolicy(f"norms are stored as {' or '.join(NORMS)}, got {self.norms!r}", self.norms)

    @classmethod
    def parse(cls, text: "str | CachePolicy") -> "CachePolicy":
        """The policy of a string such as `k=mse4,v=mse4,sinks=4,window=128,boundary=2@8`, or of a preset's name.

        Raises InvalidPolicy, which names the part at fault and where it stands.
        """
        if isinstance(text, CachePolicy):
            return text
        if not isinstance(text, str):
            raise InvalidPolicy(f"a policy is a string or a CachePolicy, got {type(text).__name__}")
        return _parsed(PRESETS.get(text.strip(), text))

    def __str__(self) -> str:
        parts = [f"k={self.keys.name}", f"v={self.values.name}"]
        for side, store in (("k", self.keys), ("v", self.values)):
            parts += [f"{side}scale={store.scale}"] if store.scale != "unbiased" else []
        for side, store in (("k", self.keys), ("v", self.values)):
            parts += [f"{side}search={store.search}"] if store.search else []
        parts += [f"norms={self.norms}"] if self.norms != "float16" else []
        parts += [f"sinks={self.sinks}"] if self.sinks else []
        parts += [f"window={self.window}"] if self.window else []
        parts += [f"boundary={self.boundary[0]}@{self.boundary[1]}"] if self.boundary[0] else []
        return ",".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """A plain dict of strings, numbers and lists, for JSON; `from_dict` reads it."""
        return {
            "keys": self.keys.to_dict(),
            "values": self.values.to_dict(),
            "sinks": self.sinks,
            "window": self.window,
            "boundary": list(self.boundary),
            "norms": self.norms,
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "CachePolicy":
        """The policy of `to_dict`; InvalidPolicy for unknown, missing or malformed entries."""
        expected = {"keys", "values", "sinks", "window", "boundary", "norms"}
        if not isinstance(fields, Mapping) or set(fields) != expected:
            got = sorted(map(str, fields)) if isinstance(fields, Mapping) else type(fields).__name__
            raise InvalidPolicy(f"a policy dict has the entries {sorted(expected)}, got {got}")
        boundary = fields["boundary"]
        if not isinstance(boundary, (list, tuple)) or len(boundary) != 2 or not all(type(n) is int for n in boundary):
            raise InvalidPolicy(f"boundary is [layers, bits], got {boundary!r}", "boundary")
        return cls(
            _store_from_dict(fields["keys"], "keys"),
            _store_from_dict(fields["values"], "values"),
            fields["sinks"],
            fields["window"],
            (boundary[0], boundary[1]),
            fields["norms"],
        )

    @property
    def is_experimental(self) -> bool:
        """Whether keys have fewer than 4 bits, where quality depends on the model more than on the method."""
        return self.keys.bits < 4

    def resolve(self, layers: int) -> "CachePolicy":
        """The policy as a model of that many layers follows it.

        The boundary layers of a preset (under its name or spelt out) cover at most a quarter of the model, so a
        small model has fewer of them or none. Any other boundary is kept; PolicyMismatch when its two ends overlap.
        """
        count, bits = self.boundary
        if str(self) in PRESETS.values():
            return replace(self, boundary=(min(count, layers // 8), bits))
        if 2 * count > layers:
            raise PolicyMismatch(
                f"boundary={count}@{bits} means {2 * count} layers, but the model has {layers}; lower it, "
                f"or use bits={bits} for keys and values everywhere"
            )
        return self

    def inner(self) -> "CachePolicy":
        """The policy of a layer that is no boundary layer."""
        return replace(self, boundary=(0, 8))

    def for_layer(self, layer: int, layers: int) -> "CachePolicy":
        """The resolved policy of one layer: no boundary left, bits as that layer has them."""
        count, bits = self.boundary
        if count <= layer < layers - count:
            return self.inner()
        return replace(self.inner(), keys=self.keys.at_bits(bits), values=self.values.at_bits(bits))


def _parsed(text: str) -> CachePolicy:
    given: dict[str, str] = {}
    position = 0
    for part in text.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        where = f"at character {position + 1} of {text!r}"
        if not equals or not name or not value:
            raise InvalidPolicy(
                f"expected name=value {where}, got {part.strip()!r}; a policy reads like "
                f"'k=mse4,v=mse4,window=128' or is one of {', '.join(PRESETS)}",
                part,
            )
        if name not in OPTIONS:
            raise InvalidPolicy(f"unknown option {name!r} {where}; known: {', '.join(OPTIONS)}", part)
        if name in given:
            raise InvalidPolicy(f"{name!r} is given twice, the second time {where}", part)
        given[name] = value
        try:
            _CHECKS[name](value)
        except InvalidPolicy as error:
            raise InvalidPolicy(f"{error.message} ({part.strip()!r} {where})", part) from None
        position += len(part) + 1
    for side in ("k", "v"):
        if side not in given:
            raise InvalidPolicy(
                f"a policy says how keys and values are stored; {side}=... is missing in {text!r}", side
            )
    return CachePolicy(
        _side(given, "k"),
        _side(given, "v"),
        _number(given.get("sinks", "0")),
        _number(given.get("window", "0")),
        _boundary(given.get("boundary", "0@8")),
        given.get("norms", "float16"),
    )


def _side(given: Mapping[str, str], side: str) -> Store:
    store = Store.parse(given[side])
    scale, search = given.get(f"{side}scale", "unbiased"), _number(given.get(f"{side}search", "0"))
    return replace(store, scale=scale, search=search)


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 10):
        raise InvalidPolicy(f"expected a whole number, got {text!r}", text)
    return int(text)


def _boundary(text: str) -> tuple[int, int]:
    layers, at, bits = text.partition("@")
    if not at:
        raise InvalidPolicy(f"boundary reads layers@bits, for example 2@8, got {text!r}", text)
    return _number(layers), _number(bits)


def _scale(text: str) -> None:
    Store("mse", 4, scale=text)


def _search(text: str) -> None:
    Store("mse", 4, search=_number(text))


def _norms(text: str) -> None:
    if text not in NORMS:
        raise InvalidPolicy(f"norms are stored as {' or '.join(NORMS)}, got {text!r}", text)


_CHECKS: Final = {
    "k": Store.parse,
    "v": Store.parse,
    "kscale": _scale,
    "vscale": _scale,
    "ksearch": _search,
    "vsearch": _search,
    "norms": _norms,
    "sinks": _number,
    "window": _number,
    "boundary": _boundary,
}


def _store_from_dict(fields: Any, side: str) -> Store:
    if not isinstance(fields, Mapping) or not {"store"} <= set(fields) <= {"store", "scale", "search"}:
        raise InvalidPolicy(f"{side} is a dict with 'store' and perhaps 'scale' and 'search', got {fields!r:.80}", side)
    if not isinstance(fields["store"], str):
        raise InvalidPolicy(f"{side} has a store that is no string: {fields['store']!r:.80}", side)
    scale, search = fields.get("scale", "unbiased"), fields.get("search", 0)
    if not isinstance(scale, str) or type(search) is not int:
        raise InvalidPolicy(f"{side} has scale {scale!r:.40} and search {search!r:.40}; a string and a number", side)
    return replace(Store.parse(fields["store"]), scale=scale, search=search)
