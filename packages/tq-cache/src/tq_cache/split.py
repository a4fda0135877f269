"""A split store: the first channels in one codec, the others in another, each with a scale of its own."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tq_cache.codecs import Fields, Rows, TokenCodec

F32 = NDArray[np.float32]

REST: Final = "rest."  # begins the names of the second codec's fields


class SplitCodec:
    """Two token codecs side by side, for channels that a Basis has put in order."""

    def __init__(self, high: "TokenCodec", rest: "TokenCodec", channels: int) -> None:
        self.high, self.rest, self.channels = high, rest, channels
        self.fields: Fields = {**high.fields, **{REST + name: field for name, field in rest.fields.items()}}
        self.tables: tuple[NDArray[Any], ...] = (*high.tables, *rest.tables)

    @property
    def spec(self) -> Mapping[str, Any]:
        """Everything about how rows are encoded."""
        return {"kind": "split", "channels": self.channels, "high": self.high.spec, "rest": self.rest.spec}

    @property
    def scratch(self) -> int:
        """As TokenCodec: one part at a time."""
        return max(self.high.scratch, self.rest.scratch)

    def check(self, rows: "Rows") -> None:
        """Raise CorruptData for rows that either codec never makes."""
        high, rest = self._parts(rows)
        self.high.check(high)
        self.rest.check(rest)

    def encode(self, rows: NDArray[np.floating]) -> "Rows":
        """Codes and scalars of both parts."""
        high = self.high.encode(rows[:, : self.channels].copy())
        rest = self.rest.encode(rows[:, self.channels :].copy())
        return {**high, **{REST + name: array for name, array in rest.items()}}

    def decode(self, rows: "Rows") -> F32:
        """(rows, dim) float32."""
        high, rest = self._parts(rows)
        return np.concatenate([self.high.decode(high), self.rest.decode(rest)], axis=1)

    def scores(self, rows: "Rows", queries: F32) -> F32:
        """Inner products of (queries, dim) with the decoded rows, (queries, rows) float32."""
        high, rest = self._parts(rows)
        found = self.high.scores(high, queries[:, : self.channels].copy())
        found += self.rest.scores(rest, queries[:, self.channels :].copy())
        return found

    def combine(self, rows: "Rows", weights: F32) -> F32:
        """Weighted sums of the decoded rows, (sums, dim) float32."""
        high, rest = self._parts(rows)
        return np.concatenate([self.high.combine(high, weights), self.rest.combine(rest, weights)], axis=1)

    def _parts(self, rows: "Rows") -> "tuple[Rows, Rows]":
        return (
            {name: rows[name] for name in self.high.fields},
            {name: rows[REST + name] for name in self.rest.fields},
        )
