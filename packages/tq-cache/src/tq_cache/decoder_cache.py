"""DecoderCache: the cache of a whole model, with the update convention of transformers."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tq_cache import checks, together
from tq_cache.attention import WORKSPACE_BYTES
from tq_cache.batch_cache import BatchCache
from tq_cache.errors import PolicyMismatch
from tq_cache.exact_tokens import Fresh
from tq_cache.grammar import GIVEN
from tq_cache.layer import Layer
from tq_cache.place import HOST, waits_once
from tq_cache.policy import CachePolicy
from tq_core import ShapeMismatch
from tq_core.device import is_bfloat16, typed_memory

F32 = NDArray[np.float32]


class DecoderCache(BatchCache):
    """Keys and values of all layers, arrays (batch, kv_heads, tokens, head_dim), held as packed codes.

    With `backend="gpu"` everything lies on the device: arrays that come (cupy, torch, DLPack) and go are the device's,
    and WrongDevice refuses others; masks, positions and what is given may be of the host.

    Every row of the batch is a sequence of its own: rows are cropped, reordered, repeated, selected, merged and split
    without decoding anything, and may hold different numbers of tokens (`lengths`). `policy` is resolved against the
    model: `.policy` is what is followed and printed, and PolicyMismatch is raised for what this model cannot have.
    Layers share rotations and codebooks. Options as QuantizedKVCache, what is given (layers, kv_heads, dim).
    """

    KIND = "decoder"

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
        key_means: ArrayLike | None = None,
        key_energies: ArrayLike | None = None,
        value_energies: ArrayLike | None = None,
    ) -> None:
        super().__init__(
            policy,
            layers=layers,
            batch=batch,
            kv_heads=kv_heads,
            head_dim=head_dim,
            value_dim=value_dim,
            seed=seed,
            max_tokens=max_tokens,
            backend=backend,
            capacity=capacity,
            key_means=key_means,
            key_energies=key_energies,
            value_energies=value_energies,
        )

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens held by the longest row in that layer."""
        return max(map(len, self._layers(layer_idx)))

    @typed_memory
    def append(self, keys: ArrayLike, values: ArrayLike, layer_idx: int) -> list[range]:
        """Add (batch, kv_heads, n, head_dim) keys and values to one layer; returns the positions each row quantized.

        Errors as QuantizedKVCache.append; OutOfDeviceMemory of a full device. A failing call changes nothing.
        """
        return self._change([(keys, values, layer_idx)]).carry_out()

    @typed_memory
    def append_layers(self, new: Sequence[tuple[ArrayLike, ArrayLike]]) -> list[list[range]]:
        """Add tokens to every layer: keys and values of each, as `append` takes them; what it returns, for each.

        The same tokens as a call of `append` for each layer, bit for bit and faster. All layers take them or none: a
        failing call leaves the whole cache as it was.
        """
        if len(new) != self.layers:
            raise ShapeMismatch(f"append_layers takes a pair for each of {self.layers} layers, got {len(new)}")
        quantized = self._change([(*pair, index) for index, pair in enumerate(new)]).carry_out()
        return [quantized[start : start + self.batch] for start in range(0, len(quantized), self.batch)]

    @typed_memory
    def update(
        self, key_states: ArrayLike, value_states: ArrayLike, layer_idx: int
    ) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        """Append, then return all keys and values of the layer as the codes decode to, in the dtype that came in.

        Shapes (batch, kv_heads, tokens, head_dim). Costs O(tokens) a call; `append` and `attend` do not decode. What
        decodes to beyond float16, though what came in was within, is returned as float16's largest number. On a device
        bfloat16 comes back as float32. Errors as `append`; where there is no room to decode nothing was appended.
        """
        self._uniform(layer_idx)
        with self._change([(key_states, value_states, layer_idx)]).standing():
            return (
                self._as_given(self.keys(layer_idx), key_states),
                self._as_given(self.values(layer_idx), value_states),
            )

    @typed_memory
    def keys(self, layer_idx: int, start: int = 0, stop: int | None = None) -> F32:
        """What the codes of tokens start..stop-1 decode to, (batch, kv_heads, tokens, head_dim) float32.

        Raises ShapeMismatch where rows hold different numbers of tokens: `select([row])` one of them.
        """
        length = self._uniform(layer_idx)
        return together.keys(self._layers(layer_idx), *checks.span(start, stop, length))

    @typed_memory
    def values(self, layer_idx: int, start: int = 0, stop: int | None = None) -> F32:
        """As `keys`, (batch, kv_heads, tokens, value_dim) float32."""
        length = self._uniform(layer_idx)
        return together.values(self._layers(layer_idx), *checks.span(start, stop, length))

    @waits_once
    def scores(self, queries: ArrayLike, layer_idx: int) -> F32:
        """Inner products of (batch, query_heads, n, head_dim) queries with keys, (batch, query_heads, n, tokens).

        Rows that hold fewer tokens than the longest have -inf behind their last.
        """
        asked = checks.queries(queries, (self.batch,), self.kv_heads, self.head_dim, self._place)
        _, heads, count, dim = asked.shape
        layers = self._layers(layer_idx)
        out: F32 = self._place.xp.full((self.batch, heads, count, max(map(len, layers))), -np.inf, np.float32)
        for row, layer in enumerate(layers):
            grouped = asked[row].reshape(self.kv_heads, heads // self.kv_heads * count, dim)
            out[row, ..., : len(layer)] = layer.scores(grouped).reshape(heads, count, len(layer))
        return out

    @waits_once
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
        fresh: tuple[ArrayLike, ArrayLike] | None = None,
    ) -> F32:
        """softmax(q K^T scale) V straight from packed codes, (batch, query_heads, n, value_dim) float32.

        Options as MultiHeadKVCache.attend, for each row by itself: with `causal` the queries are the last n tokens of
        their row. `mask` may have the batch before: (batch, query_heads, n, tokens), of the longest row.
        """
        asked = checks.queries(queries, (self.batch,), self.kv_heads, self.head_dim, self._place)
        _, heads, count, dim = asked.shape
        layers = self._layers(layer_idx)
        behind = checks.fresh(fresh, (self.batch, self.kv_heads), (self.head_dim, self.value_dim), self._place)
        rows = (
            [None] * self.batch
            if behind is None
            else [Fresh(*sides) for sides in zip(*map(self._by_row, behind), strict=True)]
        )
        new = 0 if behind is None else behind.keys.shape[1]
        most = max(map(len, layers)) + new
        whole = None if mask is None else checks.mask_of(mask, (self.batch, heads, count, most), self._place)
        options: dict[str, Any] = {
            "causal": causal,
            "sliding_window": sliding_window,
            "lead": (1, self.kv_heads, heads),
            "place": self._place,
        }
        found = []
        for row, layer in enumerate(layers):
            seen = len(layer) + new
            own = None if whole is None else whole[row : row + 1, ..., :seen]
            view = checks.view(count, seen, mask=own, **options)
            grouped = asked[row].reshape(self.kv_heads, heads // self.kv_heads, count, dim)
            attended = layer.attend(grouped, scale, softcap, view, workspace_bytes, accuracy, rows[row])
            found.append(attended.reshape(heads, count, self.value_dim))
        return found[0][None] if len(found) == 1 else np.stack(found)

    @typed_memory
    def add_layer(self) -> None:
        """One more layer at the end, without tokens; for policies in which all layers are alike."""
        if self.policy != self.policy.inner():
            raise PolicyMismatch(f"{self.policy} has options for single layers, so none can be added")
        if any(GIVEN in side.needs for side in self._rows[0][0].sides()):
            raise PolicyMismatch(f"{self.policy}: nothing is given for one more layer, so none can be added")
        for row, layer in zip(self._rows, [row[0].cleared() for row in self._rows], strict=True):
            row.append(layer)
        self.layers += 1

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

    def _dtype_of(self, given: Any) -> "np.dtype[Any]":
        """The dtype of what came in; on a device, where bfloat16 is no dtype of arrays, float32 for that."""
        if self._place is HOST:
            return np.asarray(given).dtype.newbyteorder("=")
        if is_bfloat16(given):
            return np.dtype(np.float32)
        dtype: np.dtype[Any] = self._place.adopt(given, "the states").dtype
        return dtype

    @waits_once
    def _change(self, new: Sequence[tuple[ArrayLike, ArrayLike, int]]) -> together.Change:
        """What adding keys and values does, each to the layer of that index."""
        lead, dims = (self.batch, self.kv_heads), (self.head_dim, self.value_dim)
        layers: list[Layer] = []
        keys: list[NDArray[np.floating]] = []
        values: list[NDArray[np.floating]] = []
        for layer_keys, layer_values, index in new:
            layers += self._layers(index)
            new_keys, new_values = checks.tokens(layer_keys, layer_values, lead, dims, self._place)
            keys.extend(self._by_row(new_keys))
            values.extend(self._by_row(new_values))
        return together.prepared(layers, keys, values)

    def _as_given(self, held: F32, given: Any) -> NDArray[np.floating]:
        """What was decoded in the dtype of what came in; changes `held`."""
        dtype = self._dtype_of(given)
        if dtype == np.float16:
            largest = np.finfo(np.float16).max
            np.clip(held, -largest, largest, out=held)
        return held.astype(dtype, copy=False)

    def _by_row(self, lanes: NDArray[np.floating]) -> NDArray[np.floating]:
        return lanes.reshape(self.batch, self.kv_heads, *lanes.shape[1:])

    def __repr__(self) -> str:
        shape = f"layers={self.layers}, kv_heads={self.kv_heads}, head_dim={self.head_dim}, batch={self.batch}"
        return f"DecoderCache({shape}, policy={str(self.policy)!r}, tokens={len(self)})"
