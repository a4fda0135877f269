"""A folder with an exported decoder, its tokenizer and its configs; every refusal happens when it is opened."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import onnxruntime  # type: ignore[import-untyped]
from tokenizers import Tokenizer

from tq_core import CorruptData, InvalidSpec
from tq_onnx.configs import Configs
from tq_onnx.errors import BundleNotFound, InvalidText, UnsupportedBundle, one_line
from tq_onnx.external_data import ModelFile, check_model, whole_model
from tq_onnx.feeds import StepInputs
from tq_onnx.files import find_model, read_small
from tq_onnx.inputs import Signature, read_signature
from tq_onnx.sessions import declared, open_session, prove
from tq_onnx.surgery.fused_graph import FusedGraph
from tq_onnx.surgery.subject import Subject

LARGEST_TOKENIZER: Final = 256 << 20  # bytes; those of the largest vocabularies have some 30 MB


class Bundle:
    """An opened bundle: checked files, the graph's signature, the tokenizer, and a session to run.

    `start_token` (None where the configs name none) opens every measured window, `end_tokens` end generation,
    `context` is the largest number of positions (None where the configs name none), `first_position` what the first
    token's position is called, `windows` the sizes of sliding windows that configs mention.
    """

    def __init__(self, folder: Path, variant: str, threads: int) -> None:
        self.folder, self.variant, self.threads = folder, variant, threads
        configs = Configs(folder)
        self.model_path = find_model(folder, variant, configs.file_name)
        self.config = configs.main
        self.start_token, self.end_tokens = configs.start_token, configs.end_tokens
        self.context, self.first_position = configs.context, configs.first_position
        self.windows = configs.windows
        self.tokenizer = _read_tokenizer(folder)
        self.file: ModelFile = check_model(self.model_path, folder)
        for name in self.file.evicted:
            raise UnsupportedBundle(f"input {name!r} cannot be compressed: its operator drops old tokens itself")
        self._sessions: dict[int, onnxruntime.InferenceSession] = {}
        self._fused: dict[int, FusedGraph] = {}
        session = self.session()
        self.signature: Signature = read_signature(
            declared(session.get_inputs()), declared(session.get_outputs()), configs.hints()
        )
        if self.signature.guessed:
            prove(session, self.signature)

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
        has_genai = (folder / "genai_config.json").is_file()
        if not has_genai:
            find_model(folder, variant)  # says what is there before anything else is asked for
        for name in ("config.json", "tokenizer.json"):
            if not (folder / name).is_file() and not (name == "config.json" and has_genai):
                raise BundleNotFound(f"{folder} has no {name}, which a bundle must have; copy it from the model")
        return cls(folder, variant, threads)

    @property
    def external_files(self) -> tuple[Path, ...]:
        """Files of weights beside the graph."""
        return self.file.external_files

    @property
    def no_padding(self) -> str:
        """Why rows of a batch cannot be padded on the left; empty where they can."""
        if "attention_mask" not in self.signature.optional:
            return "the graph has no attention_mask that could hide padding"
        if "cache_position" in self.signature.optional and "position_ids" not in self.signature.optional:
            return "the graph takes cache_position, which is one for all rows, and no position_ids of each row"
        if self.signature.states:
            return f"padding would enter the state {self.signature.states[0].past!r}"
        if self.file.has("GroupQueryAttention"):
            return "GroupQueryAttention counts a row's tokens from its left end"
        return ""

    def session(self, threads: int | None = None) -> onnxruntime.InferenceSession:
        """A session on the CPU with that many threads an operator; made once and shared by all who ask for it."""
        wanted = self.threads if threads is None else threads
        if wanted not in self._sessions:
            self._sessions[wanted] = open_session(self.model_path, wanted)
        return self._sessions[wanted]

    def fused(self, threads: int | None = None) -> FusedGraph:
        """The graph cut at its attentions; made and probed once. CannotCut names the layer that is in the way."""
        wanted = self.threads if threads is None else threads
        if wanted not in self._fused:
            self._fused[wanted] = FusedGraph(self.subject(wanted))
        return self._fused[wanted]

    def subject(self, threads: int | None = None) -> Subject:
        """The model with its weights in memory, for surgery; read anew by every call."""
        wanted, rows = self.threads if threads is None else threads, self.signature.fixed_batch or 1
        return Subject(
            whole_model(self.model_path, self.folder),
            self.signature,
            self.session(wanted),
            StepInputs(rows, self.signature.optional, self.first_position),
            rows,
            self.context or 0,
            self.windows,
            wanted,
        )

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, with no special tokens added and nothing cut off or padded."""
        try:
            ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        except Exception as error:  # the tokenizer raises bare Exception
            raise InvalidText(f"the tokenizer of {self.folder.name} refuses the text: {one_line(error)}") from error
        return ids

    def encode_prompt(self, text: str) -> list[int]:
        """Token ids of a prompt, with the special tokens that its tokenizer puts around a text."""
        try:
            ids: list[int] = self.tokenizer.encode(text).ids
        except Exception as error:  # the tokenizer raises bare Exception
            raise InvalidText(f"the tokenizer of {self.folder.name} refuses the text: {one_line(error)}") from error
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, without special tokens."""
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=True)
        return text

    def fingerprint(self) -> str:
        """SHA-256 over the graph and its weights, which says whether a saved cache is this model's; reads them all."""
        digest = hashlib.sha256()
        for path in (self.model_path, *self.external_files):
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()

    def facts(self) -> dict[str, Any]:
        """What was read from the graph and the configs, as plain data for reports; no path but the file's own name."""
        signature = self.signature
        return {
            "name": self.folder.resolve().name,
            "file": self.model_path.relative_to(self.folder).as_posix(),
            "file_bytes": sum(path.stat().st_size for path in (self.model_path, *self.external_files)),
            "layers": len(signature.layers),
            "kv_heads": signature.kv_heads,
            "key_dim": signature.key_dim,
            "value_dim": signature.value_dim,
            "states": len(signature.states),
            "cache_dtype": signature.cache_dtype,
            "logits_dtype": signature.logits_dtype,
            "vocabulary": signature.vocabulary,
            "context": self.context,
            "optional_inputs": sorted(signature.optional),
        }


def _read_tokenizer(folder: Path) -> Tokenizer:
    data = read_small(folder, "tokenizer.json", LARGEST_TOKENIZER)
    try:
        tokenizer = Tokenizer.from_str(data.decode("utf-8"))
    except Exception as error:  # the tokenizer raises bare Exception
        raise CorruptData(f"tokenizer.json is not a tokenizer: {one_line(error)}") from error
    # A file may carry the settings of its training, which would cut or pad every text without a word.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
