"""MultiHeadKVCache: the cache of one layer, all its key/value heads together."""

from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tq_cache import checks, together
from tq_cache.attention import WORKSPACE_BYTES
from tq_cache.policy import CachePolicy
from tq_cache.single_layer_cache import SingleLayerCache
from tq_cache.snapshot_facts import Shape

F32 = NDArray[np.float32]


class MultiHeadKVCache(SingleLayerCache):
    """Keys and values of one layer, arrays (kv_heads, tokens, head_dim), held as packed codes.

    All heads hold the same tokens, whatever fails. Queries may have more heads than there are key/value heads:
    query head h reads key/value head `h // (query_heads // kv_heads)`. Options as QuantizedKVCache; a lone layer is
    no boundary layer.
    """

    KIND = "layer"

    def __init__(
        self,
        kv_heads: int,
        head_dim: int,
        policy: CachePolicy | str,
        *,
        value_dim: int | None = None,
        seed: int = 0,
        max_tokens: int = 0,
        backend: str = "auto",
        capacity: int = 0,
    ) -> None:
        super().__init__(kv_heads, head_dim, policy, value_dim, seed, max_tokens, backend, capacity)

    @classmethod
    def _like(cls, shape: Shape, backend: str) -> Self:
        return cls(
            shape.kv_heads,
            shape.head_dim,
            shape.policy,
            value_dim=shape.value_dim,
            seed=shape.seed,
            max_tokens=shape.max_tokens,
            backend=backend,
        )

    def append(self, keys: ArrayLike, values: ArrayLike) -> range:
        """Add keys (kv_heads, n, head_dim) and values (kv_heads, n, value_dim); returns the positions just quantized.

        Errors as QuantizedKVCache.append; a failing call leaves every head untouched.
        """
        keys_in, values_in = checks.tokens(keys, values, (self.kv_heads,), (self.head_dim, self.value_dim))
        return together.append([self._layer], [keys_in], [values_in])[0]

    def keys(self, start: int = 0, stop: int | None = None) -> F32:
        """What the codes of tokens start..stop-1 decode to, (kv_heads, tokens, head_dim) float32."""
        return self._layer.keys.tokens(*checks.span(start, stop, len(self)))

    def values(self, start: int = 0, stop: int | None = None) -> F32:
        """As `keys`, (kv_heads, tokens, value_dim) float32."""
        return self._layer.values.tokens(*checks.span(start, stop, len(self)))

    def scores(self, queries: ArrayLike) -> F32:
        """Inner products of (query_heads, n, head_dim) queries with their head's keys, (query_heads, n, tokens)."""
        asked = checks.queries(queries, (), self.kv_heads, self.head_dim)
        heads, count, dim = asked.shape
        grouped = asked.reshape(self.kv_heads, heads // self.kv_heads * count, dim)
        return self._layer.keys.scores(grouped).reshape(heads, count, len(self))

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
    ) -> F32:
        """softmax(q K^T scale) V straight from packed codes, (query_heads, n, value_dim) float32.

        `scale` defaults to 1/sqrt(head_dim). `causal`: the queries are the last n tokens held, and each sees itself and
        what came before; `sliding_window` w, causal as well: no more than the last w of those. `mask`: bool, True
        where a query may look, (n, tokens) or (query_heads, n, tokens).
        `softcap` c: each logit becomes c tanh(logit / c). A query that sees nothing gets zeros.

        Scratch memory stays within `workspace_bytes` (a tile has 16 tokens at least), on which the result does not
        depend beyond float32 rounding. Equals float64 attention over `keys()` and `values()` within 1e-4;
        `accuracy="integer"` lets a backend that can (simd) compute in integers, several times faster, within 2 %.
        """
        asked = checks.queries(queries, (), self.kv_heads, self.head_dim)
        heads, count, dim = asked.shape
        lead = (1, self.kv_heads, heads)
        seen = checks.view(count, len(self), causal=causal, sliding_window=sliding_window, mask=mask, lead=lead)
        grouped = asked.reshape(self.kv_heads, heads // self.kv_heads, count, dim)
        found = self._layer.attend(grouped, scale, softcap, seen, workspace_bytes, accuracy)
        return found.reshape(heads, count, self.value_dim)

    def __repr__(self) -> str:
        shape = f"kv_heads={self.kv_heads}, head_dim={self.head_dim}"
        return f"MultiHeadKVCache({shape}, policy={str(self.policy)!r}, tokens={len(self)})"
