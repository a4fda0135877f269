"""Which models a TurboQuantCache can serve, said before the first token rather than found out by a wrong one."""

from typing import Any, Final

from tq_cache.errors import UnsupportedModel

# layers whose whole state is keys and values; sliding and chunked ones differ in their masks alone
ATTENTION: Final = ("full_attention", "sliding_attention", "chunked_attention")


def check_model(config: Any) -> Any:
    """The decoder's config in `config`; UnsupportedModel where its state is more than keys and values of its own."""
    if not hasattr(config, "get_text_config"):
        raise UnsupportedModel(f"config must be a model's config, e.g. model.config, got {type(config).__name__}")
    decoder = config.get_text_config(decoder=True)
    if getattr(config, "is_encoder_decoder", False):
        raise UnsupportedModel(f"{_name(config)} is an encoder-decoder; decoder-only models are supported")
    if not isinstance(getattr(decoder, "num_hidden_layers", None), int) or decoder.num_hidden_layers < 1:
        raise UnsupportedModel(f"{_name(config)} does not say its number of layers (num_hidden_layers)")
    for index, kind in enumerate(getattr(decoder, "layer_types", None) or ()):
        if kind not in ATTENTION:
            raise UnsupportedModel(
                f"layer {index} of {_name(config)} is {kind!r}, whose state is no keys and values; "
                f"layers of these kinds are supported: {', '.join(ATTENTION)}"
            )
    if getattr(decoder, "num_kv_shared_layers", 0) or getattr(decoder, "kv_sharing_modes", None):
        raise UnsupportedModel(f"layers of {_name(config)} share keys and values; each layer must have its own")
    return decoder


def _name(config: Any) -> str:
    return str(getattr(config, "model_type", "") or type(config).__name__)
