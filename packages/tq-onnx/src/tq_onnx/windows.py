"""Cuts a text into windows that represent all of it, not only its beginning."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tq_onnx.errors import InvalidText


def cut_windows(ids: Sequence[int], count: int, length: int, start_token: int | None) -> NDArray[np.int64]:
    """(count, length) token ids: the text in `count` equal stretches, a window from the start of each.

    With a start token every window opens with it, and it counts in the length. Windows never overlap; a text too
    short for that raises InvalidText, which says how many tokens are needed.
    """
    needed = length if start_token is None else length - 1
    # Where a stretch opens with the start token already, that one is skipped and the next token opens the window.
    spare = 0 if start_token is None else 1
    if len(ids) == 0:
        raise InvalidText("the text is empty: it has no tokens to measure")
    if len(ids) < count * (needed + spare):
        raise InvalidText(
            f"the text has {len(ids)} tokens, {count} windows of {length} need {count * (needed + spare)}; "
            "use a longer text, fewer windows or shorter ones"
        )
    stream = np.asarray(ids, np.int64)
    windows = np.empty((count, length), np.int64)
    for row in range(count):
        start = row * len(stream) // count
        if start_token is None:
            windows[row] = stream[start : start + length]
            continue
        if stream[start] == start_token:
            start += 1
        windows[row, 0] = start_token
        windows[row, 1:] = stream[start : start + needed]
    return windows
