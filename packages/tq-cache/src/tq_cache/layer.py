"""One layer of any number of lanes: which tokens are exact, which are codes, which are evicted."""

from collections.abc import Iterator
from copy import copy
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tq_cache import checks
from tq_cache.attention import ACCURACIES, attend
from tq_cache.exact_tokens import Fresh
from tq_cache.flow import Flow
from tq_cache.plan import Heads, LayerPlan
from tq_cache.side import Side
from tq_cache.softmax import View
from tq_core import InvalidSpec

F32 = NDArray[np.float32]
Floats = NDArray[np.floating]


class Group(NamedTuple):
    """Lanes that are stored alike; `heads` None: all lanes of the layer."""

    heads: Heads | None
    keys: Side
    values: Side


class Layer:
    """Keys and values, (lanes, tokens, dim) each. All lanes always hold the same tokens, in groups stored alike."""

    def __init__(self, plan: LayerPlan, max_tokens: int, capacity: int) -> None:
        self.lanes, self.sink_limit, self.window, self.waits, groups = plan
        self.max_tokens = max_tokens
        self.groups = tuple(
            Group(heads, Side(keys, plan.sinks, capacity), Side(values, plan.sinks, capacity))
            for heads, keys, values in groups
        )
        self.evicted = 0

    def __len__(self) -> int:
        return sum(self._held())

    def sides(self) -> Iterator[Side]:
        """Keys and values of each group."""
        for group in self.groups:
            yield group.keys
            yield group.values

    def scores(self, queries: F32) -> F32:
        """Inner products of (lanes, queries, key dim) with all tokens of their lane, (lanes, queries, tokens)."""
        parts = [group.keys.scores(queries if group.heads is None else queries[group.heads]) for group in self.groups]
        return self.joined(parts)

    def joined(self, parts: list[F32]) -> F32:
        """(lanes, ...) from the (lanes of a group, ...) of each group."""
        if len(parts) == 1:
            return parts[0]
        out: F32 = self.groups[0].keys.place.xp.empty((self.lanes, *parts[0].shape[1:]), np.float32)
        for group, part in zip(self.groups, parts, strict=True):
            out[group.heads] = part
        return out

    def attend(
        self,
        queries: F32,
        scale: float | None,
        softcap: float | None,
        view: View,
        workspace_bytes: int,
        accuracy: str,
        fresh: Fresh | None = None,
    ) -> F32:
        """Attention of (lanes, heads a lane, n, key dim) queries, shaped (..., value dim); see tq_cache.attention."""
        factor = checks.positive(scale, "scale", self.groups[0].keys.dim ** -0.5)
        cap = checks.positive(softcap, "softcap", 0.0)
        room = checks.whole(workspace_bytes, 1, "workspace_bytes")
        if accuracy not in ACCURACIES:
            raise InvalidSpec(f"accuracy must be one of {', '.join(ACCURACIES)}, got {accuracy!r}")
        parts = []
        for heads, keys, values in self.groups:
            own, seen = (queries, view) if heads is None else (queries[heads], view.of(heads))
            new = fresh if fresh is None or heads is None else Fresh(fresh.keys[heads], fresh.values[heads])
            parts.append(attend(keys, values, own, factor, seen, cap, room, accuracy, new))
        return self.joined(parts)

    def crop(self, tokens: int) -> None:
        """Keep the first `tokens` tokens at most. What was quantized stays quantized."""
        sinks, coded, recent = self._held()
        keep_sinks = min(sinks, tokens)
        keep_coded = min(coded, tokens - keep_sinks)
        keep_recent = min(recent, tokens - keep_sinks - keep_coded)
        for side in self.sides():
            side.crop(keep_sinks, keep_coded, keep_recent)

    def cleared(self) -> "Layer":
        """The layer without tokens, evicted ones included: the next token is the first again."""
        bare = copy(self)
        bare.groups = tuple(Group(heads, copy(keys), copy(values)) for heads, keys, values in self.groups)
        for side in bare.sides():
            side.clear()
        bare.evicted = 0
        return bare

    def take(self, positions: NDArray[np.int64]) -> None:
        """Keep the tokens at these positions, in this order; InvalidSpec where the three parts would mix."""
        first, second = self.groups[0].keys.borders()
        parts = np.digitize(positions, [first, second])
        if (np.diff(parts) < 0).any():
            raise InvalidSpec(
                "tokens kept exact (sinks, window) cannot change places with quantized ones; "
                "keep sinks first, then quantized tokens, then those of the window"
            )
        dropped = len(self) - len(positions)
        self.open()
        taken = self.fork()  # memory may run out on the way
        for side in taken.sides():
            side.take(positions[parts == 0], positions[parts == 1] - first, positions[parts == 2] - second)
        self.groups = taken.groups
        self.evicted += dropped  # positions go on counting: what comes next is no sink because others left

    def fork(self) -> "Layer":
        """The same tokens in a layer of its own; memory is shared until either of them grows."""
        twin = copy(self)
        twin.groups = tuple(Group(heads, keys.fork(), values.fork()) for heads, keys, values in self.groups)
        return twin

    def trim(self) -> None:
        """Give back the room that more exact tokens took than there are now."""
        for side in self.sides():
            side.recent.trim()

    def open(self) -> None:
        """Verify what was loaded from a file and not yet read."""
        for side in self.sides():
            side.open()

    def settle(self, flow: Flow) -> range:
        """Count what an append moved; the positions of the tokens that it quantized."""
        self.evicted += flow.drop_sinks + flow.drop_coded + flow.skip
        sinks, coded, _ = self._held()
        return range(sinks + coded - (flow.settle_old + flow.settle_new - flow.skip), sinks + coded)

    @property
    def is_ready(self) -> bool:
        """Whether all that is to be learned from the first tokens is known."""
        return all(side.basis is not None for side in self.sides())

    def _held(self) -> tuple[int, int, int]:
        side = self.groups[0].keys
        return len(side.sinks), len(side.coded["packed"]), len(side.recent)

    def flow(self, new: int) -> Flow:
        """Where each of `new` tokens goes, as if they came one by one."""
        sinks, coded, recent = self._held()
        position = self.evicted + sinks + coded + recent
        to_sinks = min(new, max(0, self.sink_limit - position))
        overflow = max(0, recent + new - to_sinks - self.window)
        if overflow < self.waits and not self.is_ready:
            overflow = 0  # they stay exact, and are learned from when the last of them has come
        settle_old = min(recent, overflow)
        settle_new = overflow - settle_old
        drop = max(0, sinks + coded + recent + new - self.max_tokens) if self.max_tokens else 0
        drop_sinks = min(drop, sinks + to_sinks)
        drop_coded = drop - drop_sinks
        return Flow(
            sinks=to_sinks,
            settle_old=settle_old,
            settle_new=settle_new,
            skip=max(0, drop_coded - coded),
            drop_sinks=drop_sinks,
            drop_coded=min(drop_coded, coded),
        )
