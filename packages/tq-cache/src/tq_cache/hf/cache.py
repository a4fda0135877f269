"""TurboQuantCache: the conventions of transformers' `Cache`, over a DecoderCache."""

import inspect
from copy import copy
from typing import Any, Final

from transformers import Cache

from tq_cache.decoder_cache import DecoderCache
from tq_cache.errors import PolicyMismatch, UnsupportedModel
from tq_cache.hf.attention import IMPLEMENTATION
from tq_cache.hf.models import check_model
from tq_cache.hf.packed import PackedStates
from tq_cache.hf.tensors import to_numpy, to_torch
from tq_cache.ledger import Ledger, ledger_of
from tq_cache.policy import CachePolicy
from tq_core import ShapeMismatch

# Older versions crop to a length, of which 0 leaves nothing; newer ones pass tokens to remove as a negative number, and
# their assisted generation counts on 0 removing none. The parameter's name in the installed version decides.
CROP_COUNTS_REMOVED: Final = "tokens_to_remove" in inspect.signature(Cache.crop).parameters


class TurboQuantCache(Cache):  # type: ignore[misc] # transformers is optional and untyped here
    """Hand it to `generate(past_key_values=...)` or to a model's forward: keys and values are held as packed codes.

    `policy` is resolved against the layers of `config`, the model's own `model.config`; without a config, policies
    with options for single layers are refused. Batch, heads and dims are those of the first tensors. CPU tensors,
    float16, bfloat16, float32, float64; no gradient passes through. Sliding-window layers keep all tokens and are
    masked.

    `mode` says what happens at each step, by the model's attention implementation:
    "reconstruct" (any): `update` returns all keys and values decoded, O(tokens) a layer and a step, held no longer
    than the layer runs; "attend" (`model.set_attn_implementation("turboquant")` and a config): nothing is decoded.
    """

    def __init__(
        self,
        policy: CachePolicy | str = "balanced",
        *,
        config: Any = None,
        seed: int = 0,
        backend: str = "auto",
    ) -> None:
        super().__init__(layers=[])
        self._config = None if config is None else check_model(config)
        asked = CachePolicy.parse(policy)
        if self._config is None and asked != asked.inner():
            raise PolicyMismatch(
                f"{asked} has options for single layers, and without a config the number of layers is not known; "
                "pass config=model.config"
            )
        self._count = 0 if self._config is None else int(self._config.num_hidden_layers)
        self.policy = asked.resolve(self._count) if self._count else asked
        self.seed, self.backend = seed, backend
        self._decoder: DecoderCache | None = None

    @property
    def mode(self) -> str:
        """ "attend" or "reconstruct": what `update` does now."""
        implementation = getattr(self._config, "_attn_implementation", None)
        return "attend" if implementation == IMPLEMENTATION else "reconstruct"

    @property
    def decoder(self) -> DecoderCache | None:
        """The cache behind, for `save`, `keys` and the like; None before the first tensors."""
        return self._decoder

    def update(
        self, key_states: Any, value_states: Any, layer_idx: int, *_args: Any, **_kwargs: Any
    ) -> tuple[Any, Any]:
        """Append (batch, kv_heads, n, head_dim); returns what the attention function is to be given, all tokens of it.

        Tensors of the dtype that came in, or stand-ins for them in mode "attend". Quantizes new tokens alone.
        """
        keys, values = to_numpy(key_states, "key_states"), to_numpy(value_states, "value_states")
        decoder = self._ready(keys.shape, values.shape, layer_idx)
        if self.mode == "reconstruct":
            held_keys, held_values = decoder.update(keys, values, layer_idx)
            return to_torch(held_keys, key_states), to_torch(held_values, value_states)
        decoder.append(keys, values, layer_idx)
        shape = (decoder.batch, decoder.kv_heads, decoder.get_seq_length(layer_idx))
        return (
            PackedStates.of(decoder, layer_idx, (*shape, decoder.head_dim), key_states),
            PackedStates.of(decoder, layer_idx, (*shape, decoder.value_dim), value_states),
        )

    def _ready(self, keys: tuple[int, ...], values: tuple[int, ...], layer_idx: int) -> DecoderCache:
        """The cache behind, made for the first tensors; without a config it grows by the layers it meets."""
        if self._decoder is None:
            if len(keys) != 4 or len(values) != 4:
                raise ShapeMismatch(f"keys and values are (batch, kv_heads, n, head_dim), got {keys} and {values}")
            self._decoder = DecoderCache(
                self._count or 1,
                keys[1],
                keys[3],
                self.policy,
                batch=keys[0],
                value_dim=values[3],
                seed=self.seed,
                backend=self.backend,
            )
        if not self._count and layer_idx == self._decoder.layers:
            self._decoder.add_layer()
        return self._decoder

    def early_initialization(self, batch_size: int, num_heads: Any, head_dim: Any, *_args: Any, **_kwargs: Any) -> None:
        """Make the cache now instead of for the first tensors; all layers alike."""
        heads, dim = (
            number if isinstance(number, int) else _only(number, name)
            for number, name in ((num_heads, "num_heads"), (head_dim, "head_dim"))
        )
        self._ready((batch_size, heads, 0, dim), (batch_size, heads, 0, dim), 0)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens held in that layer."""
        if self._decoder is None or layer_idx >= self._decoder.layers:
            return 0
        return self._decoder.get_seq_length(layer_idx)

    def get_mask_sizes(self, query_length: Any, layer_idx: int) -> tuple[int, int]:
        """(tokens after the next update, position of the first), for a number of queries or their positions (4.x)."""
        coming = query_length if isinstance(query_length, int) else int(query_length.shape[0])
        return self.get_seq_length(layer_idx) + coming, 0

    def get_max_length(self, layer_idx: int | None = None) -> int:
        """-1: no limit."""
        return -1

    def get_max_cache_shape(self, layer_idx: int = 0) -> int:
        """-1: no limit."""
        return -1

    def crop(self, max_length: int) -> None:
        """Negative: drop that many tokens. Positive: keep that many. 0 as the installed transformers reads it.

        What was quantized stays quantized: with a window, tokens before the crop do not become exact again.
        """
        if self._decoder is not None and (max_length or not CROP_COUNTS_REMOVED):
            self._decoder.crop(max_length)

    def reorder_cache(self, beam_idx: Any) -> None:
        """Beam search: row i becomes what row `beam_idx[i]` was, on packed codes."""
        if self._decoder is not None:
            self._decoder.reorder(to_numpy(beam_idx, "beam_idx"))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Each row `repeats` times, one after the other."""
        if self._decoder is not None:
            self._decoder.repeat(repeats)

    def batch_select_indices(self, indices: Any) -> None:
        """Keep these rows of the batch, in this order."""
        if self._decoder is not None:
            self._decoder.select(to_numpy(indices, "indices"))

    def reset(self) -> None:
        """Forget all tokens and give their memory back; the next tensors may have another batch."""
        self._decoder = None

    def fork(self) -> "TurboQuantCache":
        """The same tokens in a cache of its own, without a copy: a shared prompt for several continuations."""
        twin = copy(self)
        twin._decoder = None if self._decoder is None else self._decoder.fork()
        return twin

    def __deepcopy__(self, memo: dict[int, Any]) -> "TurboQuantCache":
        return self.fork()

    def offload(self, layer_idx: int, only_non_sliding: bool = True) -> None:
        """Nothing to do: codes are in the memory of the CPU."""

    def prefetch(self, layer_idx: int, only_non_sliding: bool = True) -> None:
        """Nothing to do, as for `offload`."""

    def ledger(self) -> Ledger:
        """Every byte held."""
        return ledger_of(()) if self._decoder is None else self._decoder.ledger()

    @property
    def nbytes(self) -> int:
        """`ledger().total`."""
        return self.ledger().total

    @property
    def batch_size(self) -> int:
        """Rows of the batch; -1 before the first tensors."""
        return -1 if self._decoder is None else self._decoder.batch

    @property
    def is_compileable(self) -> bool:
        """False: codes are made outside torch."""
        return False

    @property
    def is_initialized(self) -> bool:
        """Whether the first tensors have come."""
        return self._decoder is not None

    @property
    def is_croppable(self) -> bool:
        """Whether `crop` leaves no trace: what left the window stays quantized, what was learned stays learned."""
        layers = max(1, self._count)
        return not self.policy.learns and not any(
            self.policy.for_layer(layer, layers).window for layer in range(layers)
        )

    @property
    def is_sliding(self) -> list[bool]:
        """False for each layer: none forgets tokens."""
        return [False] * len(self)

    @property
    def is_linear(self) -> list[bool]:
        """False for each layer."""
        return [False] * len(self)

    @property
    def is_dummy(self) -> list[bool]:
        """False for each layer."""
        return [False] * len(self)

    def __len__(self) -> int:
        return self._count or (0 if self._decoder is None else self._decoder.layers)

    def __repr__(self) -> str:
        return f"TurboQuantCache(policy={str(self.policy)!r}, mode={self.mode!r}, tokens={self.get_seq_length()})"


def _only(numbers: Any, name: str) -> int:
    """The one value that all layers share."""
    if len(set(numbers)) != 1:
        raise UnsupportedModel(f"layers of different {name}: {list(numbers)}; one cache has layers of one form")
    return int(numbers[0])
