"""generate() of transformers with a quantized cache: greedy, sampled, beams, assisted, padded, in both modes."""

import pytest

torch = pytest.importorskip("torch", reason="torch and transformers are not installed (nox session hf)")
pytest.importorskip("transformers", reason="torch and transformers are not installed (nox session hf)")

from tq_cache.hf import TurboQuantCache

pytestmark = pytest.mark.hf
EXACT = "k=float32,v=float32"
FINE = "k=mse8,v=mse8"
FAMILIES = ("llama", "qwen2", "qwen3", "mistral")


def _agreement(first, second):
    """How many leading tokens of the first row are equal."""
    same = [a == b for a, b in zip(first[0], second[0], strict=True)]
    return same.index(False) if False in same else len(same)


def _cache(model, mode, policy=EXACT, **options):
    if mode == "attend":
        model.set_attn_implementation("turboquant")
    cache = TurboQuantCache(policy, config=model.config, **options)
    assert cache.mode == mode
    return cache


@pytest.mark.parametrize("mode", ["reconstruct", "attend"])
@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_with_exact_stores_is_greedy_token_for_token(family, mode, model_of, prompt, generate):
    model, ids = model_of(family), prompt()
    expected = generate(model, ids)
    assert len(set(expected[0])) > 5  # a model that repeats one token would agree with anything
    cache = _cache(model, mode)
    assert generate(model, ids, cache) == expected
    assert cache.get_seq_length() == ids.shape[1] + 23
    assert cache.is_initialized


@pytest.mark.parametrize("mode", ["reconstruct", "attend"])
def test_eight_bits_part_from_greedy_late_and_at_a_near_tie(mode, model_of, prompt, generate):
    model, ids = model_of("llama", initializer_range=0.12), prompt(rows=4, tokens=30)
    expected = torch.tensor(generate(model, ids, tokens=30))
    with torch.no_grad():
        logits = model(expected[:, :-1]).logits
        coded = model(expected[:, :-1], past_key_values=_cache(model, mode, FINE)).logits
    assert (coded - logits).norm() < 0.02 * logits.norm()
    best = logits.topk(2, dim=-1).values
    margins = (best[..., 0] - best[..., 1]) / logits.std(dim=-1)
    found = torch.tensor(generate(model, ids, _cache(model, mode, FINE), tokens=30))
    agreed = 0
    for row in range(4):
        differs = (found[row] != expected[row]).nonzero().flatten().tolist()
        agreed += (differs[0] if differs else 60) - 30
        if differs:
            assert margins[row, differs[0] - 1] < 0.05  # untrained weights: the two best are often this close
    assert agreed >= 80  # of 120


@pytest.mark.parametrize(
    ("family", "policy"),
    [
        ("llama", "k=mse4,v=mse4"),
        ("qwen2", "balanced"),
        ("qwen3", "k=mse4,v=mse3,sinks=2,window=5"),
        ("mistral", "k=mse3,v=mse2"),
    ],
)
def test_both_modes_give_the_same_tokens(family, policy, model_of, prompt, generate):
    model, ids = model_of(family), prompt(rows=2, tokens=12)
    found = [generate(model, ids, _cache(model, mode, policy)) for mode in ("reconstruct", "attend")]
    assert found[0] == found[1]


def test_sampling_with_a_seed_gives_the_same_tokens(model, prompt, generate):
    ids, found = prompt(rows=3), []
    for cache in (None, _cache(model, "reconstruct"), _cache(model, "attend")):
        torch.manual_seed(11)
        found.append(generate(model, ids, cache, do_sample=True, temperature=0.7, top_k=20))
    assert found[0] == found[1] == found[2]
    assert len({tuple(row) for row in found[0]}) == 3


@pytest.mark.parametrize("mode", ["reconstruct", "attend"])
def test_beams_follow_their_own_tokens(mode, model, prompt, generate):
    ids = prompt(rows=2)
    options = {"num_beams": 4, "num_return_sequences": 3, "length_penalty": 0.0}
    expected = generate(model, ids, tokens=16, **options)
    assert len({tuple(row) for row in expected}) == 6
    cache = _cache(model, mode)
    assert generate(model, ids, cache, tokens=16, **options) == expected
    assert cache.batch_size == 8


