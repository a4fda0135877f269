"""How one side, keys or values, is stored: the quantizer's name and bits, scale rule and scale search."""

import re
from dataclasses import dataclass, replace
from typing import Any, Final

from tq_cache.errors import InvalidPolicy
from tq_core.radix import RADICES

# kind -> (fewest bits, most bits); 16 and 32 bits are floats and name their own kind
WIDTHS: Final = {"mse": (1, 8), "prod": (2, 8), "int": (2, 8), "absmax": (2, 8), "float": (16, 32)}
SCALES: Final = ("unbiased", "mse", "norm", "plain")
SCALED: Final = ("mse", "prod")  # kinds that have a scale rule and a scale search
MAX_SEARCH: Final = 65

FRACTIONS: Final = {f"{bits:g}": bits for bits in RADICES}  # mse alone has them

_NAME: Final = re.compile(r"([a-z]+)([0-9]{1,3}(?:\.[0-9]{1,2})?)")


@dataclass(frozen=True)
class Store:
    """`mse4`, `mse2.5`, `prod3`: TurboQuant; `int4`, `absmax4`: per-token integers; `float16`, `float32`: no codes.

    int is min-max affine (two scalars a token), absmax symmetric (one). `scale` and `search` are those of
    `tq_core.VectorCodec` and apply to mse and prod alone.
    """

    kind: str
    bits: int | float
    scale: str = "unbiased"
    search: int = 0

    def __post_init__(self) -> None:
        if self.kind not in WIDTHS:
            raise InvalidPolicy(f"no store is called {self.name!r}; known: {known_names()}", self.name)
        low, high = WIDTHS[self.kind]
        is_fraction = isinstance(self.bits, float)
        if is_fraction and (self.kind != "mse" or self.bits not in RADICES):
            raise InvalidPolicy(f"{self.name!r} does not exist; known: {known_names()}", self.name)
        if not low <= self.bits <= high or (self.kind == "float" and self.bits not in (16, 32)):
            raise InvalidPolicy(f"{self.name!r} does not exist; known: {known_names()}", self.name)
        if self.scale not in SCALES:
            raise InvalidPolicy(f"a scale rule is one of {', '.join(SCALES)}, got {self.scale!r}", self.scale)
        if not 0 <= self.search <= MAX_SEARCH or (self.search and (self.search % 2 == 0 or self.search < 3)):
            raise InvalidPolicy(
                f"scale search takes 0 or an odd number of candidates in 3..{MAX_SEARCH}, got {self.search}",
                str(self.search),
            )
        if self.kind not in SCALED and (self.scale != "unbiased" or self.search):
            raise InvalidPolicy(f"scale rules and scale search apply to mse and prod, not to {self.name!r}", self.name)

    @classmethod
    def parse(cls, name: str) -> "Store":
        """The store of a name such as `mse4`, with default scale rule and no search."""
        match = _NAME.fullmatch(name)
        if match is None or match[1] not in WIDTHS or ("." in match[2] and match[2] not in FRACTIONS):
            raise InvalidPolicy(f"no store is called {name!r}; known: {known_names()}", name)
        return cls(match[1], FRACTIONS[match[2]] if "." in match[2] else int(match[2]))

    @property
    def name(self) -> str:
        """The name in a policy, `mse4`."""
        return f"{self.kind}{self.bits}"

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
    return ", ".join([*spans, *(f"mse{text}" for text in FRACTIONS), "float16", "float32"])
