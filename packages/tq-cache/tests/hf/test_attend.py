"""Attention on packed codes as an attention implementation: stand-ins, masks, and what it refuses."""

import pytest

torch = pytest.importorskip("torch", reason="torch and transformers are not installed (nox session hf)")
pytest.importorskip("transformers", reason="torch and transformers are not installed (nox session hf)")

from tq_cache import DecoderCache
from tq_cache.errors import UnsupportedModel, UnsupportedTensor
from tq_cache.hf import TurboQuantCache
from tq_cache.hf.attention import packed_attention
from tq_cache.hf.packed import PackedStates

pytestmark = pytest.mark.hf


@pytest.fixture
def asked(model):
    """(module, queries, keys, values): stand-ins of a layer of 9 tokens, and 3 queries."""
    model.set_attn_implementation("turboquant")
    cache = TurboQuantCache("k=mse8,v=mse8", config=model.config)
    generator = torch.Generator().manual_seed(1)
    keys, values = cache.update(*(torch.randn(2, 2, 9, 32, generator=generator) for _ in range(2)), 0)
    return model.model.layers[0].self_attn, torch.randn(2, 4, 3, 32, generator=generator), keys, values


def test_logits_of_both_modes_agree(model_of, prompt):
    for family in ("llama", "qwen2", "qwen3", "mistral"):
        model, found = model_of(family), []
        for implementation in ("sdpa", "turboquant"):
            model.set_attn_implementation(implementation)
            cache = TurboQuantCache("k=mse3,v=mse3,sinks=1,window=4", config=model.config)
            with torch.no_grad():
                steps = [
                    model(part, past_key_values=cache).logits for part in prompt(2, 20).split([12, 5, 1, 2], dim=1)
                ]
            found.append(torch.cat(steps, dim=1))
        assert torch.allclose(*found, atol=2e-4 * found[0].abs().max().item()), family


def test_a_softcapped_model_with_sliding_layers_agrees_with_eager(model_of, prompt):
    found = []
    for implementation in ("eager", "turboquant"):
        model = model_of("gemma2", attn_implementation=implementation, query_pre_attn_scalar=32)
        assert model.config.attn_logit_softcapping == 50.0
        cache = TurboQuantCache("k=mse4,v=mse4", config=model.config)
        with torch.no_grad():
            steps = [model(part, past_key_values=cache).logits for part in prompt(2, 20).split([12, 7, 1], dim=1)]
        found.append(torch.cat(steps, dim=1))
    assert torch.allclose(*found, atol=2e-4 * found[0].abs().max().item())


def test_nothing_is_decoded_in_mode_attend(model, prompt, generate, monkeypatch):
    model.set_attn_implementation("turboquant")
    cache = TurboQuantCache("k=mse4,v=mse4", config=model.config)
    for name in ("keys", "values", "update"):
        monkeypatch.setattr(DecoderCache, name, lambda *_, name=name: pytest.fail(f"{name}() was called"))
    assert len(generate(model, prompt(), cache)[0]) == 33


def test_stand_ins_have_a_shape_and_no_numbers(asked):
    _, _, keys, values = asked
    assert isinstance(keys, PackedStates)
    assert keys.shape == values.shape == (2, 2, 9, 32)
    assert keys.dtype == torch.float32
    assert keys.device.type == "cpu"
    assert keys.size(2) == 9
    assert keys.dim() == 4
    assert "PackedStates(layer_idx=0, shape=(2, 2, 9, 32)" in repr(keys)
    for compute in (lambda: keys @ values, lambda: keys + 1, lambda: keys.transpose(1, 2), lambda: keys[0], keys.numpy):
        with pytest.raises(UnsupportedModel, match="asks for numbers of packed keys or values"):
            compute()


def test_a_model_that_reads_its_keys_is_told(model, prompt, generate):
    model.set_attn_implementation("turboquant")
    cache = TurboQuantCache("k=mse8,v=mse8", config=model.config)
    model.model.layers[1].self_attn.config = type(model.config)(**model.config.to_dict())  # goes on with eager
    model.model.layers[1].self_attn.config._attn_implementation = "eager"
    with pytest.raises(UnsupportedModel, match=r"model\.set_attn_implementation\('sdpa'\)"):
        generate(model, prompt(), cache)


def test_masks_of_both_kinds_mean_the_same(asked):
    module, query, keys, values = asked
    seen = torch.rand(2, 1, 3, 9, generator=torch.Generator().manual_seed(2)) < 0.6
    seen[..., 0] = True
    additive = torch.where(seen, 0.0, torch.finfo(torch.float32).min)
    by_bool, _ = packed_attention(module, query, keys, values, seen, scaling=0.2)
    by_float, _ = packed_attention(module, query, keys, values, additive, scaling=0.2)
    assert torch.equal(by_bool, by_float)
    assert by_bool.shape == (2, 3, 4, 32)
    decoder = keys.cache
    exact = torch.nn.functional.scaled_dot_product_attention(
        query,
        *(torch.from_numpy(held).repeat_interleave(2, dim=1) for held in (decoder.keys(0), decoder.values(0))),
        attn_mask=seen,
        scale=0.2,
    )
    assert torch.allclose(by_bool, exact.transpose(1, 2), atol=1e-5)


def test_softcap_reaches_the_scores(asked):
    module, query, keys, values = asked
    plain, _ = packed_attention(module, query, keys, values, None, scaling=1.0)
    capped, _ = packed_attention(module, query, keys, values, None, scaling=1.0, softcap=1.0)
    scores = torch.einsum("bhqd,bhkd->bhqk", query, torch.from_numpy(keys.cache.keys(0)).repeat_interleave(2, dim=1))
    hidden = torch.arange(9) > torch.arange(6, 9)[:, None]
    weights = torch.tanh(scores).masked_fill(hidden, -torch.inf).softmax(-1)
    exact = weights @ torch.from_numpy(keys.cache.values(0)).repeat_interleave(2, dim=1)
    assert torch.allclose(capped, exact.transpose(1, 2), atol=1e-5)
    assert not torch.allclose(plain, capped, atol=1e-2)


@pytest.mark.parametrize("name", ["s_aux", "position_bias", "head_mask"])
def test_biases_are_refused(name, asked):
    module, query, keys, values = asked
    with pytest.raises(UnsupportedModel, match=f"attention on packed codes has no {name}"):
        packed_attention(module, query, keys, values, None, **{name: torch.zeros(4)})


def test_dropout_is_refused(asked):
    module, query, keys, values = asked
    with pytest.raises(UnsupportedModel, match=r"has no dropout, got 0\.1; call model\.eval"):
        packed_attention(module, query, keys, values, None, dropout=0.1)


def test_a_mask_with_biases_is_refused(asked):
    module, query, keys, values = asked
    with pytest.raises(UnsupportedModel, match="a mask of 0 and -inf, and this one holds biases"):
        packed_attention(module, query, keys, values, torch.full((2, 1, 3, 9), -0.5))


def test_keys_and_values_of_two_caches_are_refused(asked):
    module, query, keys, values = asked
    other = PackedStates.of(keys.cache, 1, (2, 2, 9, 32), values)
    with pytest.raises(UnsupportedTensor, match="must come from one update of one TurboQuantCache"):
        packed_attention(module, query, keys, other, None)
