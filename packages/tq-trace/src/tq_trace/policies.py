"""Cache policies as methods: the caches of tq_cache answer, and their ledger counts the bytes."""

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tq_cache import CachePolicy, DecoderCache, InvalidPolicy
from tq_core.registry import resolve
from tq_trace.methods import Run, Setting, Stages
from tq_trace.task import Task

F32 = NDArray[np.float32]

# Room that is there because tokens came bit by bit, which depends on the trace's queries and not on the policy.
NOT_COUNTED: Final = ("padding", "workspace")


class PolicyMethod:
    """A policy of tq_cache, resolved for the model of the trace."""

    def __init__(self, text: str, setting: Setting, kind: str) -> None:
        self.policy = CachePolicy.parse(text).resolve(setting.layers)
        self.name, self.kind, self.setting = str(self.policy), kind, setting
        self.backend = resolve(setting.backend).name

    def start(self, task: Task) -> Run:
        """As Method: at once where no token ever changes its form, else step by step as a decoder would."""
        return _Stepped(self, task) if self.is_stateful(task) else _AtOnce(self, task)

    def stages(self, task: Task) -> Stages | None:
        """As Method."""
        return _Stages(self, task)

    def is_stateful(self, task: Task) -> bool:
        """Whether what a token is held as depends on how many came after it: windows, and whatever is learned."""
        for head in range(len(task.heads)):
            own = self.policy.for_layer(task.layer, self.setting.layers, head)
            if own.window or own.kmean or own.keys.channels or own.values.channels:
                return True
        return False

    def cache(self, task: Task) -> DecoderCache:
        """An empty cache of the whole model with the heads of a task."""
        heads = len(task.heads)
        if ".head" in self.name and task.heads != tuple(range(heads)):
            raise InvalidPolicy(
                f"{self.name} names heads, and layer {task.layer} of the trace holds heads {task.heads} together; "
                "a policy by heads needs a trace with all heads of a layer, which share their query positions",
                self.name,
            )
        return DecoderCache(
            self.setting.layers,
            heads,
            task.keys.shape[2],
            self.policy,
            value_dim=task.values.shape[2],
            seed=self.setting.seed,
            backend=self.setting.backend,
        )


class ExactMethod(PolicyMethod):
    """No compression: floats as wide as the trace's, through the same code; its errors are those of float32 sums."""

    def __init__(self, setting: Setting) -> None:
        width = 16 if setting.dtype == "float16" else 32
        super().__init__(f"k=float{width},v=float{width}", setting, "exact")
        self.name = "exact"


class _Filled:
    """What both ways of filling share."""

    def __init__(self, method: PolicyMethod, task: Task) -> None:
        self.task, self.layer = task, task.layer
        self.cache = method.cache(task)

    def append(self, start: int, stop: int) -> None:
        """Take in tokens start..stop-1."""
        if start < stop:
            keys, values = self.task.keys[None, :, start:stop], self.task.values[None, :, start:stop]
            self.cache.append(keys, values, self.layer)

    def decoded(self) -> tuple[F32, F32]:
        """All keys and values."""
        return self.cache.keys(self.layer)[0], self.cache.values(self.layer)[0]

    def ledger(self) -> Mapping[str, int]:
        """As Run."""
        return {name: size for name, size in self.cache.ledger().items.items() if name not in NOT_COUNTED}


class _AtOnce(_Filled):
    """All tokens first; a mask hides what a query may not see. The same codes as step by step, in fewer calls."""

    def __init__(self, method: PolicyMethod, task: Task) -> None:
        super().__init__(method, task)
        self.append(0, task.tokens)

    def ask(self, start: int, stop: int) -> tuple[F32, F32]:
        """As Run."""
        task = self.task
        queries, positions = task.queries[None, :, start:stop], task.positions[start:stop]
        seen = int(positions[-1]) + 1
        scores = self.cache.scores(queries, self.layer)[0, :, :, :seen]
        mask = np.arange(task.tokens) <= positions[:, None]
        return scores, self.cache.attend(queries, self.layer, mask=mask)[0]

    def finish(self) -> tuple[F32, F32]:
        """As Run."""
        return self.decoded()


class _Stepped(_Filled):
    """Tokens up to a query's position, then the query: what a window holds then is what the query sees."""

    def __init__(self, method: PolicyMethod, task: Task) -> None:
        super().__init__(method, task)
        self.held = 0

    def ask(self, start: int, stop: int) -> tuple[F32, F32]:
        """As Run."""
        task = self.task
        positions = task.positions[start:stop]
        heads, seen = len(task.heads), int(positions[-1]) + 1
        scores = np.zeros((heads, stop - start, seen), np.float32)
        outputs = np.empty((heads, stop - start, task.values.shape[2]), np.float32)
        for position in np.unique(positions):
            self.append(self.held, int(position) + 1)
            self.held = int(position) + 1
            here = np.flatnonzero(positions == position)
            queries = np.ascontiguousarray(task.queries[None, :, start + here[0] : start + here[-1] + 1])
            scores[:, here, : self.held] = self.cache.scores(queries, self.layer)[0]
            outputs[:, here] = self.cache.attend(queries, self.layer)[0]
        return scores, outputs

    def finish(self) -> tuple[F32, F32]:
        """As Run."""
        self.append(self.held, self.task.tokens)
        self.held = self.task.tokens
        return self.decoded()


class _Stages:
    """Timed calls on all tokens and all queries at once."""

    def __init__(self, method: PolicyMethod, task: Task) -> None:
        self.method, self.task = method, task
        self.mask = np.arange(task.tokens) <= task.positions[:, None]
        self.filled = _Filled(method, task)

    def encode(self) -> None:
        """As Stages."""
        self.filled.cache.clear()
        self.filled.append(0, self.task.tokens)

    def score(self) -> object:
        """As Stages."""
        return self.filled.cache.scores(self.task.queries[None], self.task.layer)

    def attend(self) -> object:
        """As Stages."""
        return self.filled.cache.attend(self.task.queries[None], self.task.layer, mask=self.mask)
