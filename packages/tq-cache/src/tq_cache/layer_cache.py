"""MultiHeadKVCache: the cache of one layer, all its key/value heads together."""

from numpy.typing import ArrayLike

from tq_cache.policy import CachePolicy
from tq_cache.single_layer_cache import SingleLayerCache


class MultiHeadKVCache(SingleLayerCache):
    """Keys and values of one layer, arrays (kv_heads, tokens, head_dim), held as packed codes.

    All heads hold the same tokens, whatever fails. Queries may have more heads than there are key/value heads:
    query head h reads key/value head `h // (query_heads // kv_heads)`. Options as QuantizedKVCache, what is
    given (kv_heads, dim); a lone layer is no boundary layer, and its heads may have options of their own.
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
        key_means: ArrayLike | None = None,
        key_energies: ArrayLike | None = None,
        value_energies: ArrayLike | None = None,
    ) -> None:
        super().__init__(
            policy,
            layers=1,
            batch=1,
            kv_heads=kv_heads,
            head_dim=head_dim,
            value_dim=value_dim,
            seed=seed,
            max_tokens=max_tokens,
            backend=backend,
            capacity=capacity,
            key_means=key_means,
            key_energies=key_energies,
            value_energies=value_energies,
        )

    def __repr__(self) -> str:
        shape = f"kv_heads={self.kv_heads}, head_dim={self.head_dim}"
        return f"MultiHeadKVCache({shape}, policy={str(self.policy)!r}, tokens={len(self)})"
