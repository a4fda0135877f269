"""The rows of a batch: each is a sequence of its own, cropped, moved, split and merged on packed codes."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from tq_cache import checks, snapshot
from tq_cache.atomic_file import StrPath
from tq_cache.errors import PolicyMismatch
from tq_cache.packed_cache import PackedCache
from tq_cache.policy import CachePolicy
from tq_core import InvalidSpec, ShapeMismatch


class BatchCache(PackedCache):
    """A PackedCache whose rows may hold different numbers of tokens. Nothing here decodes or encodes."""

    def __len__(self) -> int:
        """Tokens held by the longest row in the first layer; during a step, later layers may hold fewer."""
        return max(self.lengths)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens that each row holds in the first layer."""
        return tuple(len(row[0]) for row in self._rows)

    def crop(self, tokens: int | Sequence[int]) -> None:
        """Keep the first `tokens` tokens of every layer (negative: drop that many); or a number for each row."""
        if isinstance(tokens, Sequence) or (isinstance(tokens, np.ndarray) and tokens.ndim):
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

    def split(self) -> list[Self]:
        """A cache for each row, sharing memory with this one until either grows."""
        parts = []
        for row in range(self.batch):
            part = self.fork()
            part.select([row])
            parts.append(part)
        return parts

    @classmethod
    def merge(cls, caches: Sequence[Self]) -> Self:
        """The rows of all caches in one; they agree in model, policy and seed, or PolicyMismatch says where not."""
        if not isinstance(caches, Sequence) or not all(isinstance(cache, cls) for cache in caches):
            raise InvalidSpec(f"merge takes a list of {cls.__name__}, got {caches!r:.80}")
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
            for index, layer in enumerate(row):
                if kept_tokens < seen and (layer.evicted or not kept_tokens):
                    row[index] = layer.cleared()
                else:
                    layer.crop(kept_tokens)
        return cache
