"""MultiHeadKVCache: the cache of one layer, all its key/value heads together."""

from copy import copy

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tq_cache import checks, together
from tq_cache.attention import WORKSPACE_BYTES
from tq_cache.head_cache import kept
from tq_cache.layer import Layer, codecs_for
from tq_cache.ledger import Ledger, ledger_of
from tq_cache.policy import CachePolicy

F32 = NDArray[np.float32]


class MultiHeadKVCache:
    """Keys and values of one layer, arrays (kv_heads, tokens, head_dim), held as packed codes.

    All heads hold the same tokens, whatever fails. Queries may have more heads than there are key/value heads:
    query head h reads key/value head `h // (query_heads // kv_heads)`. Options as QuantizedKVCache; a lone layer is
    no boundary layer.
    """

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
        self.kv_heads = checks.whole(kv_heads, 1, "kv_heads")
        self.head_dim = checks.dimension(head_dim, "head_dim")
        self.value_dim = self.head_dim if value_dim is None else checks.dimension(value_dim, "value_dim")
        self.policy = CachePolicy.parse(policy).inner()
        self.max_tokens = checks.whole(max_tokens, 0, "max_tokens")
        dims = (self.head_dim, self.value_dim)
        room = checks.whole(capacity, 0, "capacity")
        codecs = codecs_for([self.policy], dims, seed, backend)
        self._layer = Layer(self.kv_heads, dims, self.policy, codecs, self.max_tokens, room)

    def __len__(self) -> int:
        return len(self._layer)

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
    ) -> F32:
        """softmax(q K^T scale) V straight from packed codes, (query_heads, n, value_dim) float32.

        `scale` defaults to 1/sqrt(head_dim). `causal`: the queries are the last n tokens held, and each sees itself and
        what came before; `sliding_window` w, causal as well: no more than the last w of those. `mask`: bool, True
        where a query may look, (n, tokens) or (query_heads, n, tokens).
        `softcap` c: each logit becomes c tanh(logit / c). A query that sees nothing gets zeros.

        Scratch memory stays within `workspace_bytes` (a tile has 16 tokens at least), on which the result does not
        depend beyond float32 rounding. Equals float64 attention over `keys()` and `values()` within 1e-4.
        """
        asked = checks.queries(queries, (), self.kv_heads, self.head_dim)
        heads, count, dim = asked.shape
        lead = (1, self.kv_heads, heads)
        seen = checks.view(count, len(self), causal=causal, sliding_window=sliding_window, mask=mask, lead=lead)
        grouped = asked.reshape(self.kv_heads, heads // self.kv_heads, count, dim)
        found = self._layer.attend(grouped, scale, softcap, seen, workspace_bytes)
        return found.reshape(heads, count, self.value_dim)

    def crop(self, tokens: int) -> None:
        """Keep the first `tokens` tokens (negative: drop that many of the last ones); fewer held: nothing changes."""
        self._layer.crop(kept(tokens, len(self)))

    def reorder(self, rows: ArrayLike) -> None:
        """Keep the tokens at these positions, in this order; InvalidSpec where exact and quantized ones would mix."""
        self._layer.take(checks.positions(rows, len(self), "rows"))

    def fork(self) -> "MultiHeadKVCache":
        """The same tokens in a cache of its own; memory is shared until either of them grows."""
        twin = copy(self)
        twin._layer = self._layer.fork()
        return twin

    def clear(self) -> None:
        """Forget all tokens and give their memory back."""
        self._layer.clear()

    def ledger(self) -> Ledger:
        """Every byte held."""
        return ledger_of((self._layer.keys, self._layer.values))

    @property
    def nbytes(self) -> int:
        """`ledger().total`."""
        return self.ledger().total

    def __repr__(self) -> str:
        shape = f"kv_heads={self.kv_heads}, head_dim={self.head_dim}"
        return f"MultiHeadKVCache({shape}, policy={str(self.policy)!r}, tokens={len(self)})"
