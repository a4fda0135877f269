"""DecoderCache: the cache of a whole model, with the update convention of transformers."""

from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tq_cache import checks, snapshot, together
from tq_cache.atomic_file import StrPath
from tq_cache.attention import WORKSPACE_BYTES
from tq_cache.errors import PolicyMismatch
from tq_cache.layer import Layer, codecs_for
from tq_cache.ledger import Ledger, ledger_of
from tq_cache.policy import CachePolicy
from tq_cache.snapshot_facts import Shape
from tq_core import ShapeMismatch

F32 = NDArray[np.float32]


class DecoderCache:
    """Keys and values of all layers, arrays (batch, kv_heads, tokens, head_dim), held as packed codes.

    Every row of the batch is a sequence of its own: rows are cropped, reordered, repeated, selected, merged and split
    without decoding anything, and may hold different numbers of tokens (`lengths`). `policy` is resolved against the
    model: `.policy` is what is followed and printed, and PolicyMismatch is raised for what this model cannot have.
    Layers share rotations and codebooks. Options as QuantizedKVCache.
    """

    def __init__(
        self,
        layers: int,
        kv_heads: int,
        head_dim: int,
        policy: CachePolicy | str,
        *,
        batch: int = 1,
        value_dim: int | None = None,
        seed: int = 0,
        max_tokens: int = 0,
        backend: str = "auto",
        capacity: int = 0,
    ) -> None:
        self.layers = checks.whole(layers, 1, "layers")
        self.kv_heads = checks.whole(kv_heads, 1, "kv_heads")
        self.head_dim = checks.dimension(head_dim, "head_dim")
        self.value_dim = self.head_dim if value_dim is None else checks.dimension(value_dim, "value_dim")
        self.batch = checks.whole(batch, 1, "batch")
        self.policy = CachePolicy.parse(policy).resolve(self.layers)
        self.max_tokens = checks.whole(max_tokens, 0, "max_tokens")
        dims = (self.head_dim, self.value_dim)
        room = checks.whole(capacity, 0, "capacity")
        policies = [self.policy.for_layer(index, self.layers) for index in range(self.layers)]
        self.seed, self.backend = checks.seed_value(seed), backend
        codecs = codecs_for(policies, dims, self.seed, backend)
        self._rows = [
            [Layer(self.kv_heads, dims, policy, codecs, self.max_tokens, room) for policy in policies]
            for _ in range(self.batch)
        ]

    def __len__(self) -> int:
        """Tokens held by the longest row in the first layer; during a step, later layers may hold fewer."""
        return max(self.lengths)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens that each row holds in the first layer."""
        return tuple(len(row[0]) for row in self._rows)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens held by the longest row in that layer."""
        return max(map(len, self._layers(layer_idx)))

    def append(self, keys: ArrayLike, values: ArrayLike, layer_idx: int) -> list[range]:
        """Add (batch, kv_heads, n, head_dim) keys and values to one layer; returns the positions each row quantized.

        Errors as QuantizedKVCache.append; a failing call leaves the cache as it was.
        """
        layers = self._layers(layer_idx)
        new_keys, new_values = checks.tokens(keys, values, (self.batch, self.kv_heads), (self.head_dim, self.value_dim))
        return together.append(layers, list(self._by_row(new_keys)), list(self._by_row(new_values)))

    def update(
        self, key_states: ArrayLike, value_states: ArrayLike, layer_idx: int
    ) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        """Append, then return all keys and values of the layer as the codes decode to, in the dtype that came in.

        Shapes (batch, kv_heads, tokens, head_dim). Costs O(tokens) a call; `append` and `attend` do not decode.
        """
        self._uniform(layer_idx)
        self.append(key_states, value_states, layer_idx)
        found = []
        for given, held in ((key_states, self.keys(layer_idx)), (value_states, self.values(layer_idx))):
            dtype = np.asarray(given).dtype
            found.append(held.astype(dtype.newbyteorder("="), copy=False))
        return found[0], found[1]

    def keys(self, layer_idx: int, start: int = 0, stop: int | None = None) -> F32:
        """What the codes of tokens start..stop-1 decode to, (batch, kv_heads, tokens, head_dim) float32.

        Raises ShapeMismatch where rows hold different numbers of tokens: `select([row])` one of them.
        """
        length = self._uniform(layer_idx)
        sides = [layer.keys for layer in self._layers(layer_idx)]
        return together.tokens(sides, *checks.span(start, stop, length))

    def values(self, layer_idx: int, start: int = 0, stop: int | None = None) -> F32:
        """As `keys`, (batch, kv_heads, tokens, value_dim) float32."""
        length = self._uniform(layer_idx)
        sides = [layer.values for layer in self._layers(layer_idx)]
        return together.tokens(sides, *checks.span(start, stop, length))

    def scores(self, queries: ArrayLike, layer_idx: int) -> F32:
        """Inner products of (batch, query_heads, n, head_dim) queries with keys, (batch, query_heads, n, tokens).

        Rows that hold fewer tokens than the longest have -inf behind their last.
        """
        asked = checks.queries(queries, (self.batch,), self.kv_heads, self.head_dim)
        _, heads, count, dim = asked.shape
        layers = self._layers(layer_idx)
        out = np.full((self.batch, heads, count, max(map(len, layers))), -np.inf, np.float32)
        for row, layer in enumerate(layers):
            grouped = asked[row].reshape(self.kv_heads, heads // self.kv_heads * count, dim)
            out[row, ..., : len(layer)] = layer.keys.scores(grouped).reshape(heads, count, len(layer))
        return out

    def attend(
        self,
        queries: ArrayLike,
        layer_idx: int,
        *,
        scale: float | None = None,
        causal: bool = False,
        mask: ArrayLike | None = None,
        softcap: float | None = None,
        sliding_window: int = 0,
        workspace_bytes: int = WORKSPACE_BYTES,
        accuracy: str = "exact",
    ) -> F32:
        """softmax(q K^T scale) V straight from packed codes, (batch, query_heads, n, value_dim) float32.

        `scale` defaults to 1/sqrt(head_dim). `causal`: the queries are the last n tokens held, and each sees itself and
        what came before; `sliding_window` w, causal as well: no more than the last w of those. `mask`: bool, True
        where a query may look, (n, tokens), (query_heads, n, tokens) or those with batch before.
        `softcap` c: each logit becomes c tanh(logit / c). A query that sees nothing gets zeros.

        Scratch memory stays within `workspace_bytes` (a tile has 16 tokens at least), on which the result does not
        depend beyond float32 rounding. Equals float64 attention over `keys()` and `values()` within 1e-4;
        `accuracy="integer"` lets a backend that can (simd) compute in integers, several times faster, within 2 %.
        """
        asked = checks.queries(queries, (self.batch,), self.kv_heads, self.head_dim)
        _, heads, count, dim = asked.shape
        layers = self._layers(layer_idx)
        most = max(map(len, layers))
        whole = None if mask is None else checks.mask_of(mask, (self.batch, heads, count, most))
        out = np.empty((self.batch, heads, count, self.value_dim), np.float32)
        views = []
        for row, layer in enumerate(layers):
            own = None if whole is None else whole[row : row + 1, ..., : len(layer)]
            lead = (1, self.kv_heads, heads)
            views.append(
                checks.view(count, len(layer), causal=causal, sliding_window=sliding_window, mask=own, lead=lead)
            )
        for row, layer in enumerate(layers):
            grouped = asked[row].reshape(self.kv_heads, heads // self.kv_heads, count, dim)
            found = layer.attend(grouped, scale, softcap, views[row], workspace_bytes, accuracy)
            out[row] = found.reshape(heads, count, self.value_dim)
        return out

    def add_layer(self) -> None:
        """One more layer at the end, without tokens; for policies in which all layers are alike."""
        if self.policy != self.policy.inner():
            raise PolicyMismatch(f"{self.policy} has options for single layers, so none can be added")
        for row in self._rows:
            layer = row[0].fork()
            layer.clear()
            row.append(layer)
        self.layers += 1

    def crop(self, tokens: int | Sequence[int]) -> None:
        """Keep the first `tokens` tokens of every layer (negative: drop that many); or a number for each row."""
        if isinstance(tokens, (Sequence, np.ndarray)):
            if len(tokens) != self.batch:
                raise ShapeMismatch(f"crop takes one number or one for each of {self.batch} rows, got {len(tokens)}")
            keep = [checks.kept(number, held) for number, held in zip(tokens, self.lengths, strict=True)]
        else:
            keep = [checks.kept(tokens, held) for held in self.lengths]
        for row, number in zip(self._rows, keep, strict=True):
            for layer in row:
                layer.crop(number)

    def select(self, rows: ArrayLike) -> None:
        """Keep these rows of the batch, in this order; a row may be named more than once. Nothing is copied yet."""
        chosen = checks.positions(rows, self.batch, "rows")
        if not len(chosen):
            raise ShapeMismatch("a cache keeps at least one row")
        self._rows = [[layer.fork() for layer in self._rows[row]] for row in chosen]
        self.batch = len(self._rows)

    def reorder(self, rows: ArrayLike) -> None:
        """Beam search: row i becomes what row `rows[i]` was; as many rows as before, on packed codes."""
        chosen = checks.positions(rows, self.batch, "rows")
        if len(chosen) != self.batch:
            raise ShapeMismatch(
                f"reorder names a row for each of {self.batch}, got {len(chosen)}; select() changes the batch"
            )
        self.select(chosen)

    def repeat(self, times: int) -> None:
        """Each row `times` times, one after the other, as `np.repeat`."""
        self.select(np.repeat(np.arange(self.batch), checks.whole(times, 1, "times")))

    def fork(self) -> "DecoderCache":
        """The same tokens in a cache of its own; memory is shared until either of them grows."""
        twin = copy(self)
        twin._rows = [[layer.fork() for layer in row] for row in self._rows]
        return twin

    def split(self) -> "list[DecoderCache]":
        """A cache for each row, sharing memory with this one until either grows."""
        parts = []
        for row in range(self.batch):
            part = self.fork()
            part.select([row])
            parts.append(part)
        return parts

    @classmethod
    def merge(cls, caches: "Sequence[DecoderCache]") -> "DecoderCache":
        """The rows of all caches in one; they agree in model, policy and seed, or PolicyMismatch says where not."""
        if not caches:
            raise ShapeMismatch("merge takes at least one cache")
        whole = caches[0].fork()
        for other in caches[1:]:
            for name in ("layers", "kv_heads", "head_dim", "value_dim", "policy", "seed", "max_tokens", "backend"):
                mine, theirs = getattr(whole, name), getattr(other, name)
                if mine != theirs:
                    raise PolicyMismatch(f"caches to merge differ in {name}: {mine} and {theirs}")
            whole._rows += [[layer.fork() for layer in row] for row in other._rows]
        whole.batch = len(whole._rows)
        return whole

    def save(
        self,
        path: StrPath,
        *,
        model: str = "",
        tokens: ArrayLike | str | None = None,
        rope: Mapping[str, Any] | None = None,
        dtype: str = "float16",
        overwrite: bool = False,
    ) -> None:
        """Write the cache to a file, as QuantizedKVCache.save; token ids are one list for all rows, or one each."""
        snapshot.save(
            path,
            Shape(
                "decoder",
                str(self.policy),
                self.layers,
                self.batch,
                self.kv_heads,
                self.head_dim,
                self.value_dim,
                self.seed,
                self.max_tokens,
            ),
            self._rows,
            model=model,
            tokens=tokens,
            rope=rope,
            dtype=dtype,
            overwrite=overwrite,
        )

    @classmethod
    def load(
        cls,
        path: StrPath,
        *,
        model: str | None = None,
        tokens: ArrayLike | str | None = None,
        rope: Mapping[str, Any] | None = None,
        dtype: str | None = None,
        policy: CachePolicy | str | None = None,
        seed: int | None = None,
        backend: str = "auto",
        lazy: bool = True,
    ) -> Self:
        """The cache of a file, as QuantizedKVCache.load."""
        found = snapshot.Snapshot(path, "decoder")
        found.require(model=model, tokens=tokens, rope=rope, dtype=dtype, policy=policy, seed=seed)
        return cls._of(found, backend, lazy)

    @classmethod
    def load_prefix(
        cls,
        path: StrPath,
        tokens: ArrayLike,
        *,
        model: str | None = None,
        rope: Mapping[str, Any] | None = None,
        dtype: str | None = None,
        policy: CachePolicy | str | None = None,
        seed: int | None = None,
        backend: str = "auto",
        lazy: bool = True,
    ) -> Self:
        """As `load`, cropped to the tokens that each row has in common with `tokens` from the start on: `lengths`.

        `tokens`: ids, one list for all rows or one each. A row that evicted tokens cannot go back: it is kept where
        all of its ids agree, otherwise cleared. SnapshotMismatch where ids were not saved.
        """
        found = snapshot.Snapshot(path, "decoder")
        found.require(model=model, tokens=None, rope=rope, dtype=dtype, policy=policy, seed=seed)
        common = found.common_prefix(tokens)
        cache = cls._of(found, backend, lazy)
        for row, (kept_tokens, seen) in zip(cache._rows, common, strict=True):
            for layer in row:
                if kept_tokens < seen and layer.evicted:
                    layer.clear()
                else:
                    layer.crop(kept_tokens)
        return cache

    @classmethod
    def _of(cls, found: snapshot.Snapshot, backend: str, lazy: bool) -> Self:
        cache = found.built(
            lambda shape: cls(
                shape.layers,
                shape.kv_heads,
                shape.head_dim,
                shape.policy,
                batch=shape.batch,
                value_dim=shape.value_dim,
                seed=shape.seed,
                max_tokens=shape.max_tokens,
                backend=backend,
            )
        )
        found.fill(cache._rows, lazy=lazy)
        return cache

    def clear(self) -> None:
        """Forget all tokens and give their memory back."""
        for row in self._rows:
            for layer in row:
                layer.clear()

    def ledger(self) -> Ledger:
        """Every byte held; tables shared by layers, and memory shared by rows, counted once."""
        return ledger_of(side for row in self._rows for layer in row for side in (layer.keys, layer.values))

    @property
    def nbytes(self) -> int:
        """`ledger().total`."""
        return self.ledger().total

    def _layers(self, layer_idx: int) -> list[Layer]:
        index = checks.layer_index(layer_idx, self.layers)
        return [row[index] for row in self._rows]

    def _uniform(self, layer_idx: int) -> int:
        """Tokens that all rows hold in that layer."""
        lengths = {len(layer) for layer in self._layers(layer_idx)}
        if len(lengths) > 1:
            raise ShapeMismatch(
                f"rows hold {sorted(lengths)} tokens and do not fit one array; select([row]) one of them"
            )
        return lengths.pop()

    def _by_row(self, lanes: NDArray[np.floating]) -> NDArray[np.floating]:
        return lanes.reshape(self.batch, self.kv_heads, *lanes.shape[1:])

    def __repr__(self) -> str:
        shape = f"layers={self.layers}, kv_heads={self.kv_heads}, head_dim={self.head_dim}, batch={self.batch}"
        return f"DecoderCache({shape}, policy={str(self.policy)!r}, tokens={len(self)})"
