"""What every cache is made of: rows of layers of one form, their snapshots and their ledger."""

from collections.abc import Mapping
from copy import copy
from typing import Any, ClassVar, Self

from numpy.typing import ArrayLike

from tq_cache import checks, snapshot
from tq_cache.atomic_file import StrPath
from tq_cache.given import given
from tq_cache.layer import Layer
from tq_cache.ledger import Ledger, ledger_of
from tq_cache.plan import Given, Planner
from tq_cache.policy import CachePolicy
from tq_cache.snapshot_facts import Shape, own_policy
from tq_core.checks import seed_value
from tq_core.device import typed_memory


class PackedCache:
    """`_rows[row][layer]`: a sequence of its own for each row of a batch. A subclass adds the shapes of arrays."""

    KIND: ClassVar[str]

    @typed_memory
    def __init__(
        self,
        policy: CachePolicy | str,
        *,
        layers: int,
        batch: int,
        kv_heads: int,
        head_dim: int,
        value_dim: int | None,
        seed: int,
        max_tokens: int,
        backend: str,
        capacity: int = 0,
        key_means: ArrayLike | None = None,
        key_energies: ArrayLike | None = None,
        value_energies: ArrayLike | None = None,
        from_file: bool = False,
    ) -> None:
        self.layers = checks.whole(layers, 1, "layers")
        self.batch = checks.whole(batch, 1, "batch")
        self.kv_heads = checks.whole(kv_heads, 1, "kv_heads")
        self.head_dim = checks.dimension(head_dim, "head_dim")
        self.value_dim = self.head_dim if value_dim is None else checks.dimension(value_dim, "value_dim")
        self.max_tokens = checks.whole(max_tokens, 0, "max_tokens")
        self.seed, self.backend = seed_value(seed), backend
        self.policy = own_policy(self._shape(""), policy)
        dims, room = (self.head_dim, self.value_dim), checks.whole(capacity, 0, "capacity")
        planner = Planner(self.policy, self.layers, self.kv_heads, dims, self.seed, backend)
        self._place = planner.place
        known = Given()
        if not from_file:
            lead = {"head": (), "layer": (self.kv_heads,), "decoder": (self.layers, self.kv_heads)}[self.KIND]
            needs = [pair for index in range(self.layers) for pair in planner.needs(index)]
            arrays = (key_means, key_energies, value_energies)
            known = given(needs, lead, (self.layers, self.kv_heads), dims, *arrays)
        plans = [planner.plan(index, known, self.max_tokens) for index in range(self.layers)]
        self._rows = [[Layer(plan, self.max_tokens, room) for plan in plans] for _ in range(self.batch)]

    @typed_memory
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
        ones included (one list for all rows of a batch, or one each; or only their sha256, see the format), and
        `rope`, a dict of what decides how positions enter keys. Raises SnapshotExists, SnapshotNotFound or
        SnapshotAccess for what is in the way, InvalidSpec or ShapeMismatch for facts that cannot be.
        """
        snapshot.save(
            path,
            self._shape(str(self.policy)),
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
        """The cache of a file, which continues as if it had never been saved; the file itself is never written.

        Facts that are given must be those of the file, or SnapshotMismatch names fact and values. The file is mapped,
        and only what grows is copied; with `backend="gpu"` what is used is copied to the device. The header is verified
        here; the tokens of a layer's keys or values when they are first used, or all here with `lazy=False`:
        CorruptData names file and tensor before any number is used.
        """
        found = snapshot.Snapshot(path, cls.KIND)
        found.require(model=model, tokens=tokens, rope=rope, dtype=dtype, policy=policy, seed=seed)
        return cls._of(found, backend, lazy)

    @classmethod
    @typed_memory
    def _of(cls, found: snapshot.Snapshot, backend: str, lazy: bool) -> Self:
        cache = found.built(lambda shape: cls._empty(shape, backend))
        found.fill(cache._rows, lazy=lazy)
        return cache

    @classmethod
    def _empty(cls, shape: Shape, backend: str) -> Self:
        """A cache of that shape without tokens, and without what is given: that is in the file."""
        cache = cls.__new__(cls)
        PackedCache.__init__(
            cache,
            shape.policy,
            layers=shape.layers,
            batch=shape.batch,
            kv_heads=shape.kv_heads,
            head_dim=shape.head_dim,
            value_dim=shape.value_dim,
            seed=shape.seed,
            max_tokens=shape.max_tokens,
            backend=backend,
            from_file=True,
        )
        return cache

    def _shape(self, policy: str) -> Shape:
        sizes = (self.layers, self.batch, self.kv_heads, self.head_dim, self.value_dim)
        return Shape(self.KIND, policy, *sizes, self.seed, self.max_tokens)

    def fork(self) -> Self:
        """The same tokens in a cache of its own; memory is shared until either of them grows."""
        twin = copy(self)
        twin._rows = [[layer.fork() for layer in row] for row in self._rows]
        return twin

    @typed_memory
    def clear(self) -> None:
        """Forget all tokens and give their memory back; room for `capacity` tokens is made before that."""
        self._rows = [[layer.cleared() for layer in row] for row in self._rows]

    def ledger(self) -> Ledger:
        """Every byte held; tables shared by layers, and memory shared by rows, counted once."""
        return ledger_of(side for row in self._rows for layer in row for side in layer.sides())

    @property
    def nbytes(self) -> int:
        """`ledger().total`."""
        return self.ledger().total
