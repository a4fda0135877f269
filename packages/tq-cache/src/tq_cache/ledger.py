"""Ledger: every byte of a cache by what it is for, with a total that equals the arrays held."""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tq_cache.side import Side
from tq_core import InvalidDtype


@dataclass(frozen=True)
class Ledger:
    """Bytes held, by item; `total` is their sum. `values`: numbers cached, keys and values of all heads together.

    `codes`: packed codes. `norms`: the scalars beside them. `sinks`, `window`: tokens kept exact. `padding`:
    allocated room that holds no token. `means`, `channels`: what is known of each head, to take from its keys and to
    split its channels by. `tables`: rotation, codebook and sketch, each counted once however many
    layers share it. `workspace`: scratch memory kept between calls, of which there is none.
    """

    codes: int
    norms: int
    sinks: int
    window: int
    means: int
    channels: int
    padding: int
    tables: int
    values: int
    workspace: int = 0

    @property
    def items(self) -> dict[str, int]:
        """The bytes by name."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "values"}

    @property
    def total(self) -> int:
        """All bytes held."""
        return sum(self.items.values())

    @property
    def token_bytes(self) -> int:
        """Bytes that tokens take: codes, norms, sinks, window; nothing that is there once."""
        return self.codes + self.norms + self.sinks + self.window

    @property
    def bits_per_value(self) -> float:
        """Bits of `token_bytes` per cached number, norms and exact tokens included; 0 for an empty cache."""
        return 8 * self.token_bytes / self.values if self.values else 0.0

    def exact_bytes(self, dtype: str = "float16") -> int:
        """Bytes of the same tokens uncompressed, in a dtype of numpy's or bfloat16; InvalidDtype for another name."""
        return self.values * (2 if dtype == "bfloat16" else _item_bytes(dtype))

    def ratio(self, dtype: str = "float16") -> float:
        """Uncompressed bytes over `total`, everything counted; against float16 unless said otherwise."""
        return self.exact_bytes(dtype) / self.total if self.total else 0.0

    def __str__(self) -> str:
        lines = [f"{name:<10} {size:>14,}" for name, size in self.items.items()]
        exact = self.exact_bytes()
        lines += [f"{'total':<10} {self.total:>14,}", f"{'float16':<10} {exact:>14,}   ratio {self.ratio():.2f}"]
        return "\n".join([*lines, f"{self.bits_per_value:.3f} bits a value, padding and tables apart"])


def _item_bytes(dtype: str) -> int:
    try:
        return np.dtype(dtype).itemsize
    except TypeError as error:
        raise InvalidDtype(f"dtype is the name of a dtype such as 'float16', got {dtype!r:.40}") from error


def ledger_of(sides: Iterable[Side]) -> Ledger:
    """The ledger of those sides."""
    count = {"codes": 0, "norms": 0, "sinks": 0, "window": 0, "padding": 0}
    once: dict[str, dict[int, NDArray[Any]]] = {"means": {}, "channels": {}}
    tables: dict[int, NDArray[Any]] = {}
    memory: dict[int, tuple[str, int, int]] = {}  # forks share memory: it is counted once, as what most of them use
    values = 0
    for side in sides:
        for item, array in side.arrays():
            _, used, _ = memory.get(id(array.memory), ("", 0, 0))
            memory[id(array.memory)] = (item, max(used, array.used_nbytes), array.memory.nbytes)
        for name, known in zip(once, side.basis or side.known, strict=True):
            once[name] |= {} if known is None else {id(known): known}
        tables |= {id(table): table for table in side.codec.tables}
        values += side.lanes * side.dim * (side.borders()[1] + len(side.recent))
    for item, used, held in memory.values():
        count[item] += used
        count["padding"] += held - used
    for name, arrays in once.items():
        count[name] = sum(array.nbytes for array in arrays.values())
    return Ledger(**count, tables=sum(table.nbytes for table in tables.values()), values=values)
