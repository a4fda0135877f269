"""Text in pieces: joined they are the whole, no broken characters, and nothing from a stop on."""

import pytest

from tq_onnx import TextStream

TEXT = "Grüße, 世界! 🎉 def f(x):\n    return x"


def bytewise(ids) -> str:
    """A token a byte; incomplete characters decode to the replacement character, as tokenizers do it."""
    return bytes(ids).decode("utf-8", "replace")


def pieces(text: str, stops=()) -> tuple[list[str], TextStream]:
    stream = TextStream(bytewise, stops)
    return [*(stream.push(token) for token in text.encode()), stream.flush()], stream


def test_pieces_join_to_the_text_and_hold_whole_characters() -> None:
    found, stream = pieces(TEXT)
    assert "".join(found) == TEXT
    assert not any("\ufffd" in piece for piece in found)
    assert not stream.stopped


def test_every_character_comes_as_soon_as_it_is_whole() -> None:
    stream, shown = TextStream(bytewise), ""
    for count, token in enumerate(TEXT.encode(), start=1):
        shown += stream.push(token)
        assert shown == TEXT.encode()[:count].decode("utf-8", "ignore")


def test_broken_end_is_shown_at_last() -> None:
    stream = TextStream(bytewise)
    assert [stream.push(token) for token in "é".encode()[:1]] == [""]
    assert stream.flush() == "\ufffd"


@pytest.mark.parametrize("stops", [["return"], ["return", "x):"], ["\n    r"], ["世界"]])
def test_nothing_from_the_first_stop_on(stops: list[str]) -> None:
    found, stream = pieces(TEXT, stops)
    assert "".join(found) == TEXT[: min(TEXT.index(stop) for stop in stops)]
    assert stream.stopped


def test_beginning_of_a_stop_that_does_not_come_is_shown() -> None:
    found, stream = pieces("reture", ["return"])
    assert "".join(found) == "reture"
    assert not stream.stopped
