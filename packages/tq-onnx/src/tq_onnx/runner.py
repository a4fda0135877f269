"""Decodes step by step with the cache in one of its modes; the same steps in every mode, so that runs compare."""

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from onnxruntime import OrtValue  # type: ignore[import-untyped]

from tq_cache import CachePolicy, DecoderCache
from tq_core import InvalidDtype, InvalidSpec, ScaleRange, ShapeMismatch
from tq_onnx.admission import check_rows, largest_norm
from tq_onnx.buffers import StepInputs, TurnBuffer, flat_bytes
from tq_onnx.bundle import Bundle
from tq_onnx.errors import StepFailed, UnsupportedBundle, one_line

MODES: Final = ("exact", "reconstruct")
DEFAULT_POLICY: Final = "balanced"


class DecoderRunner:
    """Runs a bundle's decoder over token ids, one or many a step, keeping its cache between steps.

    `exact` keeps the float cache as the graph returns it. `reconstruct` also packs every new token into `cache` and
    replaces its floats by what the codes decode to: a token is exact in the step that brings it and quantized in all
    later ones (or as soon as it leaves the policy's full-precision window). Old tokens are never quantized again.
    Reconstruct measures quality and saves no memory: the runtime still holds floats (`float_bytes`).

    A step that raises leaves the runner as it was. One exception: an interrupt or a lack of memory between two layers
    may leave the oldest tokens of a window quantized a step early.
    """

    def __init__(
        self,
        bundle: Bundle,
        policy: str | CachePolicy | None = None,
        mode: str | None = None,
        *,
        batch: int = 1,
        capacity: int = 0,
        seed: int = 0,
        threads: int | None = None,
        backend: str = "auto",
    ) -> None:
        signature = bundle.signature
        self.bundle, self.mode = bundle, _mode(mode, policy)
        self.batch, self.capacity = _count(batch, "batch", 1), _count(capacity, "capacity", 0)
        if signature.fixed_batch not in (None, self.batch):
            raise UnsupportedBundle(
                f"the graph of {bundle.folder.name} runs a batch of {signature.fixed_batch} only, got {self.batch}"
            )
        self.tokens = 0
        self.cache: DecoderCache | None = None
        if self.mode == "reconstruct":
            resolved = CachePolicy.parse(DEFAULT_POLICY if policy is None else policy).resolve(len(signature.layers))
            count = len(signature.layers)
            heads = range(signature.kv_heads)
            self._largest_norm = min(
                largest_norm(resolved.for_layer(index, count, head)) for index in range(count) for head in heads
            )
            self.cache = DecoderCache(
                len(signature.layers),
                signature.kv_heads,
                signature.key_dim,
                resolved,
                batch=self.batch,
                value_dim=signature.value_dim,
                seed=seed,
                backend=backend,
                # room for codes, which sinks and window do not have
                capacity=max(0, self.capacity - resolved.sinks - resolved.window),
            )
        self.quantized_tokens = 0  # over all layers; what the codes of the ledger belong to
        self._inputs = StepInputs(self.batch)
        self._buffers = {
            name: TurnBuffer(self.batch, signature.kv_heads, dim, signature.cache_dtype, self.capacity)
            for layer in signature.layers
            for name, dim in ((layer.past_key, signature.key_dim), (layer.past_value, signature.value_dim))
        }
        self._session = bundle.session(threads)
        self._binding = self._session.io_binding()

    def step(self, tokens: ArrayLike) -> NDArray[np.float32]:
        """Logits (batch, n, vocabulary) of `tokens` (batch, n), which join the cache; n of 1 or more."""
        ids = self._checked(tokens)
        stop = self.tokens + ids.shape[1]
        targets = {name: buffer.target(stop) for name, buffer in self._buffers.items()}
        logits = self._run(ids, targets, stop)
        if self.cache is not None:
            self.quantized_tokens += self._quantize(self.cache, targets)
        for buffer in self._buffers.values():
            buffer.turn()
        self.tokens = stop
        return logits

    def reset(self) -> None:
        """Forget all tokens; memory stays allocated."""
        if self.cache is not None:
            self.cache.clear()
        self.tokens = self.quantized_tokens = 0

    @property
    def cache_bytes(self) -> int:
        """Bytes of the cache: all that the packed one holds, or the floats of the tokens so far in exact mode."""
        if self.cache is not None:
            return int(self.cache.ledger().total)
        return self.exact_bytes(self.bundle.signature.cache_dtype)

    @property
    def float_bytes(self) -> int:
        """Bytes of the float buffers that the runtime reads and writes, in either mode."""
        return sum(buffer.nbytes for buffer in self._buffers.values())

    @property
    def cached_values(self) -> int:
        """Numbers in the cache: tokens x (key_dim + value_dim) over all layers, heads and sequences."""
        return self.exact_bytes("int8")

    def exact_bytes(self, dtype: str = "float16") -> int:
        """Bytes of the tokens so far as plain numbers of that dtype, with no padding."""
        signature = self.bundle.signature
        dims = signature.key_dim + signature.value_dim
        return len(signature.layers) * flat_bytes(self.batch, signature.kv_heads, dims, self.tokens, dtype)

    def _checked(self, tokens: ArrayLike) -> NDArray[np.integer]:
        """The ids as the graph wants them, or a typed error."""
        ids = np.asarray(tokens)
        if ids.dtype.kind not in "iu":
            raise InvalidDtype(f"tokens must be integers, got {ids.dtype}; convert them, e.g. with .astype('int64')")
        if ids.ndim != 2 or ids.shape[0] != self.batch or ids.shape[1] < 1:
            raise ShapeMismatch(f"tokens must have shape ({self.batch}, n) with n of 1 or more, got {ids.shape}")
        vocabulary = self.bundle.signature.vocabulary
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or (vocabulary is not None and high >= vocabulary):
            known = "0 or more" if vocabulary is None else f"0..{vocabulary - 1}"
            raise InvalidSpec(f"token id {low if low < 0 else high} is not in the vocabulary, {known}")
        context = self.bundle.context
        if context is not None and self.tokens + ids.shape[1] > context:
            raise InvalidSpec(
                f"{self.tokens} tokens and {ids.shape[1]} new ones exceed the model's context of {context}; "
                "reset() or use shorter text"
            )
        return np.ascontiguousarray(ids, self.bundle.signature.ids_dtype)

    def _run(self, ids: NDArray[np.integer], targets: Mapping[str, NDArray[Any]], stop: int) -> NDArray[np.float32]:
        """One run of the graph from the past into the targets."""
        signature, binding = self.bundle.signature, self._binding
        binding.clear_binding_inputs()
        binding.clear_binding_outputs()
        feeds: dict[str, NDArray[Any]] = {"input_ids": ids, **self._optional(ids.shape[1], stop)}
        for name, buffer in self._buffers.items():
            feeds[name] = buffer.past(self.tokens)
        for name, array in feeds.items():
            binding.bind_ortvalue_input(name, OrtValue.ortvalue_from_numpy(array))
        binding.bind_output("logits", "cpu")
        for layer in signature.layers:
            for past, present in ((layer.past_key, layer.present_key), (layer.past_value, layer.present_value)):
                binding.bind_ortvalue_output(present, OrtValue.ortvalue_from_numpy(targets[past]))
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:  # the runtime's errors share no base class
            raise StepFailed(
                f"the runtime failed on tokens {self.tokens}..{stop - 1}: {one_line(error)}; the runner is unchanged"
            ) from error
        logits = binding.get_outputs()[0].numpy()
        if logits.shape[:2] != ids.shape:
            raise UnsupportedBundle(
                f"output 'logits' has shape {logits.shape} for tokens {ids.shape}: the graph returns logits of some "
                "tokens only; feed one token a step"
            )
        # A copy, because the runtime may reuse its memory in the next step.
        return np.array(logits, np.float32, order="C")

    def _optional(self, count: int, stop: int) -> dict[str, NDArray[Any]]:
        """Values of the optional inputs that this graph has."""
        make: dict[str, Callable[[str], NDArray[Any]]] = {
            "attention_mask": lambda dtype: self._inputs.attention_mask(stop, dtype),
            "position_ids": lambda dtype: self._inputs.positions(stop - count, stop, dtype, batched=True),
            "cache_position": lambda dtype: self._inputs.positions(stop - count, stop, dtype, batched=False),
            "use_cache_branch": lambda dtype: np.full(1, stop > count, dtype),
            "num_logits_to_keep": lambda dtype: np.zeros((), dtype),  # 0 means all
        }
        values = {}
        for name, tensor in self.bundle.signature.optional.items():
            value = make[name](tensor.dtype)
            values[name] = value.reshape(1) if name == "num_logits_to_keep" and len(tensor.shape) == 1 else value
        return values

    def _quantize(self, cache: DecoderCache, targets: Mapping[str, NDArray[Any]]) -> int:
        """Pack the new tokens of all layers and put what they decode to in place of the floats; tokens quantized."""
        start, written = self.tokens, 0
        for layer in self.bundle.signature.layers:
            for name in (layer.past_key, layer.past_value):
                check_rows(targets[name][:, :, start:], self._largest_norm, name)
        try:
            with np.errstate(over="raise"):
                for index, layer in enumerate(self.bundle.signature.layers):
                    keys, values = targets[layer.past_key], targets[layer.past_value]
                    changed = cache.append(keys[:, :, start:], values[:, :, start:], index)[0]  # all rows alike
                    if len(changed) == 0:
                        continue
                    rows = slice(changed.start, changed.stop)
                    keys[:, :, rows] = cache.keys(index, rows.start, rows.stop)
                    values[:, :, rows] = cache.values(index, rows.start, rows.stop)
                    written += len(changed)
        except BaseException as error:
            cache.crop(start)
            if isinstance(error, FloatingPointError):
                raise ScaleRange(f"a decoded vector exceeds the {targets[layer.past_key].dtype} cache") from error
            raise
        return written


def _mode(mode: str | None, policy: object) -> str:
    """The mode asked for, or the one that the policy implies."""
    if mode is None:
        return "exact" if policy is None else "reconstruct"
    if mode == "fused":
        raise InvalidSpec(
            "mode 'fused' is not available in this release; use 'reconstruct', which has the same quality"
        )
    if mode not in MODES:
        raise InvalidSpec(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
    if mode == "exact" and policy is not None:
        raise InvalidSpec(f"mode 'exact' quantizes nothing and takes no policy, got {str(policy)!r}")
    return mode


def _count(value: int, name: str, low: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value < 1 << 31:
        raise InvalidSpec(f"{name} must be a whole number of {low} or more, got {value!r}")
    return value
