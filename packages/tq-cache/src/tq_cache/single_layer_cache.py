"""What the caches of one head and of one layer do; they differ in the axes before the tokens alone."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tq_cache import checks, together
from tq_cache.attention import WORKSPACE_BYTES
from tq_cache.layer import Layer
from tq_cache.packed_cache import PackedCache
from tq_cache.place import waits_once
from tq_core.device import typed_memory

F32 = NDArray[np.float32]


class SingleLayerCache(PackedCache):
    """Arrays are (*lead, tokens, dim): `lead` is (kv_heads,) for a layer and nothing for a head."""

    @property
    def _layer(self) -> Layer:
        return self._rows[0][0]

    @property
    def _lead(self) -> tuple[int, ...]:
        return (self.kv_heads,) if self.KIND == "layer" else ()

    def __len__(self) -> int:
        return len(self._layer)

    @typed_memory
    def append(self, keys: ArrayLike, values: ArrayLike) -> range:
        """Add keys (..., n, head_dim) and values (..., n, value_dim), float16/32/64; returns the positions quantized.

        Tokens within the window stay exact and are quantized by the later call that moves them out of it. Raises
        ShapeMismatch, InvalidDtype, NotFinite or ScaleRange and then leaves the cache as it was, in every head.
        """
        return self._change(keys, values).carry_out()[0]

    @typed_memory
    def keys(self, start: int = 0, stop: int | None = None) -> F32:
        """What the codes of tokens start..stop-1 decode to, (..., tokens, head_dim) float32; exact ones as given."""
        low, high = checks.span(start, stop, len(self))
        found = self._layer.joined([group.keys.tokens(low, high) for group in self._layer.groups])
        return found.reshape(*self._lead, *found.shape[1:])

    @typed_memory
    def values(self, start: int = 0, stop: int | None = None) -> F32:
        """As `keys`, (..., tokens, value_dim) float32."""
        low, high = checks.span(start, stop, len(self))
        found = self._layer.joined([group.values.tokens(low, high) for group in self._layer.groups])
        return found.reshape(*self._lead, *found.shape[1:])

    @waits_once
    def scores(self, queries: ArrayLike) -> F32:
        """Inner products of queries with all keys of their head, (..., n, tokens) float32, from packed codes.

        Queries (n, head_dim), or (query_heads, n, head_dim) of a layer. No scale, no softmax.
        """
        grouped, lead = self._grouped(queries)
        heads, count = grouped.shape[1:3]
        asked = grouped.reshape(self.kv_heads, heads * count, self.head_dim)
        return self._layer.scores(asked).reshape(*lead, count, len(self))

    @waits_once
    def attend(
        self,
        queries: ArrayLike,
        *,
        scale: float | None = None,
        causal: bool = False,
        mask: ArrayLike | None = None,
        softcap: float | None = None,
        sliding_window: int = 0,
        workspace_bytes: int = WORKSPACE_BYTES,
        accuracy: str = "exact",
        fresh: tuple[ArrayLike, ArrayLike] | None = None,
    ) -> F32:
        """softmax(q K^T scale) V straight from packed codes, float32, shaped as the queries with value_dim last.

        Queries (n, head_dim), or (query_heads, n, head_dim) of a layer.
        `scale` defaults to 1/sqrt(head_dim). `causal`: the queries are the last n tokens held, and each sees itself and
        what came before; `sliding_window` w, causal as well: no more than the last w of those. `mask`: bool, True
        where a query may look, (n, tokens), of a layer (query_heads, n, tokens) as well.
        `softcap` c: each logit becomes c tanh(logit / c). A query that sees nothing gets zeros.
        `fresh`: keys and values, shaped as for `append`, of tokens behind those held: seen exactly, counted by `causal`
        and `mask`, and not kept. What a decoder attends to before it appends.

        Scratch memory stays within `workspace_bytes` (a tile has 16 tokens at least), on which the result does not
        depend beyond float32 rounding. Equals float64 attention over `keys()` and `values()` within 1e-4;
        `accuracy="integer"` lets a backend that can (simd) compute in integers, several times faster, within 2 %.
        """
        grouped, lead = self._grouped(queries)
        count = grouped.shape[2]
        shown = (1, self.kv_heads, lead[0] if lead else 1)
        behind = checks.fresh(fresh, self._lead, (self.head_dim, self.value_dim), self._place)
        held = len(self) + (0 if behind is None else behind.keys.shape[1])
        options: dict[str, Any] = {"causal": causal, "sliding_window": sliding_window, "mask": mask, "lead": shown}
        seen = checks.view(count, held, place=self._place, **options)
        found = self._layer.attend(grouped, scale, softcap, seen, workspace_bytes, accuracy, behind)
        return found.reshape(*lead, count, self.value_dim)

    def crop(self, tokens: int) -> None:
        """Keep the first `tokens` tokens (negative: drop that many of the last ones); fewer held: nothing changes."""
        self._layer.crop(checks.kept(tokens, len(self)))

    @typed_memory
    def reorder(self, rows: ArrayLike) -> None:
        """Keep the tokens at these positions, in this order; InvalidSpec where exact and quantized ones would mix."""
        self._layer.take(checks.positions(rows, len(self), "rows"))

    @waits_once
    def _change(self, keys: ArrayLike, values: ArrayLike) -> together.Change:
        keys_in, values_in = checks.tokens(keys, values, self._lead, (self.head_dim, self.value_dim), self._place)
        return together.prepared([self._layer], [keys_in], [values_in])

    def _grouped(self, queries: ArrayLike) -> tuple[F32, tuple[int, ...]]:
        """Queries as (kv_heads, heads a key/value head, n, head_dim), and the axes before n that they came with."""
        asked = checks.queries(queries, (), len(self._lead) and self.kv_heads, self.head_dim, self._place)
        lead, count = asked.shape[:-2], asked.shape[-2]
        heads = lead[0] if lead else 1
        return asked.reshape(self.kv_heads, heads // self.kv_heads, count, self.head_dim), lead
