"""Signatures from metadata alone: what is taken, and one test for each thing that is refused by name."""

from collections.abc import Sequence

import pytest

from tq_core import CorruptData
from tq_onnx.cache_inputs import Tensor, classify
from tq_onnx.errors import UnsupportedBundle
from tq_onnx.inputs import Hints, StateTensors, read_signature
from tq_onnx.names import names_of_genai
from tq_onnx.packed import refuse_mixed_forms

IDS = Tensor("input_ids", ("batch", "tokens"), "int64")
LOGITS = Tensor("logits", ("batch", "tokens", 1024), "float32")


def past(name: str = "past_key_values.0.key", shape: Sequence[int | str | None] = ("b", 2, "p", 64), dtype="float32"):
    """A cache input that is fine unless told otherwise."""
    return Tensor(name, tuple(shape), dtype)


def present(name: str = "present.0.key", shape: Sequence[int | str | None] = ("b", 2, "t", 64), dtype="float32"):
    """The output that carries it on."""
    return Tensor(name, tuple(shape), dtype)


def layer(number: int = 0, **facts: object) -> tuple[list[Tensor], list[Tensor]]:
    """Inputs and outputs of one good layer."""
    parts = ("key", "value")
    return (
        [past(f"past_key_values.{number}.{part}", **facts) for part in parts],
        [present(f"present.{number}.{part}", **facts) for part in parts],
    )


def refused(cache: Tensor, outputs: Sequence[Tensor], match: str) -> None:
    """Reading a decoder with that cache input names the tensor and says why."""
    with pytest.raises(UnsupportedBundle, match=match) as caught:
        read_signature([IDS, cache], [LOGITS, *outputs])
    assert repr(cache.name) in str(caught.value)


def test_plain_decoder_is_read() -> None:
    inputs, outputs = layer()
    signature = read_signature([IDS, *inputs], [LOGITS, *outputs])
    assert (signature.kv_heads, signature.key_dim, signature.value_dim) == (2, 64, 64)
    assert (signature.cache_dtype, signature.logits_dtype, signature.vocabulary) == ("float32", "float32", 1024)
    assert signature.fixed_batch is None
    assert not signature.optional


def test_holes_in_layer_numbers_are_kept_and_sorted() -> None:
    (first, first_out), (second, second_out) = layer(11), layer(2)
    signature = read_signature([IDS, *first, *second], [LOGITS, *first_out, *second_out])
    assert [found.number for found in signature.layers] == [2, 11]
    assert signature.layers[1].present_value == "present.11.value"


def test_keys_of_all_layers_may_come_before_the_values() -> None:
    (first, first_out), (second, second_out) = layer(0), layer(1)
    inputs = [first[0], second[0], first[1], second[1]]
    signature = read_signature([*inputs, IDS], [*first_out, *second_out, LOGITS])
    assert signature.layers[1].past_key == "past_key_values.1.key"


def test_older_names_of_outputs_are_known() -> None:
    inputs, _ = layer()
    outputs = [present(f"present_key_values.0.{part}") for part in ("key", "value")]
    assert read_signature([IDS, *inputs], [LOGITS, *outputs]).layers[0].present_key == "present_key_values.0.key"


def test_anonymous_symbols_of_lengths_do_not_matter() -> None:
    inputs = [past(shape=(None, 2, None, 64)), past("past_key_values.0.value", ("s17", 2, "s70", 64))]
    outputs = [present(shape=(None, None, None, None)), present("present.0.value", ("s17", 2, "s99", 64))]
    assert read_signature([IDS, *inputs], [LOGITS, *outputs]).kv_heads == 2


def test_fixed_batch_is_read() -> None:
    inputs, outputs = layer(shape=(4, 2, "p", 64))
    assert read_signature([IDS, *inputs], [LOGITS, *outputs]).fixed_batch == 4


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_integer_cache_is_refused(dtype: str) -> None:
    refused(past(dtype=dtype), [present(dtype=dtype)], "already quantizes its cache")
    assert classify(past(dtype=dtype), {}).kind == "integer"


