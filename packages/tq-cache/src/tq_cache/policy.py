"""CachePolicy: the small language for what is stored how."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from tq_cache.errors import InvalidPolicy, PolicyMismatch
from tq_cache.grammar import NORMS, READERS, Override, override_of, parts_of, with_option
from tq_cache.presets import PRESETS
from tq_cache.stores import Store

MAX_TOKENS: Final = 1 << 31


@dataclass(frozen=True)
class CachePolicy:
    """What is stored how. `str(policy)` is canonical and parses back to an equal policy.

    `keys`, `values`: the store of each side. `sinks`, `window`: how many first and last tokens stay in full
    precision, as they came. `boundary`: `(layers, bits)`, that many layers at each end of the model at other bits (16
    and 32: floats). `norms`: dtype of the one scale a vector. `overrides`: options of some layers, the later ones
    winning, over the boundary as well. Below 4-bit keys see `is_experimental`.
    """

    keys: Store
    values: Store
    sinks: int = 0
    window: int = 0
    boundary: tuple[int, int] = (0, 8)
    norms: str = "float16"
    overrides: tuple[Override, ...] = ()

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
        for override in self.overrides:
            self.overridden(override.first)  # refuses what the stores cannot have

    @classmethod
    def parse(cls, text: "str | CachePolicy") -> "CachePolicy":
        """The policy of a string such as `k=mse4,v=mse4,sinks=4,window=128,boundary=2@8`, or of a preset's name.

        Raises InvalidPolicy, which names the part at fault and where it stands.
        """
        if isinstance(text, CachePolicy):
            return text
        if not isinstance(text, str):
            raise InvalidPolicy(f"a policy is a string or a CachePolicy, got {type(text).__name__}")
        options, overrides = parts_of(PRESETS.get(text.strip(), text))
        stores = (options["k"], options["v"])
        for name in ("kscale", "vscale", "ksearch", "vsearch"):
            if name in options:
                stores = with_option(stores, name, options[name])
        rest = {name: options[name] for name in ("norms", "sinks", "window", "boundary") if name in options}
        return cls(*stores, **rest, overrides=overrides)

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
        return ",".join([*parts, *map(str, self.overrides)])

    def to_dict(self) -> dict[str, Any]:
        """A plain dict of strings, numbers and lists, for JSON; `from_dict` reads it."""
        return {
            "keys": self.keys.to_dict(),
            "values": self.values.to_dict(),
            "sinks": self.sinks,
            "window": self.window,
            "boundary": list(self.boundary),
            "norms": self.norms,
            "overrides": [str(override) for override in self.overrides],
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "CachePolicy":
        """The policy of `to_dict`; InvalidPolicy for unknown, missing or malformed entries."""
        expected = {"keys", "values", "sinks", "window", "boundary", "norms", "overrides"}
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
            _overrides_from(fields["overrides"]),
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
        for override in self.overrides:
            if override.last >= layers:
                raise PolicyMismatch(f"{override} names layer {override.last}, but the model has 0..{layers - 1}")
        if 2 * count > layers:
            raise PolicyMismatch(
                f"boundary={count}@{bits} means {2 * count} layers, but the model has {layers}; lower it, "
                f"or use bits={bits} for keys and values everywhere"
            )
        return self

    def inner(self) -> "CachePolicy":
        """The policy of a layer that is no boundary layer and has no options of its own."""
        return replace(self, boundary=(0, 8), overrides=())

    def overridden(self, layer: int) -> "CachePolicy":
        """The policy with the overrides of that layer carried out."""
        found = replace(self, overrides=())
        for override in self.overrides:
            if not override.first <= layer <= override.last:
                continue
            value = READERS[override.option](override.value)
            if override.option in ("sinks", "window"):
                found = replace(found, **{override.option: value})
            else:
                keys, values = with_option((found.keys, found.values), override.option, value)
                found = replace(found, keys=keys, values=values)
        return found

    def for_layer(self, layer: int, layers: int) -> "CachePolicy":
        """The resolved policy of one layer: no boundary and no overrides left, all as that layer has it."""
        count, bits = self.boundary
        plain = self.inner()
        if not count <= layer < layers - count:
            plain = replace(plain, keys=self.keys.at_bits(bits), values=self.values.at_bits(bits))
        return replace(plain, overrides=self.overrides).overridden(layer)


def _store_from_dict(fields: Any, side: str) -> Store:
    if not isinstance(fields, Mapping) or not {"store"} <= set(fields) <= {"store", "scale", "search"}:
        raise InvalidPolicy(f"{side} is a dict with 'store' and perhaps 'scale' and 'search', got {fields!r:.80}", side)
    if not isinstance(fields["store"], str):
        raise InvalidPolicy(f"{side} has a store that is no string: {fields['store']!r:.80}", side)
    scale, search = fields.get("scale", "unbiased"), fields.get("search", 0)
    if not isinstance(scale, str) or type(search) is not int:
        raise InvalidPolicy(f"{side} has scale {scale!r:.40} and search {search!r:.40}; a string and a number", side)
    return replace(Store.parse(fields["store"]), scale=scale, search=search)


def _overrides_from(given: Any) -> tuple[Override, ...]:
    if not isinstance(given, (list, tuple)) or not all(isinstance(text, str) for text in given):
        raise InvalidPolicy(f"overrides is a list of strings such as 'layer0-1.k=mse8', got {given!r:.80}", "overrides")
    found = []
    for text in given:
        name, _, value = text.partition("=")
        found.append(override_of(name, value))
    return tuple(found)
