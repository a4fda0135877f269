"""A folder with an exported decoder, its tokenizer and its configs; every refusal happens when it is opened."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import onnxruntime  # type: ignore[import-untyped]
from tokenizers import Tokenizer

from tq_core import CorruptData, InvalidSpec
from tq_onnx.errors import BundleNotFound, InvalidText, UnsupportedBundle, one_line
from tq_onnx.external_data import external_files
from tq_onnx.inputs import Signature, Tensor, read_signature

STEMS: Final = ("model", "decoder_model_merged", "decoder_model")
FOLDERS: Final = ("", "onnx")
LARGEST_CONFIG: Final = 16 << 20  # bytes; real configs have kilobytes

# Where configs of different families put the number of positions.
CONTEXT_KEYS: Final = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length")

# numpy's name of each element type that a session reports and that this package reads or refuses by name.
DTYPES: Final = {"float": "float32", "double": "float64"}


class Bundle:
    """An opened bundle: checked files, the graph's signature, the tokenizer, and a session to run.

    `start_token` (None where the configs name none) opens every measured window, `end_tokens` end generation,
    `context` is the largest number of positions (None where the configs name none).
    """

    def __init__(self, folder: Path, model_path: Path, variant: str, threads: int) -> None:
        self.folder, self.model_path, self.variant = folder, model_path, variant
        self.config = _read_config(folder / "config.json")
        generation_path = folder / "generation_config.json"
        generation = _read_config(generation_path) if generation_path.exists() else {}
        starts = _token_ids(generation, self.config, "bos_token_id")
        self.start_token: int | None = starts[0] if starts else None
        self.end_tokens: tuple[int, ...] = _token_ids(generation, self.config, "eos_token_id")
        self.context: int | None = _context(self.config)
        self.tokenizer = _read_tokenizer(folder / "tokenizer.json")
        self.external_files = external_files(model_path, folder)
        self.threads = threads
        self._sessions: dict[int, onnxruntime.InferenceSession] = {}
        session = self.session()
        self.signature: Signature = read_signature(_tensors(session.get_inputs()), _tensors(session.get_outputs()))

    @classmethod
    def open(cls, folder: str | Path, *, variant: str = "", threads: int = 0) -> "Bundle":
        """The bundle in `folder`, or a typed error that names what is missing, broken or unsupported.

        `variant` picks `model_<variant>.onnx` and the like; `threads` is what the runtime uses in an operator, 0 for
        its own choice.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise BundleNotFound(f"{folder} is not a folder; pass the folder that holds model.onnx")
        if variant and not re.fullmatch(r"[A-Za-z0-9_]{1,32}", variant):
            raise InvalidSpec(f"variant must be letters, digits and underscores, such as q4 or fp16, got {variant!r}")
        if isinstance(threads, bool) or not isinstance(threads, int) or not 0 <= threads <= 1024:
            raise InvalidSpec(f"threads must lie in 0..1024 (0 lets the runtime choose), got {threads!r}")
        model_path = _find_model(folder, variant)
        for name in ("config.json", "tokenizer.json"):
            if not (folder / name).is_file():
                if name == "config.json" and (folder / "genai_config.json").is_file():
                    raise UnsupportedBundle(
                        f"{folder} has genai_config.json and no config.json: bundles of the onnxruntime-genai builder "
                        "are not read; export the model with optimum"
                    )
                raise BundleNotFound(f"{folder} has no {name}, which a bundle must have; copy it from the model")
        return cls(folder, model_path, variant, threads)

    def session(self, threads: int | None = None) -> onnxruntime.InferenceSession:
        """A session on the CPU with that many threads an operator; made once and shared by all who ask for it."""
        wanted = self.threads if threads is None else threads
        if wanted not in self._sessions:
            self._sessions[wanted] = _open_session(self.model_path, wanted)
        return self._sessions[wanted]

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, with no special tokens added and nothing cut off or padded."""
        try:
            ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        except Exception as error:  # the tokenizer raises bare Exception
            raise InvalidText(f"the tokenizer of {self.folder.name} refuses the text: {one_line(error)}") from error
        return ids

    def facts(self) -> dict[str, Any]:
        """What was read from the graph and the configs, as plain data for reports; no path but the file's own name."""
        signature = self.signature
        return {
            "name": self.folder.resolve().name,
            "file": self.model_path.relative_to(self.folder).as_posix(),
            "file_bytes": self.model_path.stat().st_size,
            "layers": len(signature.layers),
            "kv_heads": signature.kv_heads,
            "key_dim": signature.key_dim,
            "value_dim": signature.value_dim,
            "cache_dtype": signature.cache_dtype,
            "logits_dtype": signature.logits_dtype,
            "vocabulary": signature.vocabulary,
            "context": self.context,
            "optional_inputs": sorted(signature.optional),
        }