def test_rank_three_is_refused() -> None:
    refused(past(shape=("b", "p", 64)), [present()], "rank 3, expected 4")


@pytest.mark.parametrize("part", ["encoder.key", "decoder.value"])
def test_encoder_decoder_is_refused(part: str) -> None:
    refused(past(f"past_key_values.0.{part}"), [present()], "encoder-decoder")


def test_one_tensor_for_keys_and_values_is_refused() -> None:
    refused(past("past_key_values.0.key_value", ("b", "p", 128)), [present()], "keys and values together")


STATES = {
    "past_conv.3": "present_conv.3",
    "past.3.conv": "present.3.conv",
    "past_ssm.0": "present_ssm.0",
    "past_recurrent.1": "present_recurrent.1",
    "past_conv.2.query": "present_conv.2.query",
    "past_key_values.0.conv_state": "present.0.conv_state",
    "past_key_values.5.shift_state": "present_key_values.5.shift_state",
}


@pytest.mark.parametrize("name", STATES)
def test_state_of_a_hybrid_is_carried(name: str) -> None:
    inputs, outputs = layer(3)
    state, after = past(name, ("b", 192, 4), "float16"), present(STATES[name], ("b", None, 4), "float16")
    signature = read_signature([IDS, *inputs, state], [LOGITS, *outputs, after])
    assert signature.states == (StateTensors(name, STATES[name], (192, 4), "float16"),)
    assert [one.number for one in signature.layers] == [3]


def test_state_that_no_output_carries_on_is_refused() -> None:
    refused(past("past_conv.3", ("b", 192, 4)), [present("present_conv.4")], r"no output present_conv\.3 carries")


@pytest.mark.parametrize(
    ("shape", "dtype"), [(("b", 192, 5), "float32"), (("b", 192), "float32"), (("b", 192, 4), "float16")]
)
def test_state_that_changes_its_form_is_refused(shape, dtype) -> None:
    refused(past("past_conv.3", ("b", 192, 4)), [present("present_conv.3", shape, dtype)], "another dtype or shape")


@pytest.mark.parametrize("shape", [("b", 1 << 20, 1 << 20), ("b", 0, 4), ("b", -1, 4)])
def test_state_of_absurd_size_is_refused(shape) -> None:
    refused(past("past_conv.3", shape), [present("present_conv.3", shape)], r"expected 1\.\.268435456 in all")


def test_state_of_a_dtype_that_numpy_lacks_is_refused() -> None:
    refused(past("past_conv.3", ("b", 4), "bfloat16"), [present("present_conv.3", ("b", 4))], "a state of bfloat16")


def test_cache_of_fixed_length_is_refused() -> None:
    refused(past(shape=("b", 2, 1024, 64)), [present()], "no growing axis")


def test_unknown_past_is_refused() -> None:
    refused(past("past_sequence", ("b", "p")), [present()], r"not named past_key_values\.N\.key")


def test_past_without_present_is_refused() -> None:
    refused(past(), [present("present.1.key")], r"no output present\.0\.key")


@pytest.mark.parametrize("dtype", ["bfloat16", "float64", "float8e4m3fn"])
def test_other_float_dtypes_are_refused(dtype: str) -> None:
    refused(past(dtype=dtype), [present(dtype=dtype)], f"a cache of {dtype}, expected float32 or float16")


def test_open_number_of_heads_is_refused() -> None:
    refused(past(shape=("b", "h", "p", 64)), [present(shape=("b", "h", "t", 64))], "number of heads is open")


def test_open_head_dim_is_refused() -> None:
    open_dim = present(shape=("b", 2, "t", "kv_cache_dim"))
    refused(past(shape=("b", 2, "p", "kv_cache_dim")), [open_dim], "head_dim is open .axis 3. and no config says it")


