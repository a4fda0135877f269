"""QuantizedKVCache: the cache of one attention head."""

from numpy.typing import ArrayLike

from tq_cache.policy import CachePolicy
from tq_cache.single_layer_cache import SingleLayerCache


class QuantizedKVCache(SingleLayerCache):
    """Keys and values of one head, arrays (tokens, head_dim), held as packed codes.

    `policy`: a CachePolicy or its string; a lone head is no boundary layer and has no number, so `boundary` and options
    of layers and heads do not apply and `.policy` is printed without them. `value_dim` where values are of another
    width. `max_tokens`: the oldest tokens beyond that many are evicted, sinks among them; 0 = no limit. `capacity`:
    tokens to make room for at once. `key_means` (head_dim,): for `kmean=given`, what to take from all keys.
    `key_energies`, `value_energies` (dim,): for `ksplit=given` and `vsplit=given`, mean squares of the channels, by
    which split stores choose. One thread at a time.
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
        key_means: ArrayLike | None = None,
        key_energies: ArrayLike | None = None,
        value_energies: ArrayLike | None = None,
    ) -> None:
        super().__init__(
            policy,
            layers=1,
            batch=1,
            kv_heads=1,
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
        return f"QuantizedKVCache(head_dim={self.head_dim}, policy={str(self.policy)!r}, tokens={len(self)})"
