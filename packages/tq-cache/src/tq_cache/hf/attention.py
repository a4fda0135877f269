"""The attention implementation "turboquant" of transformers: softmax(q K^T) V straight from a cache's packed codes."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tq_cache.errors import MissingDependency, UnsupportedModel, UnsupportedTensor
from tq_cache.hf.packed import PackedStates
from tq_cache.hf.tensors import to_numpy, to_torch

try:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
except ImportError as error:
    raise MissingDependency(
        f"tq_cache.hf needs transformers 4.57 or later, and it is missing or older ({error}); install tq-cache[hf]"
    ) from error

IMPLEMENTATION: Final = "turboquant"
# what an attention function may be asked to do beyond softmax(q K^T) V, and packed attention does not
_UNKNOWN: Final = ("s_aux", "position_bias", "head_mask")


def packed_attention(
    module: Any,
    query: Any,
    key: Any,
    value: Any,
    attention_mask: Any,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Any, None]:
    """(batch, n, query_heads, value_dim) in the queries' dtype, as every attention function of transformers returns it.

    Keys and values of a TurboQuantCache are never decoded. Float ones, of a model that runs without such a cache, go
    to transformers' own `sdpa`. Raises UnsupportedModel for what packed attention cannot do: dropout, biases.
    """
    if not isinstance(key, PackedStates):
        options = {**kwargs, "dropout": dropout, "scaling": scaling, "is_causal": is_causal}
        if softcap is not None:
            options["softcap"] = softcap
        found: tuple[Any, None] = ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, attention_mask, **options)
        return found
    for name in _UNKNOWN:
        if kwargs.get(name) is not None:
            raise UnsupportedModel(f"attention on packed codes has no {name}; set_attn_implementation('eager') has")
    if dropout:
        raise UnsupportedModel(f"attention on packed codes has no dropout, got {dropout}; call model.eval()")
    if not isinstance(value, PackedStates) or value.layer_idx != key.layer_idx or value.cache is not key.cache:
        raise UnsupportedTensor("keys and values must come from one update of one TurboQuantCache")
    count = query.shape[2]
    if is_causal is None:
        is_causal = getattr(module, "is_causal", True)
    out = key.cache.attend(
        to_numpy(query, "query"),
        key.layer_idx,
        scale=scaling,
        causal=bool(is_causal) and attention_mask is None and count > 1,
        mask=None if attention_mask is None else visible(attention_mask, key.shape[2]),
        softcap=softcap,
    )
    return to_torch(out.transpose(0, 2, 1, 3), query), None


def visible(attention_mask: Any, tokens: int) -> NDArray[np.bool_]:
    """A mask of transformers as True where a query may look, (batch or 1, heads or 1, n, tokens).

    Additive masks must say yes or no, 0 or at most -1e4 (what half precision uses for minus infinity): UnsupportedModel
    for a bias.
    """
    mask = to_numpy(attention_mask, "attention_mask")[..., :tokens]
    if mask.dtype == np.bool_:
        return mask
    seen: NDArray[np.bool_] = mask == 0
    if not (seen | (mask <= -1e4)).all():
        raise UnsupportedModel("attention on packed codes takes a mask of 0 and -inf, and this one holds biases")
    return seen


AttentionInterface.register(IMPLEMENTATION, packed_attention)
AttentionMaskInterface.register(IMPLEMENTATION, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])  # bool masks, None where causal
