"""How one side, keys or values, is stored: quantizer, bits, scale rule and search, or two such for its channels."""

import re
from dataclasses import dataclass, replace
from typing import Any, Final

from tq_cache.errors import InvalidPolicy
from tq_core.radix import RADICES

# kind -> (fewest bits, most bits); 16 and 32 bits are floats and name their own kind
WIDTHS: Final = {"mse": (1, 8), "prod": (2, 8), "trellis": (1, 4), "int": (2, 8), "absmax": (2, 8), "float": (16, 32)}
SCALES: Final = ("unbiased", "mse", "norm", "plain")
SCALED: Final = ("mse", "prod", "trellis")  # kinds that have a scale rule and a scale search
MAX_SEARCH: Final = 65
STATES: Final = (8, 256, 1024, 4096)  # of a trellis; 1024 goes without saying
LEAST_CHANNELS: Final = 2  # what a rotation takes

FRACTIONS: Final = {f"{bits:g}": bits for bits in RADICES}  # mse alone has them

_NAME: Final = re.compile(r"([a-z]+)([0-9]{1,3}(?:\.[0-9]{1,2})?)(?:s([1-9][0-9]{0,3}))?")


@dataclass(frozen=True)
class Store:
    """`mse4`, `mse2.5`, `prod3`, `trellis4`: TurboQuant; `int4`, `absmax4`: plain integers; `float16`: no codes.

    A trellis has 1024 states or, as `trellis4s256`, those named. int is min-max affine (two scalars a token), absmax
    symmetric (one). `scale` and `search` are those of `tq_core.VectorCodec` and apply to mse, prod and trellis alone.
    """

    kind: str
    bits: int | float
    scale: str = "unbiased"
    search: int = 0
    states: int = 1024

    def __post_init__(self) -> None:
        if self.kind not in WIDTHS:
            raise InvalidPolicy(f"no store is called {self.name!r}; known: {known_names()}", self.name)
        low, high = WIDTHS[self.kind]
        is_fraction = isinstance(self.bits, float)
        if is_fraction and (self.kind != "mse" or self.bits not in RADICES):
            raise InvalidPolicy(f"{self.name!r} does not exist; known: {known_names()}", self.name)
        if not low <= self.bits <= high or (self.kind == "float" and self.bits not in (16, 32)):
            raise InvalidPolicy(f"{self.name!r} does not exist; known: {known_names()}", self.name)
        if self.states not in STATES or (self.kind != "trellis" and self.states != 1024):
            raise InvalidPolicy(f"{self.name!r} does not exist; known: {known_names()}", self.name)
        if self.scale not in SCALES:
            raise InvalidPolicy(f"a scale rule is one of {', '.join(SCALES)}, got {self.scale!r}", self.scale)
        if not 0 <= self.search <= MAX_SEARCH or (self.search and (self.search % 2 == 0 or self.search < 3)):
            raise InvalidPolicy(
                f"scale search takes 0 or an odd number of candidates in 3..{MAX_SEARCH}, got {self.search}",
                str(self.search),
            )
        if self.kind not in SCALED and (self.scale != "unbiased" or self.search):
            raise InvalidPolicy(
                f"scale rules and scale search apply to mse, prod and trellis, not to {self.name!r}", self.name
            )

    @classmethod
    def parse(cls, name: str) -> "Store":
        """The store of a name such as `mse4`, with default scale rule and no search."""
        match = _NAME.fullmatch(name)
        if match is None or match[1] not in WIDTHS or ("." in match[2] and match[2] not in FRACTIONS):
            raise InvalidPolicy(f"no store is called {name!r}; known: {known_names()}", name)
        states = 1024 if match[3] is None else int(match[3])
        store = cls(match[1], FRACTIONS[match[2]] if "." in match[2] else int(match[2]), states=states)
        if match[3] is not None and store.name != name:
            raise InvalidPolicy(f"{name!r} is written {store.name!r}", name)
        return store

    @property
    def name(self) -> str:
        """The name in a policy, `mse4`."""
        return f"{self.kind}{self.bits}" + (f"s{self.states}" if self.states != 1024 else "")

    @property
    def is_scaled(self) -> bool:
        """Whether scale rules and scale search apply."""
        return self.kind in SCALED

    @property
    def channels(self) -> int:
        """Channels of most energy that are stored otherwise: none."""
        return 0

    @property
    def parts(self) -> "tuple[Store, ...]":
        """The stores of its channels: this one."""
        return (self,)

    def with_rules(self, scale: str, search: int) -> "Store":
        """The same quantizer with that scale rule and search."""
        return replace(self, scale=scale, search=search)

    def at_bits(self, bits: int) -> "Store":
        """The same kind and rules at another width; 16 and 32 bits are floats, and floats stay as they are.

        Of a trellis more bits than it can have are scalar codes, with the same scale rule and search.
        """
        if self.kind == "float":
            return self
        if self.kind == "trellis" and WIDTHS["trellis"][1] < bits <= WIDTHS["mse"][1]:
            return Store("mse", bits, self.scale, self.search)
        return Store("float", bits) if bits in (16, 32) else replace(self, bits=bits)

    def to_dict(self) -> dict[str, Any]:
        """A plain dict; scale and search only where they apply."""
        fields: dict[str, Any] = {"store": self.name}
        if self.is_scaled:
            fields |= {"scale": self.scale, "search": self.search}
        return fields


