"""The packed cache of a runner: new tokens of all layers go in, and what they decode to takes the floats' place."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tq_cache import CachePolicy, DecoderCache
from tq_core import ScaleRange
from tq_onnx.admission import check_rows, largest_norm
from tq_onnx.errors import UnsupportedBundle
from tq_onnx.inputs import Signature


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


class PackedCache:
    """A DecoderCache for the layers of a graph; split by rows as soon as rows begin in different columns.

    `tokens_written` counts tokens quantized, over all layers, rows counted once.
    """

    def __init__(
        self, signature: Signature, policy: str | CachePolicy, batch: int, seed: int, backend: str, capacity: int
    ) -> None:
        refuse_mixed_forms(signature)
        self._layers, self._batch = signature.layers, batch
        count = len(self._layers)
        resolved = CachePolicy.parse(policy).resolve(count)
        heads = range(signature.kv_heads)
        self._largest_norm = min(
            largest_norm(resolved.for_layer(index, count, head)) for index in range(count) for head in heads
        )
        whole = DecoderCache(
            count,
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

    def write(self, targets: Mapping[str, NDArray[Any]], start: int, padding: NDArray[np.int64]) -> None:
        """Pack columns `start` and later of the layers' tensors; changed tokens become what their codes decode to.

        `padding` columns of each row hold no token. Everything is checked before any layer takes a token; what fails
        later is undone, so that the cache is as it was.
        """
        self._check(targets, start, padding)
        if len(self._parts) == 1 and self._batch > 1 and padding.any():
            self._parts = self._parts[0].split()
        width = self._batch // len(self._parts)
        written = 0
        before = [len(part) for part in self._parts]
        try:
            with np.errstate(over="raise"):
                for number, part in enumerate(self._parts):
                    rows = slice(number * width, (number + 1) * width)
                    written += self._pack(part, targets, rows, start, int(padding[rows].max()))
        except BaseException as error:
            for part, length in zip(self._parts, before, strict=True):
                part.crop(length)
            if isinstance(error, FloatingPointError):
                dtype = targets[self._layers[0].past_key].dtype
                raise ScaleRange(f"a decoded vector exceeds the {dtype} cache") from error
            raise
        self.tokens_written += written if width == self._batch else written // self._batch

    def _check(self, targets: Mapping[str, NDArray[Any]], start: int, padding: NDArray[np.int64]) -> None:
        for layer in self._layers:
            for name in (layer.past_key, layer.past_value):
                # padding attends to nothing, and what a graph computes there is no vector of the cache
                for row in np.flatnonzero(padding > start):
                    targets[name][row, :, start : padding[row]] = 0
                check_rows(targets[name][:, :, start:], self._largest_norm, name)

    def _pack(
        self, part: DecoderCache, targets: Mapping[str, NDArray[Any]], rows: slice, start: int, padding: int
    ) -> int:
        """Pack the new tokens of some rows, which begin after `padding` columns; tokens quantized over all layers."""
        first, written = max(start, padding), 0
        for index, layer in enumerate(self._layers):
            keys, values = targets[layer.past_key][rows], targets[layer.past_value][rows]
            if first >= keys.shape[2]:
                return 0
            changed = part.append(keys[:, :, first:], values[:, :, first:], index)[0]  # all rows alike
            if len(changed) == 0:
                continue
            columns = slice(changed.start + padding, changed.stop + padding)
            keys[:, :, columns] = part.keys(index, changed.start, changed.stop)
            values[:, :, columns] = part.values(index, changed.start, changed.stop)
            written += len(changed)
        return written

    def read(self, targets: Mapping[str, NDArray[Any]]) -> None:
        """Fill the layers' tensors with what the cache holds; rows are of one length."""
        for index, layer in enumerate(self._layers):
            targets[layer.past_key][...] = self.cache.keys(index)
            targets[layer.past_value][...] = self.cache.values(index)
