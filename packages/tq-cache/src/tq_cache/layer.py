"""One layer of any number of lanes: which tokens are exact, which are codes, which are evicted."""

from collections.abc import Mapping
from copy import copy

import numpy as np
from numpy.typing import NDArray

from tq_cache import checks
from tq_cache.attention import ACCURACIES, Fresh, View, attend
from tq_cache.codecs import TokenCodec, codec_for
from tq_cache.policy import CachePolicy
from tq_cache.side import Flow, Side
from tq_cache.stores import Store
from tq_core import InvalidSpec

F32 = NDArray[np.float32]
Floats = NDArray[np.floating]
Codecs = Mapping[tuple[Store, int], TokenCodec]


def codecs_for(policies: list[CachePolicy], dims: tuple[int, int], seed: int, backend: str) -> Codecs:
    """One codec for each store and dim among the policies, so that layers and sides share rotations and codebooks."""
    pairs = {pair for policy in policies for pair in ((policy.keys, dims[0]), (policy.values, dims[1]))}
    norms = policies[0].norms
    return {(store, dim): codec_for(store, dim, norms, seed, backend) for store, dim in sorted(pairs, key=repr)}


class Layer:
    """Keys and values, (lanes, tokens, dim) each. Both sides always hold the same tokens."""

    def __init__(
        self,
        lanes: int,
        dims: tuple[int, int],
        policy: CachePolicy,
        codecs: Codecs,
        max_tokens: int,
        capacity: int,
    ) -> None:
        self.lanes, self.policy, self.max_tokens = lanes, policy, max_tokens
        self.window = min(policy.window, max_tokens) if max_tokens else policy.window
        self.keys = Side(lanes, dims[0], codecs[policy.keys, dims[0]], policy.sinks, capacity)
        self.values = Side(lanes, dims[1], codecs[policy.values, dims[1]], policy.sinks, capacity)
        self.evicted = 0

    def __len__(self) -> int:
        return sum(self._held())

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
        factor = checks.positive(scale, "scale", self.keys.dim**-0.5)
        cap = checks.positive(softcap, "softcap", 0.0)
        room = checks.whole(workspace_bytes, 1, "workspace_bytes")
        if accuracy not in ACCURACIES:
            raise InvalidSpec(f"accuracy must be one of {', '.join(ACCURACIES)}, got {accuracy!r}")
        return attend(self.keys, self.values, queries, factor, view, cap, room, accuracy, fresh)

    def crop(self, tokens: int) -> None:
        """Keep the first `tokens` tokens at most. What was quantized stays quantized."""
        sinks, coded, recent = self._held()
        keep_sinks = min(sinks, tokens)
        keep_coded = min(coded, tokens - keep_sinks)
        keep_recent = min(recent, tokens - keep_sinks - keep_coded)
        for side in (self.keys, self.values):
            side.crop(keep_sinks, keep_coded, keep_recent)

    def clear(self) -> None:
        """Forget everything, evicted tokens included: the next token is the first again."""
        self.keys.clear()
        self.values.clear()
        self.evicted = 0

    def take(self, positions: NDArray[np.int64]) -> None:
        """Keep the tokens at these positions, in this order; InvalidSpec where the three parts would mix."""
        first, second = self.keys.borders()
        parts = np.digitize(positions, [first, second])
        if (np.diff(parts) < 0).any():
            raise InvalidSpec(
                "tokens kept exact (sinks, window) cannot change places with quantized ones; "
                "keep sinks first, then quantized tokens, then those of the window"
            )
        dropped = len(self) - len(positions)
        self.keys.open()
        self.values.open()
        for side in (self.keys, self.values):
            side.take(positions[parts == 0], positions[parts == 1] - first, positions[parts == 2] - second)
        self.evicted += dropped  # positions go on counting: what comes next is no sink because others left

    def fork(self) -> "Layer":
        """The same tokens in a layer of its own; memory is shared until either of them grows."""
        twin = copy(self)
        twin.keys, twin.values = self.keys.fork(), self.values.fork()
        return twin

    def settle(self, flow: Flow) -> range:
        """Count what an append moved; the positions of the tokens that it quantized."""
        self.evicted += flow.drop_sinks + flow.drop_coded + flow.skip
        sinks, coded, _ = self._held()
        return range(sinks + coded - (flow.settle_old + flow.settle_new - flow.skip), sinks + coded)

    def _held(self) -> tuple[int, int, int]:
        side = self.keys
        return len(side.sinks), len(side.coded["packed"]), len(side.recent)

    def flow(self, new: int) -> Flow:
        """Where each of `new` tokens goes, as if they came one by one."""
        sinks, coded, recent = self._held()
        position = self.evicted + sinks + coded + recent
        to_sinks = min(new, max(0, self.policy.sinks - position))
        overflow = max(0, recent + new - to_sinks - self.window)
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
