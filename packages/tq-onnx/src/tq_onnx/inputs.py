"""The signature of a decoder: everything a runner needs to know of its graph, or a refusal that names the tensor."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from tq_onnx.cache_inputs import LARGEST_AXIS, CacheInput, Tensor, classify
from tq_onnx.errors import UnsupportedBundle
from tq_onnx.names import Names

LOGIT_DTYPES: Final = ("float32", "float16")
INDEX_DTYPES: Final = ("int64", "int32")
LARGEST_BATCH: Final = 1 << 12  # that a graph may insist on

# Inputs that a runner knows how to fill, with the ranks and dtypes it fills them in.
OPTIONAL: Final[Mapping[str, tuple[tuple[int, ...], tuple[str, ...]]]] = {
    "attention_mask": ((2,), INDEX_DTYPES),
    "position_ids": ((2,), INDEX_DTYPES),
    "cache_position": ((1,), INDEX_DTYPES),
    "use_cache_branch": ((1,), ("bool",)),
    "num_logits_to_keep": ((0, 1), INDEX_DTYPES),
    "logits_to_keep": ((0, 1), INDEX_DTYPES),
}
UNBATCHED: Final = ("cache_position", "use_cache_branch", "num_logits_to_keep", "logits_to_keep")


@dataclass(frozen=True)
class LayerTensors:
    """One layer's cache tensors, and the number that the graph gives the layer (there may be holes)."""

    number: int
    past_key: str
    past_value: str
    present_key: str
    present_value: str
    kv_heads: int
    key_dim: int
    value_dim: int

    @property
    def form(self) -> tuple[int, int, int]:
        """kv_heads, key_dim and value_dim."""
        return self.kv_heads, self.key_dim, self.value_dim


@dataclass(frozen=True)
class StateTensors:
    """A state of fixed size, carried from step to step; `shape` without the batch."""

    past: str
    present: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Hints:
    """What configs say, for what the graph leaves open; None where they are silent too."""

    kv_heads: int | None = None
    head_dim: int | None = None
    names: Names = field(default_factory=Names)


