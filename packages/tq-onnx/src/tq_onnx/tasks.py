"""What a model is fed, and which of its predictions count: a text, a stretch to copy, or a needle to recall.

The recall tasks are made of the text itself, as a small decoder copies what looks like its training text and hardly
copies random tokens. Each has a control of the same length that lacks what is to be recalled.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tq_core import InvalidSpec
from tq_onnx.errors import InvalidText
from tq_onnx.windows import cut_windows

if TYPE_CHECKING:  # a bundle brings the runtime along, which --help can do without
    from tq_onnx.bundle import Bundle

Ids = NDArray[np.int64]

TASKS: Final = ("text", "copy", "needle")
TOKENS: Final = 448
SCORE_FROM: Final = 64
# Of a needle the end of the window repeats both parts, and the answer is scored: tokens that only the needle tells.
CUE: Final = 8
ANSWER: Final = 16


class Windows(NamedTuple):
    """Token ids (count, length), scored from position `score_from` on; `control`: the same without what is recalled.

    `texts`: the name of each window's text.
    """

    ids: Ids
    score_from: int
    texts: tuple[str, ...]
    control: Ids | None = None


def windows_of(
    bundle: "Bundle", texts: Mapping[str, str], task: str, count: int, tokens: int | None, score_from: int | None
) -> Windows:
    """`count` windows of each text for the task; InvalidSpec or InvalidText for what cannot be cut."""
    if task not in TASKS:
        raise InvalidSpec(f"task must be one of {', '.join(TASKS)}, got {task!r}")
    if task != "text" and score_from is not None:
        raise InvalidSpec(f"task {task!r} scores what is to be recalled; score_from is for task 'text' alone")
    tokens = min(TOKENS, bundle.context or TOKENS) if tokens is None else tokens
    checked = [("windows", count, 1), ("tokens", tokens, 2)]
    if task == "text":
        score_from = max(1, min(SCORE_FROM, tokens // 4)) if score_from is None else score_from
        checked += [("score_from", score_from, 1)]
    for name, value, low in checked:
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise InvalidSpec(f"{name} must be a whole number of {low} or more, got {value!r}")
    if bundle.context is not None and tokens > bundle.context:
        raise InvalidSpec(
            f"windows of {tokens} tokens exceed the model's context of {bundle.context}; ask for fewer tokens"
        )
    if score_from is not None and tokens <= score_from:
        raise InvalidSpec(f"windows of {tokens} tokens leave nothing to score from position {score_from} on")
    if not texts:
        raise InvalidText("there is no text to measure; give one or more")
    start = bundle.start_token
    parts = []
    for text in texts.values():
        ids = bundle.encode(text)
        if task == "text":
            parts.append(Windows(cut_windows(ids, count, tokens, start), score_from or 1, ()))
        elif task == "copy":
            parts.append(copies(cut_windows(ids, count, tokens, start), start is not None))
        else:
            parts.append(needles(cut_windows(ids, count, tokens + CUE + ANSWER, start), start is not None))
    names = tuple(name for name in texts for _ in range(count))
    controls = [part.control for part in parts if part.control is not None]
    return Windows(
        np.concatenate([part.ids for part in parts]),
        parts[0].score_from,
        names,
        np.concatenate(controls) if controls else None,
    )


def copies(windows: Ids, has_start: bool) -> Windows:
    """Each window's first half, twice; scored from the second token of the second time on.

    The control is the window as it was: its second half follows from the first as text does.
    """
    first = int(has_start)
    half = (windows.shape[1] - first) // 2
    if half < 2:
        raise InvalidSpec(f"windows of {windows.shape[1]} tokens are too short to copy from; ask for more tokens")
    once = windows[:, first : first + half]
    ids = np.concatenate([windows[:, :first], once, once], axis=1)
    return Windows(ids, first + half + 1, (), windows[:, : ids.shape[1]])


def needles(windows: Ids, has_start: bool) -> Windows:
    """Hides each window's last tokens (a cue and its answer) in what comes before, and repeats them at the end.

    Depths are spread evenly over the windows. The control has filler where the needle was hidden.
    """
    first, size = int(has_start), CUE + ANSWER
    filler = windows.shape[1] - first - 3 * size  # the tokens just before the needle's are left out: they lead to it
    if filler < size:
        raise InvalidSpec(
            f"windows of {windows.shape[1] - size} tokens hide no needle of {size} and show it again; "
            f"ask for {first + 3 * size} tokens or more"
        )
    ids = np.empty((len(windows), windows.shape[1] - size), np.int64)
    control = ids.copy()
    for row, window in enumerate(windows):
        needle, body = window[-size:], window[first : first + filler]
        depth = (2 * row + 1) * filler // (2 * len(windows))
        other = window[first + filler : first + filler + size]
        for into, hidden in ((ids, needle), (control, other)):
            into[row] = np.concatenate([window[:first], body[:depth], hidden, body[depth:], needle])
    return Windows(ids, ids.shape[1] - ANSWER, (), control)
