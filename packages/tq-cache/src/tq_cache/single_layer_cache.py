"""What the caches of one head and of one layer share: a single Layer, of which they are two views."""

from collections.abc import Mapping
from copy import copy
from typing import Any, ClassVar, Self

from numpy.typing import ArrayLike

from tq_cache import checks, snapshot
from tq_cache.atomic_file import StrPath
from tq_cache.layer import Layer, codecs_for
from tq_cache.ledger import Ledger, ledger_of
from tq_cache.policy import CachePolicy
from tq_cache.snapshot_facts import Shape


class SingleLayerCache:
    """Length, mutators, snapshots and ledger; a subclass adds the shapes of arrays and says how it is made again."""

    KIND: ClassVar[str]

    def __init__(
        self,
        kv_heads: int,
        head_dim: int,
        policy: CachePolicy | str,
        value_dim: int | None,
        seed: int,
        max_tokens: int,
        backend: str,
        capacity: int,
    ) -> None:
        self.kv_heads = checks.whole(kv_heads, 1, "kv_heads")
        self.head_dim = checks.dimension(head_dim, "head_dim")
        self.value_dim = self.head_dim if value_dim is None else checks.dimension(value_dim, "value_dim")
        self.policy = CachePolicy.parse(policy).inner()
        self.max_tokens = checks.whole(max_tokens, 0, "max_tokens")
        self.seed = checks.seed_value(seed)
        dims, room = (self.head_dim, self.value_dim), checks.whole(capacity, 0, "capacity")
        codecs = codecs_for([self.policy], dims, self.seed, backend)
        self._layer = Layer(self.kv_heads, dims, self.policy, codecs, self.max_tokens, room)

    @classmethod
    def _like(cls, shape: Shape, backend: str) -> Self:
        """An empty cache of that shape."""
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self._layer)

    def crop(self, tokens: int) -> None:
        """Keep the first `tokens` tokens (negative: drop that many of the last ones); fewer held: nothing changes."""
        self._layer.crop(checks.kept(tokens, len(self)))

    def reorder(self, rows: ArrayLike) -> None:
        """Keep the tokens at these positions, in this order; InvalidSpec where exact and quantized ones would mix."""
        self._layer.take(checks.positions(rows, len(self), "rows"))

    def fork(self) -> Self:
        """The same tokens in a cache of its own; memory is shared until either of them grows."""
        twin = copy(self)
        twin._layer = self._layer.fork()
        return twin

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
        """Write the cache to a file, whole or not at all; equal caches give equal bytes (docs/format.md, section 9).

        The rest are facts to recognise it by: the name and dtype of the model, the ids of all tokens seen, evicted
        ones included (or only their sha256, see the format), and `rope`, a dict of what decides how positions enter
        keys. Raises SnapshotExists, SnapshotNotFound or SnapshotAccess for what is in the way, InvalidSpec or
        ShapeMismatch for facts that cannot be.
        """
        snapshot.save(
            path,
            Shape(
                self.KIND,
                str(self.policy),
                1,
                1,
                self.kv_heads,
                self.head_dim,
                self.value_dim,
                self.seed,
                self.max_tokens,
            ),
            [[self._layer]],
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
        """The cache of a file, which continues as if it had never been saved; the file itself is never written.

        Facts that are given must be those of the file, or SnapshotMismatch names fact and values. The file is mapped,
        and only what grows is copied. Its header is verified here; the tokens of a layer's keys or values when they
        are first used, or all here with `lazy=False`: CorruptData names file and tensor before any number is used.
        """
        found = snapshot.Snapshot(path, cls.KIND)
        found.require(model=model, tokens=tokens, rope=rope, dtype=dtype, policy=policy, seed=seed)
        cache = found.built(lambda shape: cls._like(shape, backend))
        found.fill([[cache._layer]], lazy=lazy)
        return cache

    def clear(self) -> None:
        """Forget all tokens and give their memory back."""
        self._layer.clear()

    def ledger(self) -> Ledger:
        """Every byte held."""
        return ledger_of((self._layer.keys, self._layer.values))

    @property
    def nbytes(self) -> int:
        """`ledger().total`."""
        return self.ledger().total
