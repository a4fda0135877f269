"""Opening bundles: file order and variants, configs and tokenizers, and everything that is missing or broken."""

import json
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper
from tokenizers import Tokenizer, processors

from tq_core import CorruptData, InvalidSpec
from tq_onnx import Bundle, BundleNotFound, InvalidText, UnsupportedBundle


def rewrite(path: Path, **changes: object) -> None:
    """Change entries of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_facts_come_from_the_graph_and_not_from_the_config(build) -> None:
    folder = build(kv_heads=3, key_dim=12, value_dim=8, dtype="float16", numbers=(1, 4))
    rewrite(folder / "config.json", num_hidden_layers=99, num_key_value_heads=7, head_dim=64)
    facts = Bundle.open(folder).facts()
    assert (facts["layers"], facts["kv_heads"], facts["key_dim"], facts["value_dim"]) == (2, 3, 12, 8)
    assert (facts["cache_dtype"], facts["logits_dtype"], facts["vocabulary"]) == ("float16", "float32", 32)
    assert facts["optional_inputs"] == ["attention_mask", "position_ids"]
    assert facts["file"] == "model.onnx"


def test_files_are_found_in_order(write, tiny_model) -> None:
    order = ["model.onnx", "decoder_model_merged.onnx", "decoder_model.onnx"]
    order += [f"onnx/{name}" for name in order]
    for name in reversed(order):
        folder = write(tiny_model(), name)
        assert Bundle.open(folder).facts()["file"] == name


def test_variant_picks_its_file(write, tiny_model) -> None:
    write(tiny_model())
    folder = write(tiny_model(kv_heads=1), "onnx/model_q4.onnx")
    assert Bundle.open(folder, variant="q4").signature.kv_heads == 1
    assert Bundle.open(folder).signature.kv_heads == 2


def test_end_tokens_may_be_a_list_and_the_generation_config_wins(build) -> None:
    folder = build()
    (folder / "generation_config.json").write_text('{"eos_token_id": [5, 6]}')
    bundle = Bundle.open(folder)
    assert bundle.end_tokens == (5, 6)
    assert bundle.start_token == 0
    assert bundle.context == 64


def test_config_without_tokens_and_positions_is_fine(build) -> None:
    folder = build()
    (folder / "config.json").write_text("{}")
    bundle = Bundle.open(folder)
    assert (bundle.start_token, bundle.end_tokens, bundle.context) == (None, (), None)


def test_text_part_of_a_multimodal_config_is_read(build) -> None:
    folder = build()
    (folder / "config.json").write_text('{"text_config": {"max_position_embeddings": 40, "bos_token_id": 3}}')
    bundle = Bundle.open(folder)
    assert (bundle.start_token, bundle.context) == (3, 40)


def test_tokenizer_settings_of_training_are_switched_off(build, words) -> None:
    folder = build()
    truncation = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    rewrite(folder / "tokenizer.json", truncation=truncation)
    assert len(Bundle.open(folder).encode(words)) == 600


def test_special_tokens_are_not_added(build) -> None:
    folder = build()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.post_processor = processors.TemplateProcessing("w0 $A", special_tokens=[("w0", 0)])
    tokenizer.save(str(folder / "tokenizer.json"))
    assert Bundle.open(folder).encode("w5 w6") == [5, 6]


def test_sessions_are_shared_by_thread_count(build) -> None:
    bundle = Bundle.open(build(), threads=1)
    assert bundle.session() is bundle.session(1)
    assert bundle.session(2) is not bundle.session(1)


def test_missing_folder() -> None:
    with pytest.raises(BundleNotFound, match="nowhere is not a folder"):
        Bundle.open("nowhere")


def test_not_found_is_the_builtin_that_a_stranger_would_catch() -> None:
    with pytest.raises(FileNotFoundError):
        Bundle.open("nowhere")


def test_folder_without_a_model_says_what_is_there(write, tiny_model) -> None:
    folder = write(tiny_model(), "onnx/model_q4.onnx")
    with pytest.raises(BundleNotFound, match=r"no model\.onnx.*it has onnx/model_q4\.onnx"):
        Bundle.open(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_missing_required_file(build, name: str) -> None:
    folder = build()
    (folder / name).unlink()
    with pytest.raises(BundleNotFound, match=f"has no {name}"):
        Bundle.open(folder)


@pytest.mark.parametrize("variant", ["../q4", "q4/..", "", "x" * 33, "q4\n"])
def test_variant_is_no_path(build, variant: str) -> None:
    folder = build()
    if not variant:
        assert Bundle.open(folder, variant=variant).variant == ""
        return
    with pytest.raises(InvalidSpec, match="variant must be letters"):
        Bundle.open(folder, variant=variant)


@pytest.mark.parametrize("threads", [-1, 2000, True, "2"])
def test_bad_threads(build, threads: object) -> None:
    with pytest.raises(InvalidSpec, match=r"threads must lie in 0\.\.1024"):
        Bundle.open(build(), threads=threads)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("{", r"config\.json is not JSON"),
        ("[1]", "must hold a JSON object, got list"),
        ("[" * 100_000, r"config\.json is not JSON"),
        ('{"max_position_embeddings": "many"}', "must be a positive number, got 'many'"),
        ('{"bos_token_id": -1}', "bos_token_id must be a token id"),
        ('{"eos_token_id": [1, "end"]}', "eos_token_id must be a token id or a list"),
        (" " * (17 << 20), "more than the 16777216 of any real one"),
    ],
)
def test_broken_config(build, content: str, match: str) -> None:
    folder = build()
    (folder / "config.json").write_text(content)
    with pytest.raises(CorruptData, match=match):
        Bundle.open(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_kv_heads": [1, 2], "num_attention_heads": [4, 8]},
        {"head_dim": 0},
        {"hidden_size": "wide", "num_key_value_heads": -1},
        {"model_type": ["gemma3", 7]},
        {"model_type": {"of": "gemma3"}},
    ],
)
def test_config_entries_that_the_graph_overrules_are_not_believed(build, changes: dict[str, object]) -> None:
    folder = build(kv_heads=3, key_dim=12, value_dim=8)
    rewrite(folder / "config.json", **changes)
    bundle = Bundle.open(folder)
    assert (bundle.signature.kv_heads, bundle.signature.key_dim, bundle.first_position) == (3, 12, 0)


def test_config_of_other_bytes(build) -> None:
    folder = build()
    (folder / "config.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CorruptData, match=r"config\.json is not JSON"):
        Bundle.open(folder)


@pytest.mark.parametrize("content", ["", "{}", '{"model": {"type": "Nonsense"}}'])
def test_broken_tokenizer(build, content: str) -> None:
    folder = build()
    (folder / "tokenizer.json").write_text(content)
    with pytest.raises(CorruptData, match=r"tokenizer\.json is not a tokenizer"):
        Bundle.open(folder)


@pytest.mark.parametrize("content", [b"not a model", b"", b"\x08" * 100])
def test_broken_model(build, content: bytes) -> None:
    folder = build()
    (folder / "model.onnx").write_bytes(content)
    with pytest.raises(CorruptData, match=r"model\.onnx"):
        Bundle.open(folder)


def test_cut_off_model(build) -> None:
    folder = build()
    path = folder / "model.onnx"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(CorruptData, match=r"model\.onnx is not an ONNX model"):
        Bundle.open(folder)


def test_graph_that_the_runtime_refuses(write, tiny_model) -> None:
    model = tiny_model()
    model.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(CorruptData, match=r"cannot load model\.onnx: .*NoSuchOperator") as caught:
        Bundle.open(write(model))
    assert "\n" not in str(caught.value)


def test_refusals_of_the_signature_happen_on_opening(write, tiny_model) -> None:
    model = tiny_model()
    model.graph.input.append(helper.make_tensor_value_info("token_type_ids", TensorProto.INT64, ["batch", "tokens"]))
    with pytest.raises(UnsupportedBundle, match=r"input 'token_type_ids' .* is unknown"):
        Bundle.open(write(model))


def test_text_that_the_tokenizer_refuses(build) -> None:
    bundle = Bundle.open(build())
    with pytest.raises(InvalidText, match="refuses the text"):
        bundle.encode("\ud800")


def make_external(folder: Path, location: str) -> onnx.ModelProto:
    """Point the embedding of a bundle's model at external data."""
    model = onnx.load(folder / "model.onnx")
    tensor = next(one for one in model.graph.initializer if one.name == "embedding")
    data = tensor.raw_data
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", location
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    (folder / "weights.bin").write_bytes(data)
    return model