@pytest.mark.parametrize("mode", ["reconstruct", "attend"])
def test_assisted_generation_rolls_back_what_it_rejects(mode, model, model_of, prompt, generate):
    ids = prompt()
    expected = generate(model, ids)
    assistant = model_of("llama", num_hidden_layers=1)
    crops = []
    cache = _cache(model, mode)
    crop, cache.crop = cache.crop, lambda tokens: (crops.append(tokens), crop(tokens))
    assert generate(model, ids, cache, assistant_model=assistant) == expected
    assert any(crops)


def test_assisted_generation_on_codes_gives_what_plain_generation_on_codes_gives(model, prompt, generate):
    ids = prompt()
    ids = torch.cat([ids, ids], dim=1)  # something to look up
    options = {"eos_token_id": 0}  # 4.57 looks drafts through for it and takes no None
    plain = generate(model, ids, _cache(model, "reconstruct", "k=mse4,v=mse4"), **options)
    cache = _cache(model, "reconstruct", "k=mse4,v=mse4")
    assert generate(model, ids, cache, prompt_lookup_num_tokens=3, **options) == plain


@pytest.mark.parametrize("mode", ["reconstruct", "attend"])
@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_left_padding_is_not_looked_at(family, mode, model_of, prompt, generate):
    model, ids = model_of(family), prompt(rows=2, tokens=11)
    mask = torch.ones_like(ids)
    ids[1, :4], mask[1, :4] = 0, 0
    padded = generate(model, ids, attention_mask=mask)
    alone = generate(model, ids[1:, 4:])
    assert padded[1][4:] == alone[0]  # what the model does without our cache
    assert generate(model, ids, _cache(model, mode), attention_mask=mask) == padded
    coarse = "k=mse4,v=mse4"
    found = generate(model, ids, _cache(model, mode, coarse), attention_mask=mask)
    assert found[1][4:] == generate(model, ids[1:, 4:], _cache(model, mode, coarse))[0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models_run_in_both_modes(dtype, model_of, prompt, generate):
    model, ids = model_of("llama").to(dtype), prompt()
    assert generate(model, ids, _cache(model, "reconstruct"), tokens=12) == generate(model, ids, tokens=12)
    logits = []
    for mode in ("reconstruct", "attend"):
        with torch.no_grad():
            logits.append(model(ids, past_key_values=_cache(model, mode)).logits)
    assert logits[0].dtype == logits[1].dtype == dtype
    # packed attention rounds once at its end, torch's in its middle too
    assert torch.allclose(*logits, atol=8 * torch.finfo(dtype).eps * logits[0].abs().max().item())


def test_a_chat_goes_on_from_its_cache(model, prompt, generate):
    ids = prompt()
    cache = _cache(model, "attend", FINE)
    first = torch.tensor(generate(model, ids, cache, tokens=6))
    longer = torch.cat([first, prompt(tokens=4)], dim=1)
    found = generate(model, longer, cache, tokens=6)
    assert found == generate(model, longer, _cache(model, "attend", FINE), tokens=6)


def test_a_prompt_is_shared_by_copies(model, prompt, generate):
    from copy import deepcopy

    ids = prompt()
    cache = _cache(model, "attend", FINE)
    with torch.no_grad():
        model(ids[:, :-1], past_key_values=cache)
    found = [generate(model, ids, deepcopy(cache)) for _ in range(2)]
    assert found[0] == found[1] == generate(model, ids, cache.fork())
    assert cache.get_seq_length() == ids.shape[1] - 1


def test_turboquant_attention_without_our_cache_is_sdpa(model, prompt, generate):
    ids = prompt()
    expected = generate(model, ids)
    model.set_attn_implementation("turboquant")
    assert generate(model, ids) == expected
