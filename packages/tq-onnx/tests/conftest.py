"""Tiny decoders built on the spot: layers of real attention over a cache, in every form that bundles have."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers

VOCABULARY, WIDTH, CONTEXT = 32, 16, 64
FLOATS = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16}


@dataclass
class Decoder:
    """What to build. `inputs` are the optional ones; `order` puts named inputs first; `batch` fixes that axis."""

    layers: int = 2
    kv_heads: int = 2
    key_dim: int = 8
    value_dim: int = 8
    dtype: str = "float32"
    logits: str = "float32"
    inputs: tuple[str, ...] = ("attention_mask", "position_ids")
    order: tuple[str, ...] = ()
    numbers: tuple[int, ...] = ()
    batch: int | None = None
    last_only: bool = False
    open_vocabulary: bool = False
    states: tuple[str, ...] = ()  # past names of states (batch, WIDTH, 1) that add up what came before
    gain: float = 1.0  # of the key projection; large ones make keys that no float16 norm holds
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    stored: list[onnx.TensorProto] = field(default_factory=list)

    def model(self) -> onnx.ModelProto:
        """The graph: embeddings, attention over past and new tokens with a causal mask, residuals, logits."""
        self.nodes, self.stored = [], []
        rng = np.random.default_rng(7)
        self._constants()
        self._positions()
        self._weight("embedding", rng.normal(size=(VOCABULARY, WIDTH)))
        hidden = self._op("Gather", "embedding", "input_ids")
        if "position_ids" in self.inputs or "cache_position" in self.inputs:
            self._weight("places", rng.normal(size=(CONTEXT, WIDTH)))
            index = "position_ids" if "position_ids" in self.inputs else "cache_position"
            hidden = self._op("Add", hidden, self._op("Gather", "places", index))
        for number in self.numbers or range(self.layers):
            hidden = self._attention(hidden, number, rng)
        for name in self.states:
            hidden = self._sum_so_far(hidden, name)
        self._weight("head", rng.normal(size=(WIDTH, VOCABULARY)))
        self._weight("head_first", 10 * rng.normal(size=VOCABULARY))
        logits = self._op("MatMul", hidden, "head")
        for name in ("num_logits_to_keep", "logits_to_keep"):  # anything but 0 would show in the logits
            if name in self.inputs:
                logits = self._op("Add", logits, self._op("Cast", name, to=TensorProto.FLOAT))
        if "use_cache_branch" in self.inputs:  # a branch that does not fit the past would show too
            fits = self._op("Equal", self._op("Greater", "past_tokens", "zero"), "use_cache_branch")
            wrong = self._op("Cast", self._op("Not", fits), to=TensorProto.FLOAT)
            logits = self._op("Add", logits, self._op("Mul", wrong, "head_first"))
        if self.last_only:
            self._ints("last", [-1]), self._ints("end", [1 << 40]), self._ints("one_axis", [1])
            logits = self._op("Slice", logits, "last", "end", "one_axis")
        if self.open_vocabulary:  # an end that no shape inference can know
            end = self._op("Mul", self._op("Unsqueeze", "tokens", "axis_zero"), self._op("Identity", "thousand"))
            logits = self._op("Slice", logits, "axis_zero", end, "two_axis")
        self._op("Cast", logits, to=FLOATS[self.logits], output="logits")
        graph = helper.make_graph(self.nodes, "tiny", self._graph_inputs(), self._graph_outputs(), self.stored)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

    def _attention(self, hidden: str, number: int, rng: np.random.Generator) -> str:
        heads = self.kv_heads
        projected = {}
        for name, dim in (("query", self.key_dim), ("key", self.key_dim), ("value", self.value_dim)):
            gain = self.gain if name == "key" else 1.0
            self._weight(f"{name}{number}", rng.normal(size=(WIDTH, heads * dim)) * gain / WIDTH**0.5)
            self._ints(f"{name}{number}_shape", [0, 0, heads, dim])
            split = self._op("Reshape", self._op("MatMul", hidden, f"{name}{number}"), f"{name}{number}_shape")
            projected[name] = self._op("Transpose", split, perm=[0, 2, 1, 3])
        whole = {part: self._cached(projected[part], number, part) for part in ("key", "value")}
        scores = self._op("MatMul", projected["query"], self._op("Transpose", whole["key"], perm=[0, 1, 3, 2]))
        scores = self._op("Add", self._op("Div", scores, self._float(self.key_dim**0.5)), self._mask(number))
        mixed = self._op("MatMul", self._op("Softmax", scores, axis=-1), whole["value"])
        self._ints(f"joined{number}", [0, 0, heads * self.value_dim])
        joined = self._op("Reshape", self._op("Transpose", mixed, perm=[0, 2, 1, 3]), f"joined{number}")
        self._weight(f"output{number}", rng.normal(size=(heads * self.value_dim, WIDTH)) / WIDTH**0.5)
        return self._op("Add", hidden, self._op("MatMul", joined, f"output{number}"))

    def _cached(self, new: str, number: int, part: str) -> str:
        """Past and new tokens as float32; the present output carries them in the cache's dtype."""
        past, present = f"past_key_values.{number}.{part}", f"present.{number}.{part}"
        new = self._op("Cast", new, to=FLOATS[self.dtype])
        if "use_cache_branch" in self.inputs:
            branches = {}
            for name, node in {
                "then_branch": helper.make_node("Concat", [past, new], ["joined"], axis=2),
                "else_branch": helper.make_node("Identity", [new], ["joined"]),
            }.items():
                result = helper.make_tensor_value_info("joined", FLOATS[self.dtype], None)
                branches[name] = helper.make_graph([node], name, [], [result])
            self.nodes.append(helper.make_node("If", ["use_cache_branch"], [present], **branches))
        else:
            self.nodes.append(helper.make_node("Concat", [past, new], [present], axis=2))
        return self._op("Cast", present, to=TensorProto.FLOAT)

    def _sum_so_far(self, hidden: str, name: str) -> str:
        """Adds a tenth of the sum of all tokens so far, which a state of fixed size carries from step to step."""
        self._ints(f"{name}_axis", 1), self._ints(f"{name}_last", [-1])
        before = self._op("Transpose", name, perm=[0, 2, 1])
        sums = self._op("Add", self._op("CumSum", hidden, f"{name}_axis"), before)
        self._ints(f"{name}_end", [1 << 40]), self._ints(f"{name}_one", [1])
        last = self._op("Slice", sums, f"{name}_last", f"{name}_end", f"{name}_one")
        self._op("Transpose", last, perm=[0, 2, 1], output=name.replace("past", "present"))
        return self._op("Add", hidden, self._op("Mul", sums, self._float(0.1)))

    def _positions(self) -> None:
        """Numbers of the new tokens (rows) and of all tokens (columns), for the causal mask."""
        first = (self.numbers or (0,))[0]
        past = self._op("Gather", self._op("Shape", f"past_key_values.{first}.key"), "two")
        self._op("Identity", past, output="past_tokens")
        count = self._op("Gather", self._op("Shape", "input_ids"), "one")
        total = self._op("Add", past, count)
        self._op("Identity", total, output="tokens")
        self._op("Range", past, total, "one", output="rows")
        self._op("Range", "zero", total, "one", output="columns")

    def _mask(self, number: int) -> str:
        allowed = self._op("LessOrEqual", "columns", self._op("Unsqueeze", "rows", "axis_one"))
        mask = self._op("Where", allowed, self._float(0.0), self._float(-1e9))
        if "attention_mask" in self.inputs:
            seen = self._op("Cast", self._op("Unsqueeze", "attention_mask", "axes_mask"), to=TensorProto.FLOAT)
            mask = self._op("Add", mask, self._op("Mul", self._op("Sub", self._float(1.0), seen), self._float(-1e9)))
        return mask

    def _constants(self) -> None:
        scalars = {"zero": 0, "one": 1, "two": 2, "thousand": 1000}
        axes = {"axis_zero": [0], "axis_one": [1], "two_axis": [2], "axes_mask": [1, 2]}
        for name, value in (scalars | axes).items():
            self._ints(name, value)

    def _graph_inputs(self) -> list[onnx.ValueInfoProto]:
        batch = self.batch or "batch_size"
        shapes = {"input_ids": [batch, "sequence_length"], "attention_mask": [batch, "total"]}
        shapes |= {"position_ids": [batch, "sequence_length"], "cache_position": ["sequence_length"]}
        shapes |= {"use_cache_branch": [1], "num_logits_to_keep": [], "logits_to_keep": [1]}
        found = [
            helper.make_tensor_value_info(
                name, TensorProto.BOOL if "branch" in name else TensorProto.INT64, shapes[name]
            )
            for name in ("input_ids", *self.inputs)
        ]
        for number in self.numbers or range(self.layers):
            for part, dim in (("key", self.key_dim), ("value", self.value_dim)):
                shape = [batch, self.kv_heads, "past_sequence_length", dim]
                name = f"past_key_values.{number}.{part}"
                found.append(helper.make_tensor_value_info(name, FLOATS[self.dtype], shape))
        state = [batch, WIDTH, 1]
        found += [helper.make_tensor_value_info(name, TensorProto.FLOAT, state) for name in self.states]
        return sorted(found, key=lambda one: self.order.index(one.name) if one.name in self.order else len(self.order))

    def _graph_outputs(self) -> list[onnx.ValueInfoProto]:
        shape = ["batch_size", "logits_length", "open" if self.open_vocabulary else VOCABULARY]
        found = [helper.make_tensor_value_info("logits", FLOATS[self.logits], shape)]
        for number in self.numbers or range(self.layers):
            for part, dim in (("key", self.key_dim), ("value", self.value_dim)):
                shape = ["batch_size", self.kv_heads, "total", dim]
                name = f"present.{number}.{part}"
                found.append(helper.make_tensor_value_info(name, FLOATS[self.dtype], shape))
        for name in self.states:
            shape = ["batch_size", WIDTH, 1]
            found.append(helper.make_tensor_value_info(name.replace("past", "present"), TensorProto.FLOAT, shape))
        return found

    def _op(self, kind: str, *inputs: str, output: str = "", **attributes: object) -> str:
        output = output or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def _weight(self, name: str, values: np.ndarray) -> None:
        self.stored.append(numpy_helper.from_array(values.astype(np.float32), name))

    def _ints(self, name: str, values: int | Sequence[int]) -> None:
        self.stored.append(numpy_helper.from_array(np.array(values, np.int64), name))

    def _float(self, value: float) -> str:
        name = f"float_{len(self.stored)}"
        self.stored.append(numpy_helper.from_array(np.array(value, np.float32), name))
        return name