def test_external_data_inside_the_folder_is_used(build) -> None:
    folder = build()
    plain = Bundle.open(folder)
    make_external(folder, "weights.bin")
    bundle = Bundle.open(folder)
    assert bundle.external_files == (folder / "weights.bin",)
    assert plain.external_files == ()


@pytest.mark.parametrize(
    ("location", "match"),
    [
        ("/etc/hostname", "expected a relative path inside the bundle"),
        ("C:\\weights.bin", "expected a relative path inside the bundle"),
        ("sub\\weights.bin", "expected a relative path inside the bundle"),
        ("", "expected a relative path inside the bundle"),
        ("../weights.bin", r"climbs out with '\.\.'"),
        ("sub/../../weights.bin", r"climbs out with '\.\.'"),
        ("link.bin", "a link that leaves the bundle"),
        ("linked/weights.bin", "a link that leaves the bundle"),
    ],
)
def test_external_data_outside_the_folder_is_refused(build, tmp_path: Path, location: str, match: str) -> None:
    folder = build()
    make_external(folder, location)
    (tmp_path / "weights.bin").write_bytes((folder / "weights.bin").read_bytes())
    (folder / "link.bin").symlink_to(tmp_path / "weights.bin")
    (folder / "linked").symlink_to(tmp_path)
    with pytest.raises(UnsupportedBundle, match=match) as caught:
        Bundle.open(folder)
    assert "tensor 'embedding'" in str(caught.value)


