"""Windows cover the whole text, open with the start token, and refuse texts that are too short."""

import numpy as np
import pytest

from tq_onnx.errors import InvalidText
from tq_onnx.windows import cut_windows


def test_windows_come_from_every_stretch_of_the_text() -> None:
    windows = cut_windows(range(1, 1001), 4, 10, None)
    assert windows.shape == (4, 10)
    assert windows[:, 0].tolist() == [1, 251, 501, 751]
    assert windows[3].tolist() == list(range(751, 761))


def test_start_token_opens_every_window_and_counts_in_its_length() -> None:
    windows = cut_windows(range(1, 101), 2, 10, 0)
    assert windows.shape == (2, 10)
    assert windows[1].tolist() == [0, *range(51, 60)]


def test_start_token_of_the_text_is_not_doubled() -> None:
    assert cut_windows([0, *range(1, 100)], 1, 5, 0)[0].tolist() == [0, 1, 2, 3, 4]


def test_windows_that_fill_the_text_do_not_overlap() -> None:
    windows = cut_windows(range(40), 4, 10, None)
    np.testing.assert_array_equal(windows.ravel(), np.arange(40))


def test_last_window_ends_inside_a_text_of_just_enough_tokens() -> None:
    windows = cut_windows([0] * 20, 2, 10, 0)  # every stretch opens with the start token, the dearest case
    assert windows.shape == (2, 10)


def test_empty_text_is_refused() -> None:
    with pytest.raises(InvalidText, match="the text is empty"):
        cut_windows([], 2, 10, None)


@pytest.mark.parametrize(("start_token", "needed"), [(None, 40), (0, 40)])
def test_short_text_is_refused_with_what_is_needed(start_token: int | None, needed: int) -> None:
    with pytest.raises(InvalidText, match=f"has 39 tokens, 4 windows of 10 need {needed}"):
        cut_windows(range(39), 4, 10, start_token)
