"""What is fed for each task: what is to be recalled is there once, its control lacks it, and lengths stay."""

import numpy as np
import pytest

from tq_core import InvalidSpec
from tq_onnx import Bundle, InvalidText, evaluate
from tq_onnx.tasks import ANSWER, CUE, copies, needles, windows_of


@pytest.fixture
def windows() -> np.ndarray:
    """Three windows of a start token and 199 distinct ones."""
    ids = np.arange(1, 1 + 3 * 199).reshape(3, 199)
    return np.concatenate([np.zeros((3, 1), np.int64), ids], axis=1)


def test_a_copy_says_the_first_half_twice_and_its_control_once(windows) -> None:
    found = copies(windows, has_start=True)
    assert found.ids.shape == found.control.shape == (3, 199)
    assert np.array_equal(found.ids[:, 1:100], found.ids[:, 100:])
    assert found.score_from == 101
    assert np.array_equal(found.control, windows[:, :199])


def test_without_a_start_token_halves_begin_at_once(windows) -> None:
    found = copies(windows[:, 1:], has_start=False)
    assert np.array_equal(found.ids[:, :99], found.ids[:, 99:])
    assert found.score_from == 100


def test_a_needle_is_hidden_at_spread_depths_and_asked_for_at_the_end(windows) -> None:
    found = needles(windows, has_start=True)
    size = CUE + ANSWER
    assert found.ids.shape == found.control.shape == (3, 200 - size)
    assert found.score_from == 200 - size - ANSWER
    depths = []
    for row, control, window in zip(found.ids, found.control, windows, strict=True):
        needle = window[-size:]
        assert np.array_equal(row[-size:], needle)
        assert np.array_equal(control[-size:], needle)
        (places,) = np.nonzero(row[:-size] == needle[0])
        assert len(places) == 1
        assert np.array_equal(row[places[0] : places[0] + size], needle)
        assert not np.isin(needle, control[:-size]).any()
        depths.append(places[0])
    filler = 200 - 1 - 3 * size
    assert depths == [1 + (2 * row + 1) * filler // 6 for row in range(3)]


def test_every_token_but_the_hidden_ones_is_the_controls(windows) -> None:
    found = needles(windows, has_start=True)
    assert ((found.ids != found.control).sum(axis=1) == CUE + ANSWER).all()


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"task": "poem"}, InvalidSpec, "task must be one of text, copy, needle, got 'poem'"),
        ({"task": "copy", "score_from": 3}, InvalidSpec, "score_from is for task 'text' alone"),
        ({"task": "copy", "tokens": 4}, InvalidSpec, "too short to copy from"),
        ({"task": "needle"}, InvalidSpec, "ask for 73 tokens or more"),
        ({"text": {}}, InvalidText, "there is no text to measure"),
        ({"free_tokens": -1}, InvalidSpec, "free_tokens must be a whole number of 0 or more, got -1"),
    ],
)
def test_what_cannot_be_cut_is_refused(build, words, options, error, match) -> None:
    with pytest.raises(error, match=match):
        evaluate(Bundle.open(build()), ["k=mse4,v=mse4"], **{"text": words, "tokens": 24, "windows": 1} | options)


def test_several_texts_have_their_windows_in_turn(build, words) -> None:
    bundle = Bundle.open(build())
    found = windows_of(bundle, {"a": words, "b": words[::-1][:0] + words}, "text", 2, 20, 4)
    assert found.texts == ("a", "a", "b", "b")
    assert np.array_equal(found.ids[:2], found.ids[2:])


def test_a_trained_decoder_recalls_and_its_control_tells_how_much_was_recalled(trained) -> None:
    text = (trained / "validation.txt").read_text()
    report = evaluate(
        Bundle.open(trained),
        ["k=mse4,v=mse4", "k=mse1,v=mse1"],
        text=text,
        task="needle",
        tokens=200,
        windows=16,
        batch=16,
    )
    exact, four, one = report.rows
    assert exact["accuracy"] > report.protocol["control_accuracy"] + 0.15
    assert four["accuracy"] > exact["accuracy"] - 0.1
    assert one["accuracy"] < exact["accuracy"] - 0.15
    assert report.columns[-1] == "recall"
    assert f"ranks {report.protocol['control_accuracy']:.3f} of these tokens first" in report.to_table()
    assert "task needle, 16 windows of 200 tokens" in report.to_markdown()