def write_bundle(folder: Path, model: onnx.ModelProto, name: str = "model.onnx") -> Path:
    """A folder with that model, a tokenizer of the words w0..w31, and configs in which w0 opens every text."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).parent.mkdir(exist_ok=True)
    onnx.save(model, folder / name)
    words = {f"w{number}": number for number in range(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w1"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"max_position_embeddings": CONTEXT, "bos_token_id": 0, "eos_token_id": 0}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def build(tmp_path: Path) -> Callable[..., Path]:
    """build(**fields of Decoder) writes a bundle and returns its folder."""
    return lambda **fields: write_bundle(tmp_path / "tiny", Decoder(**fields).model())


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """write(model, name) writes a bundle around a model made by the test."""
    return lambda model, name="model.onnx": write_bundle(tmp_path / "made", model, name)


@pytest.fixture
def tiny_model() -> Callable[..., onnx.ModelProto]:
    """tiny_model(**fields of Decoder) is the model alone, for a test to break."""
    return lambda **fields: Decoder(**fields).model()


@pytest.fixture(scope="session")
def words() -> str:
    """600 words, drawn once; the tiny decoders' tokenizer knows them all."""
    return " ".join(f"w{number}" for number in np.random.default_rng(3).integers(1, VOCABULARY, 600))


@pytest.fixture(scope="session")
def trained() -> Path:
    """The decoder that the repository carries, found from this file; skips outside the repository."""
    return carried("stdlib-llama")


@pytest.fixture(scope="session")
def biased() -> Path:
    """The decoder whose keys have a large common mean; skips outside the repository."""
    return carried("stdlib-qwen2")


def carried(name: str) -> Path:
    for parent in Path(__file__).resolve().parents:
        folder = parent / "fixtures" / "models" / name
        if (folder / "model.onnx").is_file():
            return folder
    pytest.skip(f"fixtures/models/{name} is only in the repository")
