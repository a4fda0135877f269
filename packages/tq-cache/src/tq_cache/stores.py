"""How one side, keys or values, is stored: the quantizer's name and bits, scale rule and scale search."""

import re
from dataclasses import dataclass, replace
from typing import Any, Final

from tq_cache.errors import InvalidPolicy

# kind -> (fewest bits, most bits); 16 and 32 bits are floats and name their own kind
WIDTHS: Final = {"mse": (1, 8), "prod": (2, 8), "trellis": (1, 4), "int": (2, 8), "absmax": (2, 8), "float": (16, 32)}
SCALES: Final = ("unbiased", "mse", "norm", "plain")
SCALED: Final = ("mse", "prod", "trellis")  # kinds that have a scale rule and a scale search
MAX_SEARCH: Final = 65
STATES: Final = (8, 256, 1024, 4096)  # of a trellis; 1024 goes without saying

_NAME: Final = re.compile(r"([a-z]+)([0-9]{1,3})(?:s([1-9][0-9]{0,3}))?")


@dataclass(frozen=True)
class Store:
    """`mse4`, `prod3`, `trellis4`: TurboQuant; `int4`, `absmax4`: plain integers; `float16`, `float32`: no codes.

    A trellis has 1024 states or, as `trellis4s256`, those named. int is min-max affine (two scalars a token), absmax
    symmetric (one). `scale` and `search` are those of `tq_core.VectorCodec` and apply to mse, prod and trellis alone.
    """

    kind: str
    bits: int
    scale: str = "unbiased"
    search: int = 0
    states: int = 1024

    def __post_init__(self) -> None:
        if self.kind not in WIDTHS:
            raise InvalidPolicy(f"no store is called {self.name!r}; known: {known_names()}", self.name)
        low, high = WIDTHS[self.kind]
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
        if match is None or match[1] not in WIDTHS:
            raise InvalidPolicy(f"no store is called {name!r}; known: {known_names()}", name)
        if match[3] is None:
            return cls(match[1], int(match[2]))
        store = cls(match[1], int(match[2]), states=int(match[3]))
        if store.name != name:
            raise InvalidPolicy(f"{name!r} is written {store.name!r}", name)
        return store

    @property
    def name(self) -> str:
        """The name in a policy, `mse4`."""
        return f"{self.kind}{self.bits}" + (f"s{self.states}" if self.states != 1024 else "")

    def at_bits(self, bits: int) -> "Store":
        """The same kind and rules at another width; 16 and 32 bits are floats, and floats stay as they are."""
        if self.kind == "float":
            return self
        return Store("float", bits) if bits in (16, 32) else replace(self, bits=bits)

    def to_dict(self) -> dict[str, Any]:
        """A plain dict; scale and search only where they apply."""
        fields: dict[str, Any] = {"store": self.name}
        if self.kind in SCALED:
            fields |= {"scale": self.scale, "search": self.search}
        return fields


def known_names() -> str:
    """All names, in a few words."""
    spans = [f"{kind}{low}..{kind}{high}" for kind, (low, high) in WIDTHS.items() if kind != "float"]
    states = ", ".join(f"s{count}" for count in STATES if count != 1024)
    return ", ".join([*spans, f"with {states} behind a trellis for other than 1024 states", "float16", "float32"])