def test_missing_external_data(build) -> None:
    folder = build()
    make_external(folder, "absent.bin")
    with pytest.raises(BundleNotFound, match=r"'absent\.bin', and there is no such file"):
        Bundle.open(folder)


def test_linked_model_with_external_data_is_refused(build) -> None:
    folder = build()
    elsewhere = folder / "elsewhere"
    make_external(folder, "weights.bin")
    elsewhere.mkdir()
    (folder / "model.onnx").rename(elsewhere / "model.onnx")
    (folder / "model.onnx").symlink_to(elsewhere / "model.onnx")
    with pytest.raises(UnsupportedBundle, match=r"model\.onnx is a link to another folder and has external data"):
        Bundle.open(folder)


def in_branch(model: onnx.ModelProto, tensor: TensorProto) -> None:
    node = next(one for one in model.graph.node if one.op_type == "If")
    node.attribute[0].g.initializer.append(tensor)


def in_constant(model: onnx.ModelProto, tensor: TensorProto) -> None:
    model.graph.node.append(helper.make_node("Constant", [], ["unused"], value=tensor))


def in_function(model: onnx.ModelProto, tensor: TensorProto) -> None:
    node = helper.make_node("Constant", [], ["out"], value=tensor)
    opset = [helper.make_opsetid("", 17)]
    model.functions.append(helper.make_function("local", "Hidden", [], ["out"], [node], opset))


def in_sparse_initializer(model: onnx.ModelProto, tensor: TensorProto) -> None:
    model.graph.sparse_initializer.add().values.CopyFrom(tensor)


def in_sparse_attribute(model: onnx.ModelProto, tensor: TensorProto) -> None:
    node = helper.make_node("Constant", [], ["unused"])
    attribute = node.attribute.add(name="sparse_value", type=onnx.AttributeProto.SPARSE_TENSOR)
    attribute.sparse_tensor.indices.CopyFrom(tensor)
    model.graph.node.append(node)


def in_training(model: onnx.ModelProto, tensor: TensorProto) -> None:
    model.training_info.add().algorithm.initializer.append(tensor)


PLACES = [in_branch, in_constant, in_function, in_sparse_initializer, in_sparse_attribute, in_training]


@pytest.mark.parametrize("place", PLACES)
def test_external_data_is_found_wherever_a_tensor_hides(write, tiny_model, place: Callable[..., None]) -> None:
    model = tiny_model(inputs=("attention_mask", "use_cache_branch"))
    tensor = TensorProto(name="hidden", dims=[4], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "/etc/hostname"
    place(model, tensor)
    folder = write(tiny_model())
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(UnsupportedBundle, match="'/etc/hostname'; expected a relative path"):
        Bundle.open(folder)
