"""The packed cache of a runner: new tokens of all layers go in, and what they decode to takes the floats' place."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tq_cache import CachePolicy, DecoderCache
from tq_core import ScaleRange
from tq_onnx.admission import check_rows, largest_norm
from tq_onnx.errors import UnsupportedBundle
from tq_onnx.inputs import Signature
from tq_onnx.surgery.site import Site

Floats = NDArray[np.floating]
F32 = NDArray[np.float32]


def refuse_mixed_forms(signature: Signature) -> None:
    """UnsupportedBundle, which names the first tensor that differs, where layers have different heads or dims."""
    first = signature.layers[0]
    for layer in signature.layers[1:]:
        if layer.form != first.form:
            raise UnsupportedBundle(
                f"input {layer.past_key!r} has {layer.kv_heads} heads of {layer.key_dim} and {layer.value_dim} "
                f"numbers, {first.past_key!r} has {first.kv_heads} of {first.key_dim} and {first.value_dim}: a packed "
                "cache holds layers of one form; mode 'exact' runs this bundle"
            )


def policies_of(policy: CachePolicy, signature: Signature) -> Iterator[CachePolicy]:
    """What a resolved policy says for each head of each layer, options of single ones taken in."""
    layers = len(signature.layers)
    for layer in range(layers):
        for head in range(signature.kv_heads):
            yield policy.for_layer(layer, layers, head)


class PackedCache:
    """A DecoderCache for the layers of a graph; split by rows as soon as rows begin in different columns.

    `tokens_written` counts tokens quantized, over all layers, rows counted once.
    """

    def __init__(
        self, signature: Signature, policy: str | CachePolicy, batch: int, seed: int, backend: str, capacity: int
    ) -> None:
        refuse_mixed_forms(signature)
        self._layers, self._batch = signature.layers, batch
        resolved = CachePolicy.parse(policy).resolve(len(self._layers))
        self._largest_norm = min(largest_norm(one) for one in policies_of(resolved, signature))
        whole = DecoderCache(
            len(self._layers),
            signature.kv_heads,
            signature.key_dim,
            resolved,
            batch=batch,
            value_dim=signature.value_dim,
            seed=seed,
            backend=backend,
            # room for codes, which sinks and window do not have
            capacity=max(0, capacity - resolved.sinks - resolved.window),
        )
        self._parts = [whole]
        self.tokens_written = 0

    @property
    def cache(self) -> DecoderCache:
        """All rows in one cache; shares memory with this one where rows had to be split."""
        return self._parts[0] if len(self._parts) == 1 else DecoderCache.merge(self._parts)

    def clear(self) -> None:
        """Forget all tokens, and that rows were split."""
        if len(self._parts) > 1:
            self._parts = [DecoderCache.merge(self._parts)]
        self._parts[0].clear()
        self.tokens_written = 0

    def adopt(self, cache: DecoderCache) -> None:
        """Take over a cache of the same policy and dims, as read from a snapshot."""
        self._parts = [cache]

    def write(self, targets: Mapping[str, NDArray[Any]], start: int, stop: int, padding: NDArray[np.int64]) -> None:
        """Pack columns start..stop-1 of the layers' tensors; changed tokens become what their codes decode to.

        `padding` columns of each row hold no token. Everything is checked before any layer takes a token; what fails
        later is undone, so that the cache is as it was.
        """
        new = {name: array[:, :, start:stop] for name, array in targets.items()}
        self._take(new, start, padding, targets)

    def append(self, new: Sequence[tuple[Floats, Floats]], start: int, padding: NDArray[np.int64]) -> None:
        """Pack (batch, kv_heads, n, dim) keys and values of all layers, the tokens from column `start` on.

        As `write` where no floats are kept.
        """
        named: dict[str, NDArray[Any]] = {}
        for layer, pair in zip(self._layers, new, strict=True):
            named |= dict(zip((layer.past_key, layer.past_value), pair, strict=True))
        self._take(named, start, padding, None)

    def attend(
        self, site: Site, queries: Floats, keys: Floats, values: Floats, start: int, padding: NDArray[np.int64]
    ) -> F32:
        """Attention of new tokens over what is packed and, exactly, themselves: (batch, query heads, n, value dim).

        `keys` and `values` are those of the new tokens, which begin at column `start`; padding gets zeros.
        """
        self._align(padding)
        if len(self._parts) == 1 and not padding.any():
            return _attended(self._parts[0], site, queries, keys, values)
        out = np.zeros((*queries.shape[:3], values.shape[3]), np.float32)
        width = self._batch // len(self._parts)
        for number, part in enumerate(self._parts):
            rows = slice(number * width, (number + 1) * width)
            first = max(0, int(padding[rows].max()) - start)
            if first < queries.shape[2]:
                own = (tensor[rows, :, first:] for tensor in (queries, keys, values))
                out[rows, :, first:] = _attended(part, site, *own)
        return out

    def _take(
        self,
        new: Mapping[str, NDArray[Any]],
        start: int,
        padding: NDArray[np.int64],
        targets: Mapping[str, NDArray[Any]] | None,
    ) -> None:
        """Pack new tokens by name; what their codes decode to goes into `targets`, all columns by name."""
        self._check(new, start, padding)
        self._align(padding)
        width = self._batch // len(self._parts)
        written = 0
        before = [len(part) for part in self._parts]
        try:
            with np.errstate(over="raise"):
                for number, part in enumerate(self._parts):
                    rows = slice(number * width, (number + 1) * width)
                    written += self._pack(part, new, rows, start, int(padding[rows].max()), targets)
        except BaseException as error:
            for part, length in zip(self._parts, before, strict=True):
                part.crop(length)
            if isinstance(error, FloatingPointError):
                dtype = new[self._layers[0].past_key].dtype
                raise ScaleRange(f"a decoded vector exceeds the {dtype} cache") from error
            raise
        self.tokens_written += written if width == self._batch else written // self._batch

    def _align(self, padding: NDArray[np.int64]) -> None:
        """Split the rows once any of them begins later than another."""
        if len(self._parts) == 1 and self._batch > 1 and padding.any():
            self._parts = self._parts[0].split()

    def _check(self, new: Mapping[str, NDArray[Any]], start: int, padding: NDArray[np.int64]) -> None:
        # padding attends to nothing, and what a graph computes there is no vector of the cache
        padded = np.flatnonzero(padding > start)
        for layer in self._layers:
            for name in (layer.past_key, layer.past_value):
                for row in padded:
                    new[name][row, :, : padding[row] - start] = 0
                check_rows(new[name], self._largest_norm, name)

    def _pack(
        self,
        part: DecoderCache,
        new: Mapping[str, NDArray[Any]],
        rows: slice,
        start: int,
        padding: int,
        targets: Mapping[str, NDArray[Any]] | None,
    ) -> int:
        """Pack the new tokens of some rows, which begin after `padding` columns; tokens quantized over all layers."""
        first = max(0, padding - start)
        pairs = [(new[layer.past_key][rows], new[layer.past_value][rows]) for layer in self._layers]
        if first >= pairs[0][0].shape[2]:
            return 0
        changed = part.append_layers([(keys[:, :, first:], values[:, :, first:]) for keys, values in pairs])
        if targets is not None:
            for index, (layer, (quantized, *_)) in enumerate(zip(self._layers, changed, strict=True)):
                if len(quantized) == 0:  # all rows alike
                    continue
                columns = slice(quantized.start + padding, quantized.stop + padding)
                for name, decoded in ((layer.past_key, part.keys), (layer.past_value, part.values)):
                    targets[name][rows, :, columns] = decoded(index, quantized.start, quantized.stop)
        return sum(len(rows_of_layer[0]) for rows_of_layer in changed)

    def read(self, targets: Mapping[str, NDArray[Any]]) -> None:
        """Fill the layers' tensors with what the cache holds; rows are of one length."""
        for index, layer in enumerate(self._layers):
            targets[layer.past_key][:, :, : len(self.cache)] = self.cache.keys(index)
            targets[layer.past_value][:, :, : len(self.cache)] = self.cache.values(index)


def _attended(cache: DecoderCache, site: Site, queries: Floats, keys: Floats, values: Floats) -> F32:
    """Attention of new tokens of rows that all begin in one column."""
    return cache.attend(
        queries,
        site.layer,
        scale=site.scale,
        causal=True,
        softcap=site.softcap or None,
        sliding_window=site.window,
        fresh=(keys, values),
    )
