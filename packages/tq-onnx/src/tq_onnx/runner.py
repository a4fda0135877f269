"""Decodes step by step with the cache in one of its modes; the same steps in every mode, so that runs compare."""

from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tq_cache import CachePolicy, DecoderCache
from tq_core import InvalidDtype, InvalidSpec, ShapeMismatch
from tq_onnx.bundle import Bundle
from tq_onnx.cut_graph import CutGraph
from tq_onnx.errors import UnsupportedBundle
from tq_onnx.feeds import padding_after
from tq_onnx.packed import PackedCache
from tq_onnx.whole_graph import WholeGraph

MODES: Final = ("exact", "reconstruct", "fused")
DEFAULT_POLICY: Final = "balanced"
CHUNK: Final = 512  # tokens of a prefill step


class DecoderRunner:
    """Runs a bundle's decoder over token ids, one or many a step, keeping its cache between steps.

    `exact` keeps the float cache as the graph returns it. `reconstruct` also packs every new token into `cache` and
    replaces its floats by what the codes decode to: a token is exact in the step that brings it and quantized in all
    later ones (or as soon as it leaves the policy's full-precision window). Old tokens are never quantized again.
    Reconstruct measures quality and saves no memory: the runtime still holds floats (`float_bytes`). `fused` cuts the
    graph at its attentions and computes those on the packed cache, so that no float cache exists; its logits are those
    of reconstruct up to rounding. UnsupportedBundle says which layer of a graph cannot be cut, and why. States of
    fixed size, as hybrid models carry, stay as they are in every mode.

    A step that raises leaves the runner as it was. One exception: an interrupt or a lack of memory while codes are read
    back, or between rows that are padded differently, may leave the oldest tokens of a window quantized a step early.
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
        self.padding = np.zeros(self.batch, np.int64)
        self._packed: PackedCache | None = None
        if self.mode != "exact":
            chosen = DEFAULT_POLICY if policy is None else policy
            self._packed = PackedCache(signature, chosen, self.batch, seed, backend, self.capacity)
        self._graph: WholeGraph | CutGraph
        if self.mode == "fused" and self._packed is not None:
            self._graph = CutGraph(bundle, self.batch, threads, self._packed)
        else:
            self._graph = WholeGraph(bundle, self.batch, self.capacity, threads, self._packed)

    def step(self, tokens: ArrayLike, mask: ArrayLike | None = None, *, last_only: bool = False) -> NDArray[np.float32]:
        """Logits (batch, n, vocabulary) of `tokens` (batch, n), which join the cache; n of 1 or more.

        `mask` (batch, n) is 0 where a row is padded on the left, 1 elsewhere; logits of padding mean nothing, and it
        takes no room in the packed cache. `last_only`: (batch, 1, vocabulary), those of the last token.
        """
        ids = self._checked(tokens)
        if self.tokens and min(ids.shape) > 1 and self.bundle.file.has("GroupQueryAttention"):
            raise UnsupportedBundle(
                "GroupQueryAttention takes one token a step once a batch of several rows has a past; feed them one by "
                "one, or use prefill()"
            )
        padding = self.padding if mask is None else self._padding(mask, ids.shape)
        logits = self._graph.step(ids, self.tokens, padding, last_only=last_only)
        self.tokens, self.padding = self.tokens + ids.shape[1], padding
        return logits

    def check(self, tokens: ArrayLike, mask: ArrayLike | None = None) -> None:
        """Raise what `step` or `prefill` would refuse of these arguments; nothing is run."""
        ids = self._checked(tokens)
        if mask is not None:
            self._padding(mask, ids.shape)

    def prefill(self, tokens: ArrayLike, mask: ArrayLike | None = None, *, chunk: int = CHUNK) -> NDArray[np.float32]:
        """Logits (batch, vocabulary) of the last of `tokens` (batch, n), run in chunks of at most `chunk` tokens.

        Tokens of one chunk attend to each other exactly. A chunk that fails leaves the chunks before it in the cache;
        what can be refused is refused before the first.
        """
        ids = self._checked(tokens)
        size = _count(chunk, "chunk", 1)
        if self.batch > 1 and self.bundle.file.has("GroupQueryAttention"):
            # this operator takes many tokens of many rows at once only before there is a past
            size = 1 if self.tokens or ids.shape[1] > size else size
        if mask is not None:
            self._padding(mask, ids.shape)
            mask = np.asarray(mask)
        for start in range(0, ids.shape[1], size):
            part = slice(start, start + size)
            logits = self.step(ids[:, part], None if mask is None else mask[:, part], last_only=True)
        return np.asarray(logits[:, -1])

    def reset(self) -> None:
        """Forget all tokens; memory stays allocated."""
        if self._packed is not None:
            self._packed.clear()
        self._graph.clear()
        self.tokens, self.padding = 0, np.zeros(self.batch, np.int64)

    def restore(self, cache: DecoderCache) -> None:
        """Go on from a packed cache, as `DecoderCache.load` returns it; the runner forgets what it held.

        Raises InvalidSpec in mode exact, UnsupportedBundle for models with further states, ShapeMismatch or
        InvalidSpec where the cache is that of another model, batch or policy.
        """
        if self._packed is None:
            raise InvalidSpec("mode 'exact' has no packed cache to restore; use mode 'reconstruct' or 'fused'")
        if self.bundle.signature.states:
            missing = self.bundle.signature.states[0].past
            raise UnsupportedBundle(
                f"a packed cache does not hold the state {missing!r}, without which this model cannot go on"
            )
        mine = self._packed.cache
        for name in ("layers", "kv_heads", "head_dim", "value_dim", "batch", "policy"):
            ours, theirs = getattr(mine, name), getattr(cache, name)
            if ours != theirs:
                raise InvalidSpec(f"the cache has {name} {theirs}, this runner {ours}")
        if len(set(cache.lengths)) > 1:
            raise ShapeMismatch(f"rows of the cache hold {sorted(cache.lengths)} tokens; restore one row alone")
        self.reset()
        self._packed.adopt(cache)
        self._graph.restore(len(cache))
        self.tokens = len(cache)

    @property
    def cache(self) -> DecoderCache | None:
        """The packed cache; None in mode exact."""
        return None if self._packed is None else self._packed.cache

    @property
    def quantized_tokens(self) -> int:
        """Tokens that hold codes, over all layers; what the codes of the ledger belong to."""
        return 0 if self._packed is None else self._packed.tokens_written

    @property
    def cache_bytes(self) -> int:
        """Bytes of the cache: all that the packed one holds, or the floats of the tokens so far; and of states."""
        if self._packed is not None:
            return int(self._packed.cache.ledger().total) + self.state_bytes
        return self.exact_bytes(self.bundle.signature.cache_dtype)

    @property
    def state_bytes(self) -> int:
        """Bytes of states of fixed size, which nothing compresses; part of `cache_bytes` and `exact_bytes`."""
        return self._graph.state_bytes

    @property
    def float_bytes(self) -> int:
        """Bytes of the float buffers that the runtime reads and writes; 0 in mode fused, which has none."""
        return self._graph.float_bytes

    @property
    def cached_values(self) -> int:
        """Numbers in the growing cache: tokens x (key_dim + value_dim) over all layers, heads and sequences."""
        held = self.batch * self.tokens - int(self.padding.sum())
        return held * self.bundle.signature.values_per_token

    def exact_bytes(self, dtype: str = "float16") -> int:
        """Bytes of the tokens so far as plain numbers of that dtype, with no padding, and of states as they are."""
        return self.cached_values * np.dtype(dtype).itemsize + self.state_bytes

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

    def _padding(self, mask: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.int64]:
        """Columns of padding after a step with that mask, or a typed error where this graph has no way to skip them."""
        padding = padding_after(mask, (shape[0], shape[1]), self.tokens, self.padding)
        if padding.any():
            why = self.bundle.no_padding
            if why:
                raise UnsupportedBundle(f"rows of a batch must be of one length: {why}")
        return padding


def _mode(mode: str | None, policy: object) -> str:
    """The mode asked for, or the one that the policy implies."""
    if mode is None:
        return "exact" if policy is None else "reconstruct"
    if mode not in MODES:
        raise InvalidSpec(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
    if mode == "exact" and policy is not None:
        raise InvalidSpec(f"mode 'exact' quantizes nothing and takes no policy, got {str(policy)!r}")
    return mode


def _count(value: int, name: str, low: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value < 1 << 31:
        raise InvalidSpec(f"{name} must be a whole number of {low} or more and below 2**31, got {value!r:.80}")
    return value
