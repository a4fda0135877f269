"""What transformers and its users expect of a Cache, method by method."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch and transformers are not installed (nox session hf)")
pytest.importorskip("transformers", reason="torch and transformers are not installed (nox session hf)")

from transformers import Cache

from tq_cache import DecoderCache, PolicyMismatch
from tq_cache.hf import TurboQuantCache
from tq_cache.hf.cache import CROP_COUNTS_REMOVED
from tq_core import NotFinite, ShapeMismatch

pytestmark = pytest.mark.hf
POLICY = "k=mse4,v=mse3"


def states(batch=2, tokens=5, seed=0, dtype=torch.float32, heads=2, dim=32):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(batch, heads, tokens, dim, generator=generator).to(dtype) for _ in range(2))


def filled(layers=3, tokens=5, policy=POLICY, batch=2):
    cache = TurboQuantCache(policy)
    for layer in range(layers):
        cache.update(*states(batch, tokens, seed=layer), layer)
    return cache


def codes(cache, layer=0):
    return [
        (array.view.copy(), name)
        for row in cache.decoder._rows
        for side in row[layer].sides()
        for name, array in side.coded.items()
    ]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_update_returns_all_tokens_in_the_dtype_that_came_in(dtype):
    cache = TurboQuantCache(POLICY)
    cache.update(*states(tokens=5, dtype=dtype), 0)
    keys, values = cache.update(*states(tokens=2, seed=1, dtype=dtype), 0, {"cache_position": torch.arange(5, 7)})
    assert keys.dtype == values.dtype == dtype
    assert keys.shape == values.shape == (2, 2, 7, 32)
    expected = torch.from_numpy(cache.decoder.keys(0)).to(dtype)
    assert torch.equal(keys, expected)
    first, _ = states(tokens=5, dtype=dtype)
    error = (keys[:, :, :5].double() - first.double()).square().mean() / first.double().square().mean()
    assert 0 < error < 0.02  # 4 bits


def test_a_step_leaves_the_codes_of_old_tokens_as_they_are(monkeypatch):
    cache = filled(policy="k=mse4,v=mse3,window=3", tokens=9)
    before = codes(cache)
    counted = []
    for side in cache.decoder._rows[0][0].sides():
        encode = side.codec.encode
        monkeypatch.setattr(
            side.codec, "encode", lambda rows, encode=encode: (counted.append(len(rows)), encode(rows))[1]
        )
    cache.update(*states(tokens=1, seed=9), 0)
    assert counted == [4, 4]  # one token of 2 rows and 2 heads leaves the window, on either side
    for (old, name), (new, _) in zip(before, codes(cache), strict=True):
        assert new.shape[1] == old.shape[1] + 1, name
        assert np.array_equal(new[:, : old.shape[1]], old), name


def test_float_caches_are_not_kept():
    cache = filled(layers=1, tokens=400)
    exact = 2 * 2 * 2 * 400 * 32 * 2  # sides, rows, heads, tokens, dims, bytes
    assert cache.nbytes - cache.ledger().tables < 0.3 * exact
    held = [value for value in vars(cache).values() if isinstance(value, torch.Tensor)]
    assert not held
    assert cache.layers == []


def test_lengths_and_masks_take_both_forms():
    cache = filled(layers=2, tokens=5)
    assert isinstance(cache, Cache)
    assert cache.get_seq_length() == cache.get_seq_length(1) == 5
    assert cache.get_seq_length(7) == 0
    assert cache.get_mask_sizes(3, 0) == cache.get_mask_sizes(torch.arange(5, 8), 0) == (8, 0)
    assert cache.get_max_cache_shape() == cache.get_max_length() == -1
    assert not cache.is_compileable
    assert cache.is_initialized
    assert cache.batch_size == 2
    assert len(cache) == 2
    assert cache.is_sliding == cache.is_linear == cache.is_dummy == [False, False]


def test_an_empty_cache_answers():
    cache = TurboQuantCache(POLICY)
    assert cache.get_seq_length() == 0
    assert cache.get_mask_sizes(4, 0) == (4, 0)
    assert not cache.is_initialized
    assert cache.batch_size == -1
    assert cache.nbytes == 0
    assert len(cache) == 0
    cache.crop(-1), cache.reorder_cache(torch.tensor([0])), cache.batch_repeat_interleave(2), cache.reset()
    assert cache.decoder is None


def test_crop_drops_negative_numbers_and_keeps_positive_ones():
    cache = filled(tokens=9)
    cache.crop(-2)
    assert [cache.get_seq_length(layer) for layer in range(3)] == [7, 7, 7]
    cache.crop(100)
    assert cache.get_seq_length() == 7
    cache.crop(4)
    assert cache.get_seq_length() == 4
    cache.crop(0)
    assert cache.get_seq_length() == (4 if CROP_COUNTS_REMOVED else 0)


def test_crop_and_update_again_gives_what_was_never_cropped():
    cropped, straight = filled(tokens=6), filled(tokens=6)
    cropped.update(*states(tokens=3, seed=5), 0)
    cropped.crop(6)
    for cache in (cropped, straight):
        for layer in range(3):
            cache.update(*states(tokens=2, seed=8), layer)
    for (a, name), (b, _) in zip(codes(cropped), codes(straight), strict=True):
        assert np.array_equal(a, b), name


def test_heads_of_their_own_and_key_means_work_as_in_the_cache_behind():
    policy = "k=mse4,v=mse3,kmean=4,head1.k=mse8"
    cache, plain = TurboQuantCache(policy), DecoderCache(1, 2, 32, policy, batch=2)
    for step, tokens in enumerate((3, 4)):
        new = list(states(2, tokens, seed=step))
        keys, values = cache.update(*new, 0)
        plain.append(new[0].numpy(), new[1].numpy(), 0)
    assert np.array_equal(keys.numpy(), plain.keys(0))
    assert np.array_equal(values.numpy(), plain.values(0))
    assert not np.array_equal(keys.numpy()[:, :, :3], next(states(2, 3)).numpy())


def test_only_a_window_and_what_is_learned_make_a_crop_leave_traces():
    assert filled().is_croppable
    assert not filled(policy="k=mse4,v=mse4,kmean=4").is_croppable
    assert not filled(policy="k=mse4,v=mse4,window=4").is_croppable


def test_rows_are_reordered_repeated_and_selected_as_tensors_are():
    cache = filled(layers=2, batch=3)
    keys = torch.from_numpy(cache.decoder.keys(1))
    cache.reorder_cache(torch.tensor([2, 0, 0]))
    keys = keys[[2, 0, 0]]
    assert np.array_equal(cache.decoder.keys(1), keys.numpy())
    cache.batch_repeat_interleave(2)
    keys = keys.repeat_interleave(2, dim=0)
    assert np.array_equal(cache.decoder.keys(1), keys.numpy())
    assert cache.batch_size == 6
    cache.batch_select_indices(torch.tensor([5, 1]))
    assert np.array_equal(cache.decoder.keys(1), keys[[5, 1]].numpy())
    assert cache.batch_size == 2
    with pytest.raises(ShapeMismatch, match="reorder names a row for each of 2, got 3"):
        cache.reorder_cache(torch.tensor([0, 1, 1]))


def test_reset_forgets_the_batch_too():
    cache = filled()
    cache.reset()
    assert cache.get_seq_length() == 0
    assert not cache.is_initialized
    cache.update(*states(batch=5), 0)
    assert cache.batch_size == 5


def test_early_initialization_makes_the_cache(model):
    cache = TurboQuantCache("balanced", config=model.config)
    cache.early_initialization(4, [2, 2, 2], [32, 32, 32], torch.float32, torch.device("cpu"))
    assert cache.is_initialized
    assert cache.batch_size == 4
    assert cache.get_seq_length() == 0
    assert cache.decoder.layers == 3


def test_layers_without_a_config_come_as_they_are_met():
    cache = filled(layers=4)
    assert cache.decoder.layers == 4
    assert [cache.get_seq_length(layer) for layer in range(4)] == [5, 5, 5, 5]

    known = DecoderCache(4, 2, 32, POLICY, batch=2)
    for layer in range(4):
        known.append(*(tensor.numpy() for tensor in states(seed=layer)), layer)
    assert all(np.array_equal(known.keys(layer), cache.decoder.keys(layer)) for layer in range(4))
    with pytest.raises(PolicyMismatch, match="has options for single layers, so none can be added"):
        DecoderCache(4, 2, 32, "k=mse4,v=mse4,boundary=1@8").add_layer()


def test_values_may_have_another_dim():
    cache = TurboQuantCache(POLICY)
    keys, values = cache.update(torch.randn(1, 2, 3, 48), torch.randn(1, 2, 3, 32), 0)
    assert keys.shape == (1, 2, 3, 48)
    assert values.shape == (1, 2, 3, 32)


def test_a_policy_is_resolved_against_the_models_layers(model_of):
    eight = model_of("llama", num_hidden_layers=8).config
    assert str(TurboQuantCache(config=eight).policy) == "k=mse4,v=mse4,sinks=4,window=128,boundary=1@8"
    with pytest.raises(PolicyMismatch, match="16 layers, but the model has 8"):
        TurboQuantCache("k=mse4,v=mse4,boundary=8@8", config=eight)
    with pytest.raises(PolicyMismatch, match=r"the number of layers is not known; pass config=model\.config"):
        TurboQuantCache()


def test_a_bad_token_leaves_the_layer_as_it_was():
    cache = filled()
    keys, values = states(tokens=1)
    keys[0, 1, 0, 3] = torch.nan
    with pytest.raises(NotFinite, match=r"keys\[0, 1, 0, 3\] is nan"):
        cache.update(keys, values, 0)
    assert cache.get_seq_length() == 5
