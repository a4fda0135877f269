"""QuantizedKVCache: the cache of one attention head."""

from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tq_cache import checks, together
from tq_cache.attention import WORKSPACE_BYTES
from tq_cache.policy import CachePolicy
from tq_cache.single_layer_cache import SingleLayerCache
from tq_cache.snapshot_facts import Shape

F32 = NDArray[np.float32]


class QuantizedKVCache(SingleLayerCache):
    """Keys and values of one head, arrays (tokens, head_dim), held as packed codes.

    `policy`: a CachePolicy or its string; a lone head is no boundary layer, so `boundary` does not apply and
    `.policy` is printed without it. `value_dim` where values are of another width. `max_tokens`: the oldest tokens
    beyond that many are evicted, sinks among them; 0 = no limit. `capacity`: tokens to make room for at once.
    One thread at a time.
    """

    KIND = "head"

    def __init__(
        self,
        head_dim: int,
        policy: CachePolicy | str,
        *,
        value_dim: int | None = None,
        seed: int = 0,
        max_tokens: int = 0,
        backend: str = "auto",
        capacity: int = 0,
    ) -> None:
        super().__init__(1, head_dim, policy, value_dim, seed, max_tokens, backend, capacity)

    @classmethod
    def _like(cls, shape: Shape, backend: str) -> Self:
        return cls(
            shape.head_dim,
            shape.policy,
            value_dim=shape.value_dim,
            seed=shape.seed,
            max_tokens=shape.max_tokens,
            backend=backend,
        )

    def append(self, keys: ArrayLike, values: ArrayLike) -> range:
        """Add keys (n, head_dim) and values (n, value_dim), float16/32/64; returns the positions just quantized.

        Tokens within the window stay exact and are quantized by the later call that moves them out of it. Raises
        ShapeMismatch, InvalidDtype, NotFinite or ScaleRange and then leaves the cache as it was.
        """
        keys_in, values_in = checks.tokens(keys, values, (), (self.head_dim, self.value_dim))
        return together.append([self._layer], [keys_in], [values_in])[0]

    def keys(self, start: int = 0, stop: int | None = None) -> F32:
        """What the codes of tokens start..stop-1 decode to, (tokens, head_dim) float32; exact tokens as they came."""
        rows: F32 = self._layer.keys.tokens(*checks.span(start, stop, len(self)))[0]
        return rows

    def values(self, start: int = 0, stop: int | None = None) -> F32:
        """As `keys`, (tokens, value_dim) float32."""
        rows: F32 = self._layer.values.tokens(*checks.span(start, stop, len(self)))[0]
        return rows

    def scores(self, queries: ArrayLike) -> F32:
        """Inner products of queries (n, head_dim) with all keys, (n, tokens) float32, from packed codes; no softmax."""
        found: F32 = self._layer.keys.scores(checks.queries(queries, (), 0, self.head_dim)[None])[0]
        return found

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
        """softmax(q K^T scale) V straight from packed codes, (n, value_dim) float32.

        `scale` defaults to 1/sqrt(head_dim). `causal`: the queries are the last n tokens held, and each sees itself and
        what came before; `sliding_window` w, causal as well: no more than the last w of those. `mask`: bool, True
        where a query may look, (n, tokens).
        `softcap` c: each logit becomes c tanh(logit / c). A query that sees nothing gets zeros.

        Scratch memory stays within `workspace_bytes` (a tile has 16 tokens at least), on which the result does not
        depend beyond float32 rounding. Equals float64 attention over `keys()` and `values()` within 1e-4;
        `accuracy="integer"` lets a backend that can (simd) compute in integers, several times faster, within 2 %.
        """
        asked = checks.queries(queries, (), 0, self.head_dim)
        seen = checks.view(
            len(asked), len(self), causal=causal, sliding_window=sliding_window, mask=mask, lead=(1, 1, 1)
        )
        found: F32 = self._layer.attend(asked[None, None], scale, softcap, seen, workspace_bytes, accuracy)[0, 0]
        return found

    def __repr__(self) -> str:
        return f"QuantizedKVCache(head_dim={self.head_dim}, policy={str(self.policy)!r}, tokens={len(self)})"
