"""Text of tokens as they come: whole characters only, and nothing of a text that ends the answer."""

from collections.abc import Callable, Sequence


class TextStream:
    """Turns tokens into text piece by piece; the pieces joined are the text of all tokens.

    A piece that ends inside a character waits for its other bytes. With `stops`, what follows the first of these texts,
    and the text itself, is never given out, and `stopped` turns true.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], stops: Sequence[str] = ()) -> None:
        self._decode, self._stops = decode, [stop for stop in stops if stop]
        self._ids: list[int] = []
        self._start = self._shown = 0  # tokens that give context, tokens already turned into text
        self._held = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """The text that one more token makes certain."""
        self._ids.append(token)
        return self._released(self._fresh(whole=False), final=False)

    def flush(self) -> str:
        """What is left, incomplete characters included."""
        return self._released(self._fresh(whole=True), final=True)

    def _fresh(self, *, whole: bool) -> str:
        before = self._decode(self._ids[self._start : self._shown])
        text = self._decode(self._ids[self._start :])
        if len(text) <= len(before) or (text.endswith("\ufffd") and not whole):
            return ""
        # One stretch of context is kept, because a token may read otherwise at the start of a text.
        self._start, self._shown = self._shown, len(self._ids)
        return text[len(before) :]

    def _released(self, fresh: str, *, final: bool) -> str:
        if self.stopped:
            return ""
        text = self._held + fresh
        found = [place for place in (text.find(stop) for stop in self._stops) if place >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        keep = 0 if final else self._undecided(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def _undecided(self, text: str) -> int:
        """Characters at the end that may be the beginning of a stop."""
        longest = max(map(len, self._stops), default=1) - 1
        for size in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-size:]) for stop in self._stops):
                return size
        return 0
