"""Tensors and models that a TurboQuantCache cannot serve: one broken rule, one test."""

import pytest

torch = pytest.importorskip("torch", reason="torch and transformers are not installed (nox session hf)")
transformers = pytest.importorskip("transformers", reason="torch and transformers are not installed (nox session hf)")

from tq_cache.errors import UnsupportedModel, UnsupportedTensor
from tq_cache.hf import TurboQuantCache
from tq_cache.hf.tensors import to_numpy
from tq_core import ShapeMismatch, TurboQuantError

pytestmark = pytest.mark.hf


def test_tensors_on_another_device_are_refused():
    keys = torch.zeros(1, 2, 3, 32, device="meta")  # stands for any GPU: no memory that numpy can read
    with pytest.raises(UnsupportedTensor, match=r"key_states is on meta, but codes are made and read on the CPU"):
        TurboQuantCache("k=mse4,v=mse4").update(keys, keys, 0)


def test_eight_bit_floats_are_refused():
    keys = torch.zeros(1, 2, 3, 32).to(torch.float8_e4m3fn)
    with pytest.raises(
        UnsupportedTensor, match=r"must be float16, bfloat16, float32 or float64, got torch\.float8_e4m3fn"
    ):
        TurboQuantCache("k=mse4,v=mse4").update(keys, keys, 0)


def test_arrays_are_refused():
    with pytest.raises(UnsupportedTensor, match="key_states must be a torch tensor, got list"):
        TurboQuantCache("k=mse4,v=mse4").update([1.0], torch.zeros(1), 0)


def test_other_ranks_are_refused():
    cache = TurboQuantCache("k=mse4,v=mse4")
    with pytest.raises(ShapeMismatch, match=r"keys and values are \(batch, kv_heads, n, head_dim\), got \(2, 3, 32\)"):
        cache.update(torch.zeros(2, 3, 32), torch.zeros(2, 3, 32), 0)
    assert not cache.is_initialized


def test_another_batch_is_refused():
    cache = TurboQuantCache("k=mse4,v=mse4")
    cache.update(torch.zeros(1, 2, 3, 32), torch.zeros(1, 2, 3, 32), 0)
    with pytest.raises(ShapeMismatch, match=r"keys must have shape \(1, 2, n, 32\), got \(4, 2, 3, 32\)"):
        cache.update(torch.zeros(4, 2, 3, 32), torch.zeros(4, 2, 3, 32), 0)


def test_shared_memory_is_not_copied():
    tensor = torch.arange(6, dtype=torch.float16)
    assert to_numpy(tensor, "x").__array_interface__["data"][0] == tensor.data_ptr()


def test_what_is_no_config_is_refused():
    with pytest.raises(UnsupportedModel, match=r"config must be a model's config, e\.g\. model\.config, got dict"):
        TurboQuantCache("k=mse4,v=mse4", config={})


def test_encoder_decoders_are_refused():
    with pytest.raises(UnsupportedModel, match="t5 is an encoder-decoder"):
        TurboQuantCache("k=mse4,v=mse4", config=transformers.T5Config())


def test_layers_with_another_state_are_refused():
    config = transformers.Qwen3NextConfig(num_hidden_layers=4)
    with pytest.raises(UnsupportedModel, match="layer 0 of qwen3_next is 'linear_attention'"):
        TurboQuantCache("k=mse4,v=mse4", config=config)


def test_shared_layers_are_refused():
    config = transformers.Gemma3nTextConfig(num_kv_shared_layers=10)
    with pytest.raises(UnsupportedModel, match="layers of gemma3n_text share keys and values"):
        TurboQuantCache("k=mse4,v=mse4", config=config)


def test_layers_of_different_forms_are_refused(model):
    with pytest.raises(UnsupportedModel, match=r"layers of different head_dim: \[32, 64, 32\]"):
        TurboQuantCache(config=model.config).early_initialization(1, 2, [32, 64, 32])


def test_errors_are_one_family():
    assert issubclass(UnsupportedModel, TurboQuantError)
    assert issubclass(UnsupportedModel, ValueError)
    assert issubclass(UnsupportedTensor, TurboQuantError)
    assert issubclass(UnsupportedTensor, TypeError)
