"""Signatures from metadata alone: what is taken, and one test for each thing that is refused by name."""

from collections.abc import Sequence

import pytest

from tq_onnx.errors import UnsupportedBundle
from tq_onnx.inputs import Tensor, classify, read_signature

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


@pytest.mark.parametrize("name", ["past_conv.3", "past_ssm.0", "past_recurrent.1", "past_key_values.0.conv_state"])
def test_state_of_a_hybrid_is_refused(name: str) -> None:
    refused(past(name, ("b", 192, 4)), [present("present_conv.3")], "fixed size, as hybrid")
    assert classify(past(name, ("b", 192, 4)), {}).kind == "state"


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
    refused(past(shape=("b", "h", "p", 64)), [present()], "number of heads is open")


def test_open_head_dim_is_refused() -> None:
    refused(past(shape=("b", 2, "p", "kv_cache_dim")), [present()], "head_dim is open")


def test_present_of_another_dtype_is_refused() -> None:
    refused(past(), [present(dtype="float16")], "another dtype or rank")


def test_present_of_another_size_is_refused() -> None:
    refused(past(), [present(shape=("b", 2, "t", 32))], "differs on axis 3")


def test_present_of_window_size_is_refused() -> None:
    refused(past(), [present(shape=("b", 2, 128, 64))], "drops old tokens")


def test_key_without_value_is_refused() -> None:
    with pytest.raises(UnsupportedBundle, match=r"'past_key_values\.0\.key'.* has no value beside it for layer 0"):
        read_signature([IDS, past()], [LOGITS, present()])


def test_layers_of_different_form_are_refused() -> None:
    (first, first_out), (second, second_out) = layer(0), layer(1, shape=("b", 4, "p", 64))
    with pytest.raises(UnsupportedBundle, match=r"'past_key_values\.1\.key'.* differs from input 'past_key_values\.0"):
        read_signature([IDS, *first, *second], [LOGITS, *first_out, *second_out])


def test_keys_and_values_of_different_heads_are_refused() -> None:
    inputs = [past(), past("past_key_values.0.value", ("b", 4, "p", 64))]
    outputs = [present(), present("present.0.value", ("b", 4, "t", 64))]
    with pytest.raises(UnsupportedBundle, match="differ in heads or dtype"):
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


@pytest.mark.parametrize("name", ["inputs_embeds", "token_type_ids", "encoder_hidden_states"])
def test_unknown_input_is_refused_by_name(name: str) -> None:
    inputs, outputs = layer()
    with pytest.raises(UnsupportedBundle, match=f"input '{name}' .* is unknown"):
        read_signature([IDS, Tensor(name, ("batch", "tokens"), "int64"), *inputs], [LOGITS, *outputs])


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