def test_dims_left_open_come_from_the_output_first_and_from_configs_next() -> None:
    inputs, outputs = layer(shape=("b", "h", "p", "d"))
    outputs[0] = present(shape=("b", 3, "t", "d"))
    signature = read_signature([IDS, *inputs], [LOGITS, *outputs], Hints(kv_heads=3, head_dim=16))
    assert signature.layers[0].form == (3, 16, 16)
    assert signature.guessed == ("past_key_values.0.key", "past_key_values.0.value")
    outputs = [present(f"present.0.{part}", ("b", 4, "t", 8)) for part in ("key", "value")]
    signature = read_signature([IDS, *inputs], [LOGITS, *outputs], Hints(kv_heads=3, head_dim=16))
    assert signature.layers[0].form == (4, 8, 8)
    assert signature.guessed == ()


@pytest.mark.parametrize(
    "shape", [("b", 1 << 20, "p", 64), ("b", 2, "p", 1 << 20), ("b", 0, "p", 64), ("b", 2, "p", -8)]
)
def test_absurd_dims_are_refused(shape) -> None:
    refused(past(shape=shape), [present(shape=shape)], r"expected 1\.\.65536")


@pytest.mark.parametrize("batch", [0, -1, 1 << 30])
def test_absurd_batch_is_refused(batch: int) -> None:
    inputs, outputs = layer(shape=(batch, 2, "p", 64))
    with pytest.raises(UnsupportedBundle, match=rf"insists on a batch of {batch}, expected 1\.\.4096"):
        read_signature([IDS, *inputs], [LOGITS, *outputs])


def test_two_inputs_for_one_place_are_refused() -> None:
    inputs, outputs = layer()
    with pytest.raises(UnsupportedBundle, match=r"'past\.0\.key'.* and .* are one layer's key both"):
        read_signature([IDS, *inputs, past("past.0.key")], [LOGITS, *outputs])


def test_names_of_a_genai_config_are_followed() -> None:
    names = names_of_genai(
        {
            "inputs": {"input_ids": "tokens", "past_key_names": "k_in_%d", "past_value_names": "v_in_%d"},
            "outputs": {"logits": "scores", "present_key_names": "k_out_%d", "present_value_names": "v_out_%d"},
        }
    )
    inputs = [Tensor("tokens", ("b", "s"), "int64"), past("k_in_4"), past("v_in_4")]
    outputs = [Tensor("scores", ("b", "s", 99), "float32"), present("k_out_4"), present("v_out_4")]
    signature = read_signature(inputs, outputs, Hints(names=names))
    found = signature.layers[0]
    assert (found.number, found.past_key, found.present_value) == (4, "k_in_4", "v_out_4")
    assert (signature.ids_name, signature.logits_name, signature.vocabulary) == ("tokens", "scores", 99)


@pytest.mark.parametrize(
    ("decoder", "match"),
    [
        ({"inputs": {"past_key_names": "k_in"}}, "past_key_names must have one %d"),
        ({"inputs": {"past_key_names": "%d%d"}}, "past_key_names must have one %d"),
        ({"inputs": {"input_ids": 3}}, "input_ids must be a name, got 3"),
        ({"outputs": {"logits": "x" * 300}}, "logits must be a name"),
        ({"inputs": []}, "inputs must hold names, got list"),
    ],
)
def test_broken_names_are_refused(decoder, match: str) -> None:
    with pytest.raises(CorruptData, match=match):
        names_of_genai(decoder)


def test_present_of_another_dtype_is_refused() -> None:
    refused(past(), [present(dtype="float16")], "another dtype or rank")


def test_present_of_another_size_is_refused() -> None:
    refused(past(), [present(shape=("b", 2, "t", 32))], "differs on axis 3")


def test_present_of_window_size_is_refused() -> None:
    refused(past(), [present(shape=("b", 2, 128, 64))], "drops old tokens")


def test_key_without_value_is_refused() -> None:
    with pytest.raises(UnsupportedBundle, match=r"'past_key_values\.0\.key'.* has no value beside it for layer 0"):
        read_signature([IDS, past()], [LOGITS, present()])


