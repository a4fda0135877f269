"""What can be wrong with a bundle or a step, beside the errors of `tq_core`."""

from tq_core import TurboQuantError


class BundleNotFound(TurboQuantError, FileNotFoundError):
    """A folder, or a file that a bundle must have, is not there."""


class UnsupportedBundle(TurboQuantError, ValueError):
    """A readable bundle whose graph cannot be driven; the message names the tensor or file that is in the way."""


class StepFailed(TurboQuantError, RuntimeError):
    """The runtime refused a step; the runner is as it was before it."""


class InvalidText(TurboQuantError, ValueError):
    """A text that cannot be measured: empty, undecodable, or too short for what was asked."""


def one_line(error: BaseException, limit: int = 300) -> str:
    """The message of an error on one line, cut to `limit` characters; the runtime's own may span dozens of lines."""
    words = " ".join(str(error).split())
    return words if len(words) <= limit else words[: limit - 3] + "..."


def visible(text: str) -> str:
    """The text with whatever a terminal would obey escaped: names in a model file come from strangers."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