@dataclass(frozen=True)
class Signature:
    """Everything a runner needs to know about a decoder with float caches.

    `kv_heads`, `key_dim` and `value_dim` are those of the first layer; `is_uniform` says whether all layers have them.
    `guessed` names the cache inputs of which a dim came from a config and waits to be proved by a step.
    """

    layers: tuple[LayerTensors, ...]
    states: tuple[StateTensors, ...]
    cache_dtype: str
    ids_name: str
    ids_dtype: str
    logits_name: str
    logits_dtype: str
    vocabulary: int | None  # None where the graph leaves that axis open
    fixed_batch: int | None  # None where any batch will do
    optional: Mapping[str, Tensor]  # by usual name
    guessed: tuple[str, ...] = ()

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values."""
        return self.layers[0].kv_heads

    @property
    def key_dim(self) -> int:
        """Numbers in a key."""
        return self.layers[0].key_dim

    @property
    def value_dim(self) -> int:
        """Numbers in a value."""
        return self.layers[0].value_dim

    @property
    def is_uniform(self) -> bool:
        """Whether all layers have the same heads and dims."""
        return len({layer.form for layer in self.layers}) == 1

    @property
    def values_per_token(self) -> int:
        """Numbers that one token of one sequence adds to the cache."""
        return sum(layer.kv_heads * (layer.key_dim + layer.value_dim) for layer in self.layers)


def read_signature(inputs: Sequence[Tensor], outputs: Sequence[Tensor], hints: Hints | None = None) -> Signature:
    """The signature of a decoder, or UnsupportedBundle naming the tensor that is in the way."""
    hints = hints or Hints()
    names, by_name = hints.names, {tensor.name: tensor for tensor in outputs}
    ids: Tensor | None = None
    optional: dict[str, Tensor] = {}
    caches: list[CacheInput] = []
    for tensor in inputs:
        usual = names.usual(tensor.name)
        if names.is_cache(tensor.name):
            caches.append(_carried(classify(tensor, by_name, names)))
        elif usual == "input_ids":
            ids = _known(tensor, (2,), INDEX_DTYPES)
        elif usual in OPTIONAL:
            optional[usual] = _known(tensor, *OPTIONAL[usual])
        elif "encoder" in tensor.name:
            raise UnsupportedBundle(f"input {tensor} comes from the encoder of a model; only decoders alone are run")
        else:
            raise UnsupportedBundle(
                f"input {tensor} is unknown; a decoder takes input_ids, past_key_values.N.key/value and, "
                f"optionally, {', '.join(OPTIONAL)}"
            )
    if ids is None:
        raise UnsupportedBundle("the graph has no input 'input_ids'; export a text decoder that takes token ids")
    growing = [cache for cache in caches if cache.kind == "float"]
    if not growing:
        raise UnsupportedBundle(
            "the graph has no past_key_values.N.key/value inputs, so there is no cache to quantize; "
            "export it with its past (task text-generation-with-past)"
        )
    logits = _logits(names, by_name)
    guessed = tuple(cache.tensor.name for cache in growing if cache.heads is None or cache.dim is None)
    layers = _layers([_completed(cache, hints) for cache in growing])
    for cache in growing[1:]:
        if cache.tensor.dtype != growing[0].tensor.dtype:
            raise UnsupportedBundle(f"input {cache.tensor} and input {growing[0].tensor} differ in dtype")
    vocabulary = logits.shape[2]
    return Signature(
        layers=layers,
        states=tuple(_state(cache) for cache in caches if cache.kind == "state"),
        cache_dtype=growing[0].tensor.dtype,
        ids_name=ids.name,
        ids_dtype=ids.dtype,
        logits_name=logits.name,
        logits_dtype=logits.dtype,
        vocabulary=vocabulary if isinstance(vocabulary, int) else None,
        fixed_batch=_fixed_batch([ids, *optional.values(), *(cache.tensor for cache in caches)], names),
        optional=optional,
        guessed=guessed,
    )


def _carried(cache: CacheInput) -> CacheInput:
    if cache.kind not in ("float", "state"):
        raise UnsupportedBundle(f"input {cache.tensor} cannot be compressed: {cache.reason}")
    return cache


def _known(tensor: Tensor, ranks: tuple[int, ...], dtypes: tuple[str, ...]) -> Tensor:
    if len(tensor.shape) not in ranks or tensor.dtype not in dtypes:
        raise UnsupportedBundle(
            f"input {tensor} must have rank {' or '.join(map(str, ranks))} and dtype {' or '.join(dtypes)}"
        )
    return tensor


def _logits(names: Names, outputs: Mapping[str, Tensor]) -> Tensor:
    name = names.own.get("logits", "logits")
    logits = outputs.get(name)
    if logits is None:
        raise UnsupportedBundle(f"the graph has no output {name!r}; its outputs are {', '.join(map(repr, outputs))}")
    if len(logits.shape) != 3 or logits.dtype not in LOGIT_DTYPES:
        raise UnsupportedBundle(f"output {logits} must be {' or '.join(LOGIT_DTYPES)} [batch, tokens, vocabulary]")
    vocabulary = logits.shape[2]
    if isinstance(vocabulary, int) and not 1 <= vocabulary < 1 << 31:
        raise UnsupportedBundle(f"output {logits} has a vocabulary that no tokenizer has")
    return logits


def _completed(cache: CacheInput, hints: Hints) -> CacheInput:
    """The cache with what the graph leaves open taken from the configs; a step proves it later."""
    changes: dict[str, Any] = {}
    for name, hint, what, axis in (
        ("heads", hints.kv_heads, "number of heads", 1),
        ("dim", hints.head_dim, "head_dim", 3),
    ):
        if getattr(cache, name) is None:
            if hint is None or not 1 <= hint <= LARGEST_AXIS:
                said = "no config says it" if hint is None else f"the config says {hint}"
                raise UnsupportedBundle(
                    f"input {cache.tensor} cannot be compressed: its {what} is open (axis {axis}) and {said}; "
                    f"expected 1..{LARGEST_AXIS}"
                )
            changes[name] = hint
    return CacheInput(**(vars(cache) | changes))


def _layers(caches: Sequence[CacheInput]) -> tuple[LayerTensors, ...]:
    """Key and value of each layer joined, in the order of their numbers."""
    parts: dict[int, dict[str, CacheInput]] = {}
    for cache in caches:
        twin = parts.setdefault(cache.layer, {}).setdefault(cache.part, cache)
        if twin is not cache:
            raise UnsupportedBundle(f"input {cache.tensor} and input {twin.tensor} are one layer's {cache.part} both")
    joined = []
    for number, pair in sorted(parts.items()):
        for part, other in (("key", "value"), ("value", "key")):
            if part not in pair:
                raise UnsupportedBundle(f"input {pair[other].tensor} has no {part} beside it for layer {number}")
        key, value = pair["key"], pair["value"]
        if key.heads != value.heads:
            raise UnsupportedBundle(f"input {key.tensor} and input {value.tensor} differ in heads")
        assert key.heads is not None
        assert key.dim is not None
        assert value.dim is not None
        joined.append(
            LayerTensors(
                number, key.tensor.name, value.tensor.name, key.present, value.present, key.heads, key.dim, value.dim
            )
        )
    return tuple(joined)


def _state(cache: CacheInput) -> StateTensors:
    shape = tuple(axis for axis in cache.tensor.shape[1:] if isinstance(axis, int))
    return StateTensors(cache.tensor.name, cache.present, shape, cache.tensor.dtype)


def _fixed_batch(tensors: Sequence[Tensor], names: Names) -> int | None:
    """The batch that the graph insists on, or None."""
    fixed: Tensor | None = None
    for tensor in tensors:
        if not tensor.shape or names.usual(tensor.name) in UNBATCHED:
            continue
        if isinstance(tensor.shape[0], int):
            if fixed is not None and fixed.shape[0] != tensor.shape[0]:
                raise UnsupportedBundle(f"input {fixed} and input {tensor} insist on different batches")
            fixed = tensor
    if fixed is None:
        return None
    batch = fixed.shape[0]
    if not isinstance(batch, int) or not 1 <= batch <= LARGEST_BATCH:
        raise UnsupportedBundle(f"input {fixed} insists on a batch of {batch}, expected 1..{LARGEST_BATCH}")
    return batch
