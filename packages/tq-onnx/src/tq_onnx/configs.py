"""What the JSON files of a bundle say: positions, start and end tokens, and hints for what a graph leaves open.

Configs lie or are absent, so nothing here overrules the graph.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from tq_core import CorruptData
from tq_onnx.errors import one_line
from tq_onnx.files import read_small
from tq_onnx.inputs import Hints
from tq_onnx.names import Names, names_of_genai

LARGEST_CONFIG: Final = 16 << 20  # bytes; real configs have kilobytes

# Where configs of different families put the number of positions, of heads, and of numbers in a head.
CONTEXT_KEYS: Final = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length", "context_length")
KV_HEADS_KEYS: Final = ("num_key_value_heads", "num_kv_heads", "num_attention_heads", "n_head", "num_heads")
HEADS_KEYS: Final = ("num_attention_heads", "n_head", "num_heads")
WIDTH_KEYS: Final = ("hidden_size", "n_embd", "d_model")

WINDOW_KEYS: Final = ("sliding_window", "window_size", "local_window_size", "attention_window")

# Hub exports of these that take position_ids count them from 1.
FROM_ONE: Final = ("gemma3_text", "gemma3", "paligemma")


class Configs:
    """The config files of one bundle, each checked: `main` is config.json or else genai_config.json's model."""

    def __init__(self, folder: Path) -> None:
        genai = _optional(folder, "genai_config.json")
        self.decoder = _section(_section(genai, "model"), "decoder")
        has_main = (folder / "config.json").is_file()
        self.main = read_config(folder, "config.json") if has_main else _section(genai, "model")
        generation = _optional(folder, "generation_config.json")
        sources = [generation, *_nested(self.main), _section(genai, "model")]
        starts = _token_ids(sources, "bos_token_id")
        self.start_token: int | None = starts[0] if starts else None
        self.end_tokens: tuple[int, ...] = _token_ids(sources, "eos_token_id")
        self.context = _positive([*_nested(self.main), _section(genai, "model")], CONTEXT_KEYS)
        self.windows = tuple(_windows([*_nested(self.main), self.decoder]))
        kinds = [source.get("model_type") for source in _nested(self.main)]
        self.first_position = int(any(kind in FROM_ONE for kind in kinds))

    def hints(self) -> Hints:
        """Heads, head_dim and tensor names: the genai config's, then those of the model's config."""
        sources = [*_nested(self.main)]
        names = names_of_genai(self.decoder) if self.decoder else Names()
        head_dim = _hint([self.decoder], ("head_size",)) or _hint(sources, ("head_dim",))
        if head_dim is None:
            width, heads = _hint(sources, WIDTH_KEYS), _hint(sources, HEADS_KEYS)
            head_dim = width // heads if width and heads else None
        return Hints(_hint([self.decoder, *sources], KV_HEADS_KEYS), head_dim, names)

    @property
    def file_name(self) -> str:
        """The model file that a genai config names; empty where none does."""
        name = self.decoder.get("filename", "")
        if not isinstance(name, str) or (name and not re.fullmatch(r"[\w.-]{1,200}\.onnx", name)):
            raise CorruptData(f"genai_config.json: decoder.filename must be a file name, got {name!r:.80}")
        return name


def read_config(folder: Path, name: str) -> dict[str, Any]:
    """A JSON object of the bundle, or CorruptData."""
    content = read_small(folder, name, LARGEST_CONFIG)
    try:
        data = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise CorruptData(f"{name} is not JSON: {one_line(error)}") from error
    if not isinstance(data, dict):
        raise CorruptData(f"{name} must hold a JSON object, got {type(data).__name__}")
    return data


def _optional(folder: Path, name: str) -> dict[str, Any]:
    return read_config(folder, name) if (folder / name).is_file() else {}


def _section(data: dict[str, Any], name: str) -> dict[str, Any]:
    value = data.get(name, {})
    if not isinstance(value, dict):
        raise CorruptData(f"genai_config.json: {name} must be an object, got {type(value).__name__}")
    return value


def _nested(config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The config, and the part about text that multimodal models put one level down."""
    yield config
    if isinstance(config.get("text_config"), dict):
        yield config["text_config"]


def _windows(sources: list[dict[str, Any]]) -> Iterator[int]:
    """Sizes of sliding windows that any source mentions; hints for a probe, so what is no size is passed over."""
    for source in sources:
        for key in WINDOW_KEYS:
            value = source.get(key)
            size = value.get("window_size") if isinstance(value, dict) else value
            if isinstance(size, int) and not isinstance(size, bool) and 0 < size < 1 << 20:
                yield size


def _token_ids(sources: list[dict[str, Any]], key: str) -> tuple[int, ...]:
    """Ids under `key`, one or a list, of the first source that has it."""
    for source in sources:
        value = source.get(key)
        if value is None:
            continue
        ids = value if isinstance(value, list) else [value]
        if not all(isinstance(item, int) and not isinstance(item, bool) and item >= 0 for item in ids):
            raise CorruptData(f"{key} must be a token id or a list of them, got {value!r:.80}")
        return tuple(ids)
    return ()


def _hint(sources: list[dict[str, Any]], keys: tuple[str, ...]) -> int | None:
    """As `_positive`; None for what is no one number, as where a family lists a number for each layer."""
    try:
        return _positive(sources, keys)
    except CorruptData:
        return None


def _positive(sources: list[dict[str, Any]], keys: tuple[str, ...]) -> int | None:
    """The first of `keys` in the first source that has any."""
    for source in sources:
        for key in keys:
            value = source.get(key)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise CorruptData(f"{key} must be a positive number, got {value!r:.80}")
            return value
    return None
