"""Decides how an evaluation runs: which windows, how many at once, and what does not fit a model or its tokenizer."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tq_core import InvalidSpec
from tq_onnx.bundle import Bundle
from tq_onnx.errors import InvalidText
from tq_onnx.runner import DecoderRunner
from tq_onnx.tasks import Windows

Ids = NDArray[np.int64]

# Logits of the exact run are kept for all rows; a group of windows takes at most this much, if one window does.
LARGEST_REFERENCE_BYTES: Final = 256 << 20


@dataclass(frozen=True)
class Plan:
    """Windows in groups of `group`; after the scored ones, `free_tokens` tokens that each row chooses for itself."""

    windows: Windows
    group: int
    vocabulary: int
    free_tokens: int

    @property
    def score_from(self) -> int:
        """First position of a window that is scored."""
        return self.windows.score_from

    @property
    def scored(self) -> int:
        """Scored positions of one window."""
        return int(self.windows.ids.shape[1]) - self.score_from

    @property
    def steps(self) -> int:
        """Steps of one window: its last token is a target only."""
        return int(self.windows.ids.shape[1]) - 1

    def groups(self) -> Iterator[Ids]:
        """Windows that run as one batch; the last group may be smaller."""
        return self._grouped(self.windows.ids)

    def controls(self) -> Iterator[Ids]:
        """As `groups`, of the controls; none where the task has none."""
        return iter(()) if self.windows.control is None else self._grouped(self.windows.control)

    def _grouped(self, ids: Ids) -> Iterator[Ids]:
        for start in range(0, len(ids), self.group):
            yield ids[start : start + self.group]


def plan_of(bundle: Bundle, windows: Windows, batch: int, free_tokens: int, threads: int | None) -> Plan:
    """The plan; InvalidSpec for counts that cannot be, InvalidText for tokens that the model does not know."""
    for name, value, low in (("batch", batch, 1), ("free_tokens", free_tokens, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise InvalidSpec(f"{name} must be a whole number of {low} or more, got {value!r}")
    room = bundle.context
    if room is not None and windows.score_from + free_tokens > room:
        raise InvalidSpec(
            f"{free_tokens} free tokens behind prompts of {windows.score_from} exceed the model's context of {room}"
        )
    vocabulary = vocabulary_of(bundle, threads)
    check_known(windows.ids, bundle, vocabulary)
    count, length = windows.ids.shape
    fitting = max(1, LARGEST_REFERENCE_BYTES // ((length - windows.score_from) * vocabulary * 4))
    group = bundle.signature.fixed_batch or min(batch, count, fitting)
    if count % group and bundle.signature.fixed_batch:
        raise InvalidSpec(f"the graph runs a batch of {group} only; windows must be a multiple of it, got {count}")
    return Plan(windows, group, vocabulary, free_tokens)


def check_known(ids: Ids, bundle: Bundle, vocabulary: int) -> None:
    """InvalidText, which says who is to blame, for tokens that the model does not know."""
    if ids.max() < vocabulary:
        return
    name, start = bundle.folder.name, bundle.start_token
    if start is not None and start >= vocabulary:
        raise InvalidText(
            f"the configs of {name} say that bos_token_id is {start}, its model knows {vocabulary} tokens only; "
            "correct the entry or take it out"
        )
    raise InvalidText(
        f"the tokenizer of {name} gives token {ids.max()}, its model knows {vocabulary} tokens only; the two do not "
        "belong together"
    )


def vocabulary_of(bundle: Bundle, threads: int | None) -> int:
    """Size of the logits; where the graph leaves it open, a step tells."""
    if bundle.signature.vocabulary is not None:
        return bundle.signature.vocabulary
    batch = bundle.signature.fixed_batch or 1
    logits = DecoderRunner(bundle, batch=batch, threads=threads).step(np.zeros((batch, 1), np.int64))
    return int(logits.shape[2])
