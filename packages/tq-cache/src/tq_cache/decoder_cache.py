"""DecoderCache: the cache of a whole model, with the update convention of transformers."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tq_cache import checks
from tq_cache.attention import WORKSPACE_BYTES
from tq_cache.head_cache import kept
from tq_cache.layer import Layer, codecs_for
from tq_cache.ledger import Ledger, ledger_of
from tq_cache.policy import CachePolicy

F32 = NDArray[np.float32]


class DecoderCache:
    """Keys and values of all layers, arrays (batch, kv_heads, tokens, head_dim), held as packed codes.

    `policy` is resolved against the model: `.policy` is what is followed and printed, and PolicyMismatch is raised
    for what this model cannot have. Layers share rotations and codebooks. Options as QuantizedKVCache.
    """

    def __init__(
        self,
        layers: int,
        kv_heads: int,
        head_dim: int,
        policy: CachePolicy | str,
        *,
        batch: int = 1,
        value_dim: int | None = None,
        seed: int = 0,
        max_tokens: int = 0,
        backend: str = "auto",
        capacity: int = 0,
    ) -> None:
        self.layers = checks.whole(layers, 1, "layers")
        self.kv_heads = checks.whole(kv_heads, 1, "kv_heads")
        self.head_dim = checks.dimension(head_dim, "head_dim")
        self.value_dim = self.head_dim if value_dim is None else checks.dimension(value_dim, "value_dim")
        self.batch = checks.whole(batch, 1, "batch")
        self.policy = CachePolicy.parse(policy).resolve(self.layers)
        self.max_tokens = checks.whole(max_tokens, 0, "max_tokens")
        dims = (self.head_dim, self.value_dim)
        room = checks.whole(capacity, 0, "capacity")
        policies = [self.policy.for_layer(index, self.layers) for index in range(self.layers)]
        codecs = codecs_for(policies, dims, seed, backend)
        lanes = self.batch * self.kv_heads
        self._layers = [Layer(lanes, dims, policy, codecs, self.max_tokens, room) for policy in policies]

    def __len__(self) -> int:
        """Tokens held by the first layer; during a step, later layers may hold fewer."""
        return len(self._layers[0])

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens held by that layer."""
        return len(self._layer(layer_idx))

    def append(self, keys: ArrayLike, values: ArrayLike, layer_idx: int) -> range:
        """Add (batch, kv_heads, n, head_dim) keys and values to one layer; returns the positions just quantized.

        Errors as QuantizedKVCache.append; a failing call leaves the cache as it was.
        """
        layer = self._layer(layer_idx)
        lead = (self.batch, self.kv_heads)
        return layer.append(*checks.tokens(keys, values, lead, (self.head_dim, self.value_dim)))

    def update(
        self, key_states: ArrayLike, value_states: ArrayLike, layer_idx: int
    ) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        """Append, then return all keys and values of the layer as the codes decode to, in the dtype that came in.

        Shapes (batch, kv_heads, tokens, head_dim). Costs O(tokens) a call; `append` and `scores` do not.
        """
        self.append(key_states, value_states, layer_idx)
        found = []
        for given, held in ((key_states, self.keys(layer_idx)), (value_states, self.values(layer_idx))):
            dtype = np.asarray(given).dtype
            found.append(held.astype(dtype.newbyteorder("="), copy=False))
        return found[0], found[1]

    def keys(self, layer_idx: int, start: int = 0, stop: int | None = None) -> F32:
        """What the codes of tokens start..stop-1 decode to, (batch, kv_heads, tokens, head_dim) float32."""
        layer = self._layer(layer_idx)
        return self._shaped(layer.keys.tokens(*checks.span(start, stop, len(layer))))

    def values(self, layer_idx: int, start: int = 0, stop: int | None = None) -> F32:
        """As `keys`, (batch, kv_heads, tokens, value_dim) float32."""
        layer = self._layer(layer_idx)
        return self._shaped(layer.values.tokens(*checks.span(start, stop, len(layer))))

    def scores(self, queries: ArrayLike, layer_idx: int) -> F32:
        """Inner products of (batch, query_heads, n, head_dim) queries with keys, (batch, query_heads, n, tokens)."""
        layer = self._layer(layer_idx)
        asked = checks.queries(queries, (self.batch,), self.kv_heads, self.head_dim)
        _, heads, count, dim = asked.shape
        grouped = asked.reshape(self.batch * self.kv_heads, heads // self.kv_heads * count, dim)
        return layer.keys.scores(grouped).reshape(self.batch, heads, count, len(layer))

    def attend(
        self,
        queries: ArrayLike,
        layer_idx: int,
        *,
        scale: float | None = None,
        causal: bool = False,
        mask: ArrayLike | None = None,
        softcap: float | None = None,
        sliding_window: int = 0,
        workspace_bytes: int = WORKSPACE_BYTES,
    ) -> F32:
        """softmax(q K^T scale) V straight from packed codes, (batch, query_heads, n, value_dim) float32.

        `scale` defaults to 1/sqrt(head_dim). `causal`: the queries are the last n tokens held, and each sees itself and
        what came before; `sliding_window` w, causal as well: no more than the last w of those. `mask`: bool, True
        where a query may look, (n, tokens), (query_heads, n, tokens) or those with batch before.
        `softcap` c: each logit becomes c tanh(logit / c). A query that sees nothing gets zeros.

        Scratch memory stays within `workspace_bytes` (a tile has 16 tokens at least), on which the result does not
        depend beyond float32 rounding. Equals float64 attention over `keys()` and `values()` within 1e-4.
        """
        layer = self._layer(layer_idx)
        asked = checks.queries(queries, (self.batch,), self.kv_heads, self.head_dim)
        _, heads, count, dim = asked.shape
        lead = (self.batch, self.kv_heads, heads)
        seen = checks.view(count, len(layer), causal=causal, sliding_window=sliding_window, mask=mask, lead=lead)
        grouped = asked.reshape(layer.lanes, heads // self.kv_heads, count, dim)
        found = layer.attend(grouped, scale, softcap, seen, workspace_bytes)
        return found.reshape(self.batch, heads, count, self.value_dim)

    def crop(self, tokens: int) -> None:
        """Keep the first `tokens` tokens of every layer (negative: drop that many of the last ones)."""
        keep = kept(tokens, len(self))
        for layer in self._layers:
            layer.crop(keep)

    def clear(self) -> None:
        """Forget all tokens and give their memory back."""
        for layer in self._layers:
            layer.clear()

    def ledger(self) -> Ledger:
        """Every byte held, tables shared by layers counted once."""
        return ledger_of(side for layer in self._layers for side in (layer.keys, layer.values))

    @property
    def nbytes(self) -> int:
        """`ledger().total`."""
        return self.ledger().total

    def _layer(self, layer_idx: int) -> Layer:
        return self._layers[checks.layer_index(layer_idx, self.layers)]

    def _shaped(self, lanes: F32) -> F32:
        return lanes.reshape(self.batch, self.kv_heads, *lanes.shape[1:])

    def __repr__(self) -> str:
        shape = f"layers={self.layers}, kv_heads={self.kv_heads}, head_dim={self.head_dim}, batch={self.batch}"
        return f"DecoderCache({shape}, policy={str(self.policy)!r}, tokens={len(self)})"
