"""Small randomly initialised models and prompts; nothing is downloaded."""

import pytest


def make(family, **options):
    """A model of 3 layers, 2 key/value heads and 4 query heads of 32 dims, with weights from a fixed seed."""
    import torch
    import transformers

    shared = {
        "vocab_size": 96,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "initializer_range": 0.3,  # logits far enough apart that rounding decides no token
        "max_position_embeddings": 512,
        "bos_token_id": 1,
        "eos_token_id": None,
        "pad_token_id": 0,
        "attn_implementation": "sdpa",
    }
    names = {"llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3", "mistral": "Mistral", "gemma2": "Gemma2"}
    if family in ("mistral", "gemma2"):
        options = {"sliding_window": 6, **options}
    config = getattr(transformers, f"{names[family]}Config")(**shared | options)
    torch.manual_seed(7)
    return getattr(transformers, f"{names[family]}ForCausalLM")(config).eval()


@pytest.fixture
def model_of():
    """`make`."""
    return make


@pytest.fixture
def model():
    """The small Llama."""
    return make("llama")


@pytest.fixture
def prompt():
    """`prompt(rows, tokens)`: token ids from a fixed seed, never the padding token."""
    import torch

    def ids(rows=1, tokens=9):
        return torch.randint(1, 96, (rows, tokens), generator=torch.Generator().manual_seed(3))

    return ids


@pytest.fixture
def generate():
    """`generate(model, ids, cache, tokens=24, **options)`: the sequences, as lists."""
    import torch

    def run(model, ids, cache=None, tokens=24, **options):
        options = {"do_sample": False, "attention_mask": torch.ones_like(ids)} | options
        return model.generate(ids, past_key_values=cache, max_new_tokens=tokens, **options).tolist()

    return run
