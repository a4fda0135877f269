"""Reads a decoder's signature from session metadata: which inputs are caches, which are optional, which are unknown.

Configs lie about heads, dims and dtypes; the session does not. Axes are known by their number (0 batch, 1 heads,
2 length, 3 head_dim), never by the names of their symbols, which exporters choose freely.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tq_onnx.errors import UnsupportedBundle

CACHE_DTYPES: Final = ("float32", "float16")
LOGIT_DTYPES: Final = ("float32", "float16")
INDEX_DTYPES: Final = ("int64", "int32")

# Inputs that a runner knows how to fill, with the ranks and dtypes it fills them in.
OPTIONAL: Final[Mapping[str, tuple[tuple[int, ...], tuple[str, ...]]]] = {
    "attention_mask": ((2,), INDEX_DTYPES),
    "position_ids": ((2,), INDEX_DTYPES),
    "cache_position": ((1,), INDEX_DTYPES),
    "use_cache_branch": ((1,), ("bool",)),
    "num_logits_to_keep": ((0, 1), INDEX_DTYPES),
}

_PAST = re.compile(r"past(?:_key_values)?\.(\d{1,6})\.(key|value)")


@dataclass(frozen=True)
class Tensor:
    """A graph input or output as the session declares it; a symbolic axis is a string or None."""

    name: str
    shape: tuple[int | str | None, ...]
    dtype: str

    def __str__(self) -> str:
        axes = ", ".join("?" if axis is None else str(axis) for axis in self.shape)
        return f"{self.name!r} ({self.dtype} [{axes}])"


@dataclass(frozen=True)
class CacheInput:
    """One `past*` input and what it is.

    kind: "float" (a growing float cache, which can be quantized), "state" (no growing axis), "integer" (already
    quantized) or "other". `reason` says why it is not "float"; the remaining fields are set where kind is "float".
    """

    tensor: Tensor
    kind: str
    reason: str = ""
    layer: int = -1
    part: str = ""
    present: str = ""


@dataclass(frozen=True)
class LayerTensors:
    """Names of one layer's cache tensors, and the number that the graph gives the layer (there may be holes)."""

    number: int
    past_key: str
    past_value: str
    present_key: str
    present_value: str


@dataclass(frozen=True)
class Signature:
    """Everything a runner needs to know about a plain decoder with float caches."""

    layers: tuple[LayerTensors, ...]
    kv_heads: int
    key_dim: int
    value_dim: int
    cache_dtype: str
    ids_dtype: str
    logits_dtype: str
    vocabulary: int | None  # None where the graph leaves that axis open
    fixed_batch: int | None  # None where any batch will do
    optional: Mapping[str, Tensor]


def classify(tensor: Tensor, outputs: Mapping[str, Tensor]) -> CacheInput:
    """What a `past*` input is, from metadata alone."""
    name, shape = tensor.name, tensor.shape
    if tensor.dtype in ("int8", "uint8"):
        return CacheInput(tensor, "integer", "this bundle already quantizes its cache")
    if ".encoder." in name or ".decoder." in name:
        return CacheInput(tensor, "other", "the cache of an encoder-decoder")
    if name.endswith(".key_value"):
        return CacheInput(tensor, "other", "one tensor for keys and values together; export the model again")
    match = _PAST.fullmatch(name)
    if match is None:
        fixed = len(shape) > 0 and all(isinstance(axis, int) for axis in shape[1:])
        if fixed:
            return CacheInput(tensor, "state", "a state of fixed size, as hybrid models carry")
        return CacheInput(tensor, "other", "not named past_key_values.N.key or past_key_values.N.value")
    if len(shape) != 4:
        return CacheInput(tensor, "other", f"rank {len(shape)}, expected 4: batch, heads, length, head_dim")
    if isinstance(shape[2], int):
        return CacheInput(tensor, "state", "no growing axis: its length is fixed")
    if tensor.dtype not in CACHE_DTYPES:
        return CacheInput(tensor, "other", f"a cache of {tensor.dtype}, expected {' or '.join(CACHE_DTYPES)}")
    for axis, what in ((1, "number of heads"), (3, "head_dim")):
        size = shape[axis]
        if not isinstance(size, int) or size < 1:
            return CacheInput(tensor, "other", f"its {what} is open (axis {axis}), expected a positive number")
    layer, part = int(match[1]), match[2]
    return _with_present(tensor, layer, part, outputs)


def _with_present(tensor: Tensor, layer: int, part: str, outputs: Mapping[str, Tensor]) -> CacheInput:
    """The cache input joined to the output that carries its new state."""
    names = (f"present.{layer}.{part}", f"present_key_values.{layer}.{part}")
    present = next((outputs[name] for name in names if name in outputs), None)
    if present is None:
        return CacheInput(tensor, "other", f"no output {' or '.join(names)} carries it on")
    if present.dtype != tensor.dtype or len(present.shape) != 4:
        return CacheInput(tensor, "other", f"its output {present} has another dtype or rank")
    for axis in (1, 3):
        size = present.shape[axis]
        if isinstance(size, int) and size != tensor.shape[axis]:
            return CacheInput(tensor, "other", f"its output {present} differs on axis {axis}")
    if isinstance(present.shape[2], int):
        return CacheInput(tensor, "other", f"its output {present} has a fixed length and drops old tokens")
    return CacheInput(tensor, "float", "", layer, part, present.name)