def test_layers_may_differ_in_form_but_no_packed_cache_holds_them() -> None:
    (first, first_out), (second, second_out) = layer(0), layer(1, shape=("b", 4, "p", 64))
    signature = read_signature([IDS, *first, *second], [LOGITS, *first_out, *second_out])
    assert not signature.is_uniform
    assert signature.values_per_token == 2 * (2 * 64 + 4 * 64)
    with pytest.raises(UnsupportedBundle, match=r"'past_key_values\.1\.key' has 4 heads of 64 and 64 numbers.*'exact'"):
        refuse_mixed_forms(signature)


def test_layers_of_different_dtype_are_refused() -> None:
    (first, first_out), (second, second_out) = layer(0), layer(1, dtype="float16")
    with pytest.raises(UnsupportedBundle, match="differ in dtype"):
        read_signature([IDS, *first, *second], [LOGITS, *first_out, *second_out])


def test_keys_and_values_of_different_heads_are_refused() -> None:
    inputs = [past(), past("past_key_values.0.value", ("b", 4, "p", 64))]
    outputs = [present(), present("present.0.value", ("b", 4, "t", 64))]
    with pytest.raises(UnsupportedBundle, match="differ in heads"):
        read_signature([IDS, *inputs], [LOGITS, *outputs])


def test_missing_ids_are_refused() -> None:
    inputs, outputs = layer()
    with pytest.raises(UnsupportedBundle, match="no input 'input_ids'"):
        read_signature(inputs, [LOGITS, *outputs])


def test_graph_without_a_past_is_refused() -> None:
    with pytest.raises(UnsupportedBundle, match="no cache to quantize"):
        read_signature([IDS], [LOGITS])


def test_missing_logits_are_refused() -> None:
    inputs, outputs = layer()
    with pytest.raises(UnsupportedBundle, match="no output 'logits'; its outputs are 'present"):
        read_signature([IDS, *inputs], outputs)


def test_logits_of_another_rank_are_refused() -> None:
    inputs, outputs = layer()
    with pytest.raises(UnsupportedBundle, match=r"'logits' \(float32 \[batch, 1024\]\) must be"):
        read_signature([IDS, *inputs], [Tensor("logits", ("batch", 1024), "float32"), *outputs])


@pytest.mark.parametrize("name", ["inputs_embeds", "token_type_ids", "cross_states"])
def test_unknown_input_is_refused_by_name(name: str) -> None:
    inputs, outputs = layer()
    with pytest.raises(UnsupportedBundle, match=f"input '{name}' .* is unknown"):
        read_signature([IDS, Tensor(name, ("batch", "tokens"), "int64"), *inputs], [LOGITS, *outputs])


@pytest.mark.parametrize("name", ["encoder_hidden_states", "encoder_attention_mask"])
def test_input_from_an_encoder_is_refused_by_name(name: str) -> None:
    inputs, outputs = layer()
    with pytest.raises(UnsupportedBundle, match=f"input '{name}' .* comes from the encoder of a model"):
        read_signature([IDS, Tensor(name, ("batch", "tokens"), "float32"), *inputs], [LOGITS, *outputs])


@pytest.mark.parametrize(
    "tensor",
    [
        Tensor("position_ids", (3, "batch", "tokens"), "int64"),  # multimodal rotary positions
        Tensor("attention_mask", ("batch", 1, "tokens", "total"), "int64"),
        Tensor("attention_mask", ("batch", "total"), "float32"),
        Tensor("use_cache_branch", (1,), "int64"),
    ],
)
def test_known_input_of_unknown_form_is_refused(tensor: Tensor) -> None:
    inputs, outputs = layer()
    with pytest.raises(UnsupportedBundle, match=f"input '{tensor.name}' .* must have rank"):
        read_signature([IDS, tensor, *inputs], [LOGITS, *outputs])


def test_different_fixed_batches_are_refused() -> None:
    inputs, outputs = layer(shape=(4, 2, "p", 64))
    with pytest.raises(UnsupportedBundle, match="insist on different batches"):
        read_signature([Tensor("input_ids", (1, "tokens"), "int64"), *inputs], [LOGITS, *outputs])