def _find_model(folder: Path, variant: str) -> Path:
    suffix = f"_{variant}" if variant else ""
    names = [f"{stem}{suffix}.onnx" for stem in STEMS]
    for place in FOLDERS:
        for name in names:
            if (folder / place / name).is_file():
                return folder / place / name
    found = [
        path.relative_to(folder).as_posix() for place in FOLDERS for path in sorted((folder / place).glob("*.onnx"))
    ]
    there = f"it has {', '.join(found)}, which `variant` may pick" if found else "it has no .onnx file"
    raise BundleNotFound(f"{folder} has no {', '.join(names)}, at its root or under onnx/; {there}")


def _open_session(model_path: Path, threads: int) -> onnxruntime.InferenceSession:
    """A session from the path: from bytes, relative external data would not be found."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # fatal; whatever else it has to say comes as an exception
    options.intra_op_num_threads = threads
    # Spinning threads burn the cores that quantize between two steps.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(str(model_path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's errors share no base class
        if type(error).__name__ == "NotImplemented":
            raise UnsupportedBundle(f"the runtime cannot run {model_path.name}: {one_line(error)}") from error
        raise CorruptData(f"the runtime cannot load {model_path.name}: {one_line(error)}") from error


def _tensors(nodes: list[Any]) -> list[Tensor]:
    return [Tensor(node.name, tuple(node.shape), _dtype(node.type)) for node in nodes]


def _dtype(declared: str) -> str:
    """`tensor(float)` as numpy would say it; a sequence or map stays as it is and matches nothing."""
    match = re.fullmatch(r"tensor\((\w+)\)", declared)
    return DTYPES.get(match[1], match[1]) if match else declared


def _read_config(path: Path) -> dict[str, Any]:
    """A JSON object, or CorruptData."""
    if path.stat().st_size > LARGEST_CONFIG:
        raise CorruptData(f"{path.name} has {path.stat().st_size} bytes, more than the {LARGEST_CONFIG} of any config")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CorruptData(f"{path.name} is not JSON: {one_line(error)}") from error
    if not isinstance(data, dict):
        raise CorruptData(f"{path.name} must hold a JSON object, got {type(data).__name__}")
    return data


def _read_tokenizer(path: Path) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except Exception as error:  # the tokenizer raises bare Exception
        raise CorruptData(f"tokenizer.json is not a tokenizer: {one_line(error)}") from error
    # A file may carry the settings of its training, which would cut or pad every text without a word.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _nested(config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The config, and the part about text that multimodal models put one level down."""
    yield config
    if isinstance(config.get("text_config"), dict):
        yield config["text_config"]


def _token_ids(generation: dict[str, Any], config: dict[str, Any], key: str) -> tuple[int, ...]:
    """Ids under `key`, one or a list, the generation config before the model's."""
    for source in (generation, *_nested(config)):
        value = source.get(key)
        if value is None:
            continue
        ids = value if isinstance(value, list) else [value]
        if not all(isinstance(item, int) and not isinstance(item, bool) and item >= 0 for item in ids):
            raise CorruptData(f"{key} must be a token id or a list of them, got {value!r}")
        return tuple(ids)
    return ()


def _context(config: dict[str, Any]) -> int | None:
    for source in _nested(config):
        for key in CONTEXT_KEYS:
            value = source.get(key)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise CorruptData(f"{key} must be a positive number, got {value!r}")
            return value
    return None