def read_signature(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Signature:
    """The signature of a plain decoder, or UnsupportedBundle naming the tensor that is in the way."""
    by_name = {tensor.name: tensor for tensor in outputs}
    ids: Tensor | None = None
    optional: dict[str, Tensor] = {}
    caches: list[CacheInput] = []
    for tensor in inputs:
        if tensor.name.startswith("past"):
            caches.append(_float_cache(classify(tensor, by_name)))
        elif tensor.name == "input_ids":
            ids = _known(tensor, (2,), INDEX_DTYPES)
        elif tensor.name in OPTIONAL:
            optional[tensor.name] = _known(tensor, *OPTIONAL[tensor.name])
        else:
            raise UnsupportedBundle(
                f"input {tensor} is unknown; a decoder takes input_ids, past_key_values.N.key/value and, "
                f"optionally, {', '.join(OPTIONAL)}"
            )
    if ids is None:
        raise UnsupportedBundle("the graph has no input 'input_ids'; export a text decoder that takes token ids")
    if not caches:
        raise UnsupportedBundle(
            "the graph has no past_key_values.N.key/value inputs, so there is no cache to quantize; "
            "export it with its past (task text-generation-with-past)"
        )
    logits = by_name.get("logits")
    if logits is None:
        raise UnsupportedBundle(f"the graph has no output 'logits'; its outputs are {', '.join(map(repr, by_name))}")
    if len(logits.shape) != 3 or logits.dtype not in LOGIT_DTYPES:
        raise UnsupportedBundle(f"output {logits} must be {' or '.join(LOGIT_DTYPES)} [batch, tokens, vocabulary]")
    layers = _layers(caches)
    key, value = (_uniform([cache for cache in caches if cache.part == part]) for part in ("key", "value"))
    if key.shape[1] != value.shape[1] or key.dtype != value.dtype:
        raise UnsupportedBundle(f"input {key} and input {value} differ in heads or dtype")
    vocabulary, batch = logits.shape[2], _fixed_batch([ids, *optional.values(), *(cache.tensor for cache in caches)])
    return Signature(
        layers=layers,
        kv_heads=_size(key, 1),
        key_dim=_size(key, 3),
        value_dim=_size(value, 3),
        cache_dtype=key.dtype,
        ids_dtype=ids.dtype,
        logits_dtype=logits.dtype,
        vocabulary=vocabulary if isinstance(vocabulary, int) else None,
        fixed_batch=batch,
        optional=optional,
    )


def _float_cache(cache: CacheInput) -> CacheInput:
    if cache.kind != "float":
        raise UnsupportedBundle(f"input {cache.tensor} cannot be compressed: {cache.reason}")
    return cache


def _known(tensor: Tensor, ranks: tuple[int, ...], dtypes: tuple[str, ...]) -> Tensor:
    if len(tensor.shape) not in ranks or tensor.dtype not in dtypes:
        raise UnsupportedBundle(
            f"input {tensor} must have rank {' or '.join(map(str, ranks))} and dtype {' or '.join(dtypes)}"
        )
    return tensor


def _layers(caches: Sequence[CacheInput]) -> tuple[LayerTensors, ...]:
    """Key and value of each layer joined, in the order of their numbers."""
    parts: dict[int, dict[str, CacheInput]] = {}
    for cache in caches:
        parts.setdefault(cache.layer, {})[cache.part] = cache
    joined = []
    for number, pair in sorted(parts.items()):
        for part, other in (("key", "value"), ("value", "key")):
            if part not in pair:
                raise UnsupportedBundle(f"input {pair[other].tensor} has no {part} beside it for layer {number}")
        key, value = pair["key"], pair["value"]
        joined.append(LayerTensors(number, key.tensor.name, value.tensor.name, key.present, value.present))
    return tuple(joined)


def _uniform(caches: Sequence[CacheInput]) -> Tensor:
    """One tensor that stands for all of them, or UnsupportedBundle for the first that differs."""
    first = caches[0].tensor
    for cache in caches[1:]:
        tensor = cache.tensor
        if tensor.dtype != first.dtype or (tensor.shape[1], tensor.shape[3]) != (first.shape[1], first.shape[3]):
            raise UnsupportedBundle(f"input {tensor} differs from input {first}; all layers must have one form")
    return first


def _fixed_batch(tensors: Sequence[Tensor]) -> int | None:
    """The batch that the graph insists on, or None."""
    fixed: Tensor | None = None
    for tensor in tensors:
        if not tensor.shape or tensor.name in ("cache_position", "use_cache_branch", "num_logits_to_keep"):
            continue
        if isinstance(tensor.shape[0], int):
            if fixed is not None and fixed.shape[0] != tensor.shape[0]:
                raise UnsupportedBundle(f"input {fixed} and input {tensor} insist on different batches")
            fixed = tensor
    return None if fixed is None else _size(fixed, 0)


def _size(tensor: Tensor, axis: int) -> int:
    size = tensor.shape[axis]
    assert isinstance(size, int)
    return size