@dataclass(frozen=True)
class SplitStore:
    """`mse3x32+mse2`: 32 channels, those of most energy in each head, at 3 bits and the others at 2.

    Two quantizers, each with a scale of its own; `scale` and `search` are those of both, where they have them.
    """

    high: Store
    channels: int
    rest: Store

    def __post_init__(self) -> None:
        if self.channels < LEAST_CHANNELS:
            raise InvalidPolicy(f"a split takes {LEAST_CHANNELS} channels at least, got {self.name!r}", self.name)
        if self.high.bits <= self.rest.bits:
            raise InvalidPolicy(f"{self.name!r}: the channels of most energy get more bits than the others", self.name)
        rules = {(part.scale, part.search) for part in (self.high, self.rest) if part.is_scaled}
        if len(rules) > 1:
            raise InvalidPolicy(f"both parts of {self.name!r} have one scale rule and one search", self.name)

    @property
    def name(self) -> str:
        """The name in a policy, `mse3x32+mse2`."""
        return f"{self.high.name}x{self.channels}+{self.rest.name}"

    @property
    def parts(self) -> tuple[Store, ...]:
        """The stores of its channels."""
        return (self.high, self.rest)

    @property
    def bits(self) -> int | float:
        """Those of the many channels."""
        return self.rest.bits

    @property
    def is_scaled(self) -> bool:
        """Whether scale rules and scale search apply to either part."""
        return self.high.is_scaled or self.rest.is_scaled

    @property
    def scale(self) -> str:
        """The scale rule of the parts that have one."""
        return self.high.scale if self.high.is_scaled else self.rest.scale

    @property
    def search(self) -> int:
        """The scale search of the parts that have one."""
        return self.high.search if self.high.is_scaled else self.rest.search

    def with_rules(self, scale: str, search: int) -> "SplitStore":
        """The same quantizers with that scale rule and search, where they have them; InvalidPolicy if neither has."""
        if not self.is_scaled:
            self.high.with_rules(scale, search)  # refuses what is no default
        high, rest = (part.with_rules(scale, search) if part.is_scaled else part for part in (self.high, self.rest))
        return replace(self, high=high, rest=rest)

    def at_bits(self, bits: int) -> Store:
        """All channels in the store of the many, at another width."""
        return self.rest.at_bits(bits)

    def to_dict(self) -> dict[str, Any]:
        """As Store."""
        rules = {"scale": self.scale, "search": self.search} if self.is_scaled else {}
        return {"store": self.name, **rules}


AnyStore = Store | SplitStore


def store_named(name: str) -> AnyStore:
    """The store of a name, `mse4` or `mse3x32+mse2`, with default scale rule and no search."""
    high, plus, rest = name.partition("+")
    if not plus:
        return Store.parse(name)
    inner, times, channels = high.rpartition("x")
    if not times or not (channels.isascii() and channels.isdigit() and len(channels) <= 5):
        raise InvalidPolicy(f"a split reads STORExCHANNELS+STORE, for example mse3x32+mse2, got {name!r}", name)
    return SplitStore(Store.parse(inner), int(channels), Store.parse(rest))


def known_names() -> str:
    """All names, in a few words."""
    spans = [f"{kind}{low}..{kind}{high}" for kind, (low, high) in WIDTHS.items() if kind != "float"]
    fractions = [f"mse{text}" for text in FRACTIONS]
    states = [f"trellis4s{count}" for count in STATES if count != 1024]
    names = ", ".join([*spans, *fractions, *states, "float16", "float32"])
    return f"{names}, and two of them as in mse3x32+mse2"
