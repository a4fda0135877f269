"""Bundles from strangers: refused before anything is read through them, each broken rule by a test of its own."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from tq_core import CorruptData, TurboQuantError
from tq_onnx import Bundle, BundleNotFound, DecoderRunner, UnsupportedBundle
from tq_onnx.cli import main


@pytest.fixture
def no_session(monkeypatch) -> None:
    """No runtime sees the model: whatever is refused was refused before."""
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *_, **__: pytest.fail("the runtime read the model"))


def tensor_of(model: onnx.ModelProto, name: str = "embedding") -> onnx.TensorProto:
    return next(one for one in model.graph.initializer if one.name == name)


def edit(folder: Path, change: Callable[[onnx.ModelProto], None]) -> Path:
    """Change the model file of a bundle."""
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    change(model)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return folder


def externalised(folder: Path, **entries: str) -> Path:
    """The bundle with its embedding in weights.bin; `entries` as a stranger would write them."""

    def change(model: onnx.ModelProto) -> None:
        tensor = tensor_of(model)
        (folder / "weights.bin").write_bytes(tensor.raw_data)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in ({"location": "weights.bin"} | entries).items():
            entry = tensor.external_data.add()
            entry.key, entry.value = key, value

    return edit(folder, change)


def refused(folder: Path, error: type[Exception], match: str, capsys) -> None:
    """Opening raises, and both commands say it in one line with status 2."""
    with pytest.raises(error, match=match) as caught:
        Bundle.open(folder)
    assert isinstance(caught.value, TurboQuantError)
    for command in ("inspect", "evaluate"):
        assert main([command, str(folder)]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.count("\n") == 1
        assert err.startswith("tq-onnx: error: ")


@pytest.mark.usefixtures("no_session")
@pytest.mark.parametrize("name", ["model.onnx", "config.json", "tokenizer.json", "generation_config.json"])
def test_link_that_leaves_the_bundle(build, tmp_path, capsys, name: str) -> None:
    folder = build()
    secret = tmp_path / "secret"
    secret.write_text('{"secret": 1}')
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(secret)
    refused(folder, UnsupportedBundle, f"{name} is a link that leaves the bundle", capsys)


@pytest.mark.parametrize("command", ["evaluate", "capture"])
def test_text_of_the_bundle_that_is_a_link_elsewhere(build, tmp_path, capsys, command: str) -> None:
    folder = build()
    (tmp_path / "secret").write_text("w1 " * 600)
    (folder / "validation.txt").symlink_to(tmp_path / "secret")
    options = ["--output", str(tmp_path / "out")]
    assert main([command, str(folder), "--tokens", "12", "--windows", "1", "--quiet", *options]) == 2
    assert "validation.txt is a link that leaves the bundle" in capsys.readouterr().err


def test_link_inside_the_bundle_is_fine(build) -> None:
    folder = build()
    (folder / "tokenizer.json").rename(folder / "real.json")
    (folder / "tokenizer.json").symlink_to("real.json")
    assert Bundle.open(folder).encode("w5") == [5]


def hub_snapshot(folder: Path, cache: Path) -> Path:
    """The bundle as huggingface_hub keeps it: links to blobs two folders up."""
    blobs, snapshot = cache / "models--a--b" / "blobs", cache / "models--a--b" / "snapshots" / "f00d"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, path in enumerate(sorted(folder.iterdir())):
        path.rename(blobs / f"{number}")
        (snapshot / path.name).symlink_to(Path("../../blobs") / f"{number}")
    return snapshot


def test_snapshot_of_the_hub_cache_is_run_as_it_is(build, tmp_path) -> None:
    snapshot = hub_snapshot(externalised(build()), tmp_path / "hub")
    bundle = Bundle.open(snapshot)
    assert [path.name for path in bundle.external_files] == ["weights.bin"]
    assert DecoderRunner(bundle).step([[1, 2]]).shape == (1, 2, 32)


@pytest.mark.usefixtures("no_session")
def test_snapshot_with_a_link_elsewhere_is_refused(build, tmp_path, capsys) -> None:
    snapshot = hub_snapshot(externalised(build()), tmp_path / "hub")
    (tmp_path / "secret").write_bytes(bytes(4096))
    (snapshot / "weights.bin").unlink()
    (snapshot / "weights.bin").symlink_to(tmp_path / "secret")
    refused(snapshot, UnsupportedBundle, "tensor 'embedding'.*a link that leaves the bundle", capsys)


@pytest.mark.usefixtures("no_session")
def test_folder_that_calls_itself_snapshots_gains_nothing(build, tmp_path, capsys) -> None:
    folder = build()
    home = tmp_path / "snapshots"
    home.mkdir()
    (tmp_path / "blobs").mkdir()
    folder.rename(home / "tiny")
    (home / "tiny" / "config.json").rename(tmp_path / "blobs" / "config")
    (home / "tiny" / "config.json").symlink_to(tmp_path / "blobs" / "config")
    refused(home / "tiny", UnsupportedBundle, "config.json is a link that leaves the bundle", capsys)


@pytest.mark.usefixtures("no_session")
def test_external_data_outside_the_folder(build, tmp_path, capsys) -> None:
    (tmp_path / "weights.bin").write_bytes(bytes(4096))
    folder = externalised(build(), location="../weights.bin")
    refused(folder, UnsupportedBundle, "tensor 'embedding'.*climbs out", capsys)


@pytest.mark.usefixtures("no_session")
def test_external_data_at_an_address_in_memory(build, capsys) -> None:
    folder = externalised(build(), location="*/_ORT_MEM_ADDR_/*", offset="4096")
    place = folder / "*" / "_ORT_MEM_ADDR_"
    place.mkdir(parents=True)
    (place / "*").write_bytes(bytes(1 << 16))
    refused(folder, UnsupportedBundle, "tensor 'embedding'.*an address in memory", capsys)


@pytest.mark.usefixtures("no_session")
def test_external_data_cut_off(build, capsys) -> None:
    folder = externalised(build())
    os.truncate(folder / "weights.bin", 100)
    refused(folder, CorruptData, "'embedding'.*ends at byte 2048 of weights.bin, which has 100", capsys)


@pytest.mark.usefixtures("no_session")
@pytest.mark.parametrize(
    ("entries", "match"),
    [
        ({"offset": "4"}, "ends at byte 2052"),
        ({"offset": "-4"}, "has the offset '-4'.*expected a whole number"),
        ({"offset": "1e3"}, "has the offset '1e3'"),
        ({"offset": "9" * 30}, "has the offset '9999"),
        ({"length": "100"}, "has 100 bytes in weights.bin, its dims .32, 16. need 2048"),
        ({"length": "99999999999"}, "has 99999999999 bytes in weights.bin"),
    ],
)
def test_external_data_with_an_absurd_span(build, capsys, entries, match: str) -> None:
    refused(externalised(build(), **entries), CorruptData, match, capsys)


def dims(*sizes: int) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        tensor_of(model).dims[:] = sizes

    return change


def element_type(number: int) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        tensor_of(model).data_type = number

    return change


@pytest.mark.usefixtures("no_session")
@pytest.mark.parametrize(
    ("change", "match"),
    [
        (dims(1 << 40, 1 << 20), "has the dims .*, which are .* bytes; expected at most"),
        (dims(-1, 16), "has the dims .-1, 16., expected none below 0"),
        (dims(32, 17), "has 2048 bytes, its dims .32, 17. need 2176; the file is damaged"),
        (element_type(TensorProto.DOUBLE), "has 2048 bytes, its dims .32, 16. need 4096"),
        (element_type(77), "has the unknown element type 77"),
        (element_type(0), "has the unknown element type 0"),
    ],
)
def test_weights_of_absurd_dims_or_types(build, capsys, change, match: str) -> None:
    refused(edit(build(), change), CorruptData, f"tensor 'embedding' of model.onnx {match}", capsys)


@pytest.mark.usefixtures("no_session")
def test_strings_as_external_data(build, capsys) -> None:
    folder = edit(externalised(build()), element_type(TensorProto.STRING))
    refused(folder, UnsupportedBundle, "'embedding'.*has strings in external data", capsys)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.999])
def test_truncated_model(build, capsys, share: float) -> None:
    path = build() / "model.onnx"
    os.truncate(path, int(path.stat().st_size * share))
    refused(path.parent, CorruptData, r"model\.onnx", capsys)


def test_truncated_tokenizer(build, capsys) -> None:
    path = build() / "tokenizer.json"
    os.truncate(path, path.stat().st_size // 2)
    refused(path.parent, CorruptData, "tokenizer.json is not a tokenizer", capsys)


@pytest.mark.usefixtures("no_session")
def test_tokenizer_too_large_to_read(build, capsys) -> None:
    folder = build()
    os.truncate(folder / "tokenizer.json", 300 << 20)  # a hole, which takes no room
    refused(folder, CorruptData, "tokenizer.json has 314572800 bytes, more than", capsys)


@pytest.mark.usefixtures("no_session")
@pytest.mark.parametrize("name", ["model.onnx", "config.json", "tokenizer.json"])
def test_pipe_in_place_of_a_file_is_not_waited_for(build, capsys, name: str) -> None:
    folder = build()
    (folder / name).unlink()
    os.mkfifo(folder / name)
    refused(folder, BundleNotFound, f"has no {name}", capsys)


def test_pipe_in_place_of_an_optional_file_is_not_opened(build) -> None:
    folder = build()
    os.mkfifo(folder / "generation_config.json")
    assert Bundle.open(folder).end_tokens == (0,)


def declare(name: str, element: int, shape: list[object]) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        given = next(one for one in model.graph.input if one.name == name)
        given.CopyFrom(helper.make_tensor_value_info(name, element, shape))

    return change


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (declare("input_ids", TensorProto.INT64, ["b"]), "input 'input_ids'|cannot load"),
        (
            declare("past_key_values.0.key", TensorProto.FLOAT, ["b", 2, "p", 1 << 30]),
            "'past_key_values.0.key'|cannot load",
        ),
        (declare("past_key_values.0.key", TensorProto.DOUBLE, ["b", 2, "p", 8]), "'past_key_values.0.key'|cannot load"),
        (declare("attention_mask", TensorProto.STRING, ["b", "t"]), "'attention_mask'|cannot load"),
    ],
)
def test_inputs_of_wrong_dtypes_or_dims(build, capsys, change, match: str) -> None:
    refused(edit(build(), change), ValueError, match, capsys)


GENAI = {"model": {"decoder": {"filename": "model.onnx", "inputs": {}, "outputs": {}}}}


@pytest.mark.usefixtures("no_session")
@pytest.mark.parametrize("name", ["../model.onnx", "/etc/hostname", "model.txt", "a/b.onnx", 7])
def test_genai_config_that_names_a_file_elsewhere(build, capsys, name: object) -> None:
    folder = build()
    GENAI["model"]["decoder"]["filename"] = name
    (folder / "genai_config.json").write_text(json.dumps(GENAI))
    refused(folder, CorruptData, "decoder.filename must be a file name", capsys)


@pytest.mark.parametrize("size", [8, 32, 1 << 40])
def test_genai_config_with_a_wrong_head_size(tmp_path, capsys, size: int) -> None:
    homes = (parent / "fixtures" / "bundles" / "genai-llama" for parent in Path(__file__).resolve().parents)
    source = next((home for home in homes if home.is_dir()), None)
    if source is None:
        pytest.skip("fixtures/bundles is only in the repository")
    folder = Path(shutil.copytree(source, tmp_path / "copy"))
    config = json.loads((folder / "genai_config.json").read_text())
    config["model"]["decoder"]["head_size"] = size
    (folder / "genai_config.json").write_text(json.dumps(config))
    refused(folder, UnsupportedBundle, r"'past_key_values\.0\.key'.*(do not fit|the config says)", capsys)
