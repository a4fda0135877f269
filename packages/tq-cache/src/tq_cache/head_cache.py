"""QuantizedKVCache: the cache of one attention head."""

from tq_cache.policy import CachePolicy
from tq_cache.single_layer_cache import SingleLayerCache


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
        )

    def __repr__(self) -> str:
        return f"QuantizedKVCache(head_dim={self.head_dim}, policy={str(self.policy)!r}, tokens={len(self)})"
