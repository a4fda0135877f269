"""CachePolicy: the small language for what is stored how."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from tq_cache.errors import InvalidPolicy, PolicyMismatch
from tq_cache.grammar import (
    GIVEN,
    LEARNED,
    MAX_OVERRIDES,
    NORMS,
    STORES,
    Override,
    Stores,
    override_of,
    parts_of,
    with_option,
)
from tq_cache.presets import PRESETS
from tq_cache.stores import AnyStore, store_named

MAX_TOKENS: Final = 1 << 31
SPLIT_TOKENS: Final = 64  # channels differ in energy by more than the 18 % that so few tokens leave uncertain


@dataclass(frozen=True)
class CachePolicy:
    """What is stored how. `str(policy)` is canonical and parses back to an equal policy.

    `keys`, `values`: the store of each side. `sinks`, `window`: how many first and last tokens stay in full
    precision, as they came. `boundary`: `(layers, bits)`, that many layers at each end of the model at other bits (16
    and 32: floats). `norms`: dtype of the one scale a vector. `overrides`: options of some layers or heads, the later
    ones winning, over the boundary as well. `kmean`: take from all keys of a head the mean of its first so many tokens
    that are to be quantized; `ksplit`, `vsplit`: choose the channels of split stores by their energy in so many; all
    three may be "given", by the caller of the cache. Below 4-bit keys see `is_experimental`.
    """

    keys: AnyStore
    values: AnyStore
    sinks: int = 0
    window: int = 0
    boundary: tuple[int, int] = (0, 8)
    norms: str = "float16"
    overrides: tuple[Override, ...] = ()
    kmean: int | str = 0
    ksplit: int | str = SPLIT_TOKENS
    vsplit: int | str = SPLIT_TOKENS

    def __post_init__(self) -> None:
        for name, least in (("sinks", 0), ("window", 0), ("kmean", 0), ("ksplit", 1), ("vsplit", 1)):
            tokens = getattr(self, name)
            if name in LEARNED and tokens == GIVEN:
                continue
            if isinstance(tokens, bool) or not isinstance(tokens, int) or not least <= tokens < MAX_TOKENS:
                given = f" or {GIVEN!r}" if name in LEARNED else ""
                raise InvalidPolicy(
                    f"{name} is a number of tokens, {least} or more{given}, got {tokens!r}", f"{name}={tokens}"
                )
        layers, bits = self.boundary
        if layers < 0:
            raise InvalidPolicy(f"boundary layers are 0 or more, got {layers}", f"boundary={layers}@{bits}")
        if layers:
            self.keys.at_bits(bits), self.values.at_bits(bits)  # refuses bits that either store lacks
        else:
            object.__setattr__(self, "boundary", (0, 8))  # bits of no layers are no difference
        if self.norms not in NORMS:
            raise InvalidPolicy(f"norms are stored as {' or '.join(NORMS)}, got {self.norms!r}", self.norms)
        if len(self.overrides) > MAX_OVERRIDES:
            raise InvalidPolicy(
                f"at most {MAX_OVERRIDES} options of layers and heads, got {len(self.overrides)} or more"
            )
        points = {((own.layers or (0, 0))[0], (own.heads or (0, 0))[0]) for own in self.overrides}
        for layer, head in points:  # refuses what the stores cannot have
            self._overridden((self.keys, self.values), layer, head)
        for letter in "kv":
            if not any(store.channels for _, store in self._stores(letter)):
                object.__setattr__(self, f"{letter}split", SPLIT_TOKENS)  # nothing to choose, so no difference

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
        for name in STORES[2:]:
            if name in options:
                stores = with_option(stores, name, options[name])
        rest = {name: value for name, value in options.items() if name not in STORES}
        found = cls(*stores, **rest, overrides=overrides)
        for name in {*options, *(override.option for override in overrides)} & {"ksplit", "vsplit"}:
            if not any(store.channels for _, store in found._stores(name[0])):
                raise InvalidPolicy(f"{name} is for split stores such as {name[0]}=mse3x32+mse2", name)
        return found

    def __str__(self) -> str:
        parts = [f"k={self.keys.name}", f"v={self.values.name}"]
        for side, store in (("k", self.keys), ("v", self.values)):
            parts += [f"{side}scale={store.scale}"] if store.scale != "unbiased" else []
        for side, store in (("k", self.keys), ("v", self.values)):
            parts += [f"{side}search={store.search}"] if store.search else []
        parts += [f"kmean={self.kmean}"] if self.kmean else []
        parts += [f"ksplit={self.ksplit}"] if self.ksplit != SPLIT_TOKENS else []
        parts += [f"vsplit={self.vsplit}"] if self.vsplit != SPLIT_TOKENS else []
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
            **{name: getattr(self, name) for name in PLAIN},
            "boundary": list(self.boundary),
            "overrides": [str(override) for override in self.overrides],
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "CachePolicy":
        """The policy of `to_dict`; InvalidPolicy for unknown, missing or malformed entries."""
        expected = {"keys", "values", "boundary", "overrides", *PLAIN}
        if not isinstance(fields, Mapping) or set(fields) != expected:
            got = sorted(map(str, fields)) if isinstance(fields, Mapping) else type(fields).__name__
            raise InvalidPolicy(f"a policy dict has the entries {sorted(expected)}, got {got}")
        boundary = fields["boundary"]
        if not isinstance(boundary, (list, tuple)) or len(boundary) != 2 or not all(type(n) is int for n in boundary):
            raise InvalidPolicy(f"boundary is [layers, bits], got {boundary!r}", "boundary")
        return cls(
            _store_from_dict(fields["keys"], "keys"),
            _store_from_dict(fields["values"], "values"),
            boundary=(boundary[0], boundary[1]),
            overrides=_overrides_from(fields["overrides"]),
            **{name: fields[name] for name in PLAIN},
        )

    @property
    def is_experimental(self) -> bool:
        """Whether keys have fewer than 4 bits, where quality depends on the model more than on the method."""
        return self.keys.bits < 4

    @property
    def learns(self) -> bool:
        """Whether some head waits for its first tokens, to take their mean or to choose channels by them."""
        tokens = {name: [getattr(self, name)] for name in LEARNED}
        for override in self.overrides:
            if override.option in tokens:
                tokens[override.option].append(override.read)
        return any(
            count != GIVEN and bool(count)
            for name, counts in tokens.items()
            for count in counts
            if name == "kmean" or any(store.channels for _, store in self._stores(name[0]))
        )

    def resolve(
        self, layers: int, *, kv_heads: int | None = None, head_dim: int | None = None, value_dim: int | None = None
    ) -> "CachePolicy":
        """The policy as a model of that many layers follows it; heads and dims are checked where they are given.

        The boundary layers of a preset (under its name or spelt out) cover at most a quarter of the model, so a
        small model has fewer of them or none. All else is kept, or PolicyMismatch names the part that the model
        cannot have and where it stands.
        """
        count, bits = self.boundary
        found = self
        if str(self) in PRESETS.values():
            found = replace(self, boundary=(min(count, layers // 8), bits))
        elif 2 * count > layers:
            raise self._mismatch(
                f"boundary={count}@{bits}",
                f"means {2 * count} layers, but the model has {layers}; lower it, "
                f"or use bits={bits} for keys and values everywhere",
            )
        for override in self.overrides:
            for name, span, limit in (("layer", override.layers, layers), ("head", override.heads, kv_heads)):
                if span is not None and limit is not None and span[1] >= limit:
                    owner = "the model" if name == "layer" else "a layer"
                    raise self._mismatch(str(override), f"names {name} {span[1]}, but {owner} has 0..{limit - 1}")
        for letter, dim in (("k", head_dim), ("v", value_dim or head_dim)):
            for part, store in self._stores(letter):
                if dim is not None and store.channels and store.channels + 2 > dim:
                    raise self._mismatch(
                        part, f"takes {store.channels} channels and needs 2 more at least, but vectors have {dim}"
                    )
        return found

    def inner(self) -> "CachePolicy":
        """The policy of a layer that is no boundary layer and has no options of its own; its heads may have."""
        return replace(self, boundary=(0, 8), overrides=tuple(own for own in self.overrides if own.layers is None))

    def lone(self) -> "CachePolicy":
        """The policy of a head with no options of its own, in such a layer."""
        return replace(self, boundary=(0, 8), overrides=())

    def at_boundary(self, layer: int, layers: int) -> Stores:
        """The stores that a layer has by its place in the model, before any options of its own."""
        count, bits = self.boundary
        if count <= layer < layers - count:
            return self.keys, self.values
        return self.keys.at_bits(bits), self.values.at_bits(bits)

    def for_layer(self, layer: int, layers: int, head: int | None = None) -> "CachePolicy":
        """The resolved policy of one layer: no boundary and no overrides left, all as that layer has it.

        Heads with options of their own have another: name one to see its.
        """
        return self._overridden(self.at_boundary(layer, layers), layer, head)

    def _overridden(self, stores: Stores, layer: int, head: int | None) -> "CachePolicy":
        """The policy with those stores and then the overrides of that layer, and of that head of it if named."""
        for override in self.overrides:
            if override.option in STORES and override.covers(layer, head):
                stores = with_option(stores, override.option, override.read)
        return CachePolicy(*stores, **self.plain(layer))

    def plain(self, layer: int) -> dict[str, Any]:
        """The options of a layer that are one for all its heads: `sinks`, `window`, `norms` and what is learned."""
        found = {name: getattr(self, name) for name in PLAIN}
        for override in self.overrides:
            if override.option not in STORES and override.covers_layer(layer):
                found[override.option] = override.read
        return found

    def _stores(self, letter: str) -> list[tuple[str, AnyStore]]:
        """Every store that the policy names for keys ("k") or values, with the part that names it."""
        store = self.keys if letter == "k" else self.values
        others = [(str(override), override.read) for override in self.overrides if override.option == letter]
        return [(f"{letter}={store.name}", store), *others]

    def _mismatch(self, part: str, says: str) -> PolicyMismatch:
        text = str(self)
        return PolicyMismatch(f"{part} {says} (at character {text.index(part) + 1} of {text!r})", part)


PLAIN: Final = ("sinks", "window", "norms", "kmean", "ksplit", "vsplit")  # plain values, as they are in a dict


def _store_from_dict(fields: Any, side: str) -> AnyStore:
    if not isinstance(fields, Mapping) or not {"store"} <= set(fields) <= {"store", "scale", "search"}:
        raise InvalidPolicy(f"{side} is a dict with 'store' and perhaps 'scale' and 'search', got {fields!r:.80}", side)
    if not isinstance(fields["store"], str):
        raise InvalidPolicy(f"{side} has a store that is no string: {fields['store']!r:.80}", side)
    scale, search = fields.get("scale", "unbiased"), fields.get("search", 0)
    if not isinstance(scale, str) or type(search) is not int:
        raise InvalidPolicy(f"{side} has scale {scale!r:.40} and search {search!r:.40}; a string and a number", side)
    return store_named(fields["store"]).with_rules(scale, search)


def _overrides_from(given: Any) -> tuple[Override, ...]:
    if not isinstance(given, (list, tuple)) or not all(isinstance(text, str) for text in given):
        raise InvalidPolicy(f"overrides is a list of strings such as 'layer0-1.k=mse8', got {given!r:.80}", "overrides")
    found = []
    for text in given:
        name, _, value = text.partition("=")
        found.append(override_of(name, value))
    return tuple(found)
