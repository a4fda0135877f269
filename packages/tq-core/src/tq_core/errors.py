"""The error tree: one door, checked before anything is written.

Catch `TurboQuantError` to catch all of ours; every child also is the builtin that a stranger would catch.
Messages say what was expected, what came and what to do.
"""


class TurboQuantError(Exception):
    """Base class of every error raised by the tq packages."""


class InvalidDimension(TurboQuantError, ValueError):
    """A dimension that a quantizer cannot have."""


class InvalidBitWidth(TurboQuantError, ValueError):
    """A number of bits outside the quantizer's range."""


class InvalidDtype(TurboQuantError, TypeError):
    """An array of a dtype that is not accepted; nothing is coerced silently."""


class WrongDevice(TurboQuantError, TypeError):
    """An array that does not lie where it is computed with; nothing is transferred unasked."""


class OutOfDeviceMemory(TurboQuantError, MemoryError):
    """A device that has no room left; what was there stays as it was."""


class NotUnitNorm(TurboQuantError, ValueError):
    """A row that is not of unit norm where the strict contract asks for it."""


class NotFinite(TurboQuantError, ValueError):
    """NaN or infinity in the input; the message gives its coordinates."""


class ZeroVector(TurboQuantError, ValueError):
    """A zero row where a direction is needed."""


class ScaleRange(TurboQuantError, OverflowError, ValueError):
    """A norm or scale that the chosen storage dtype cannot hold."""


class ShapeMismatch(TurboQuantError, ValueError):
    """An array of the wrong rank or length, or two that do not fit together."""


class RowOutOfRange(TurboQuantError, IndexError):
    """A row index beyond the rows at hand."""


class SpecMismatch(TurboQuantError, ValueError):
    """Codes that were made by a quantizer other than the one reading them."""


class CorruptData(TurboQuantError, ValueError):
    """Bytes that are not what a writer of this format would have written."""


class FormatVersion(TurboQuantError, ValueError):
    """Bytes of a format version that this release does not read."""


class InvalidSpec(TurboQuantError, ValueError):
    """A spec, option or seed that names no quantizer."""


class BackendUnavailable(TurboQuantError, RuntimeError):
    """A backend was asked for by name and cannot run here."""

    def __init__(self, name: str, reason: str, hint: str = "") -> None:
        self.name, self.reason, self.hint = name, reason, hint
        super().__init__(f"backend {name!r} cannot run: {reason}" + (f"; {hint}" if hint else ""))

    def __reduce__(self) -> tuple[type["BackendUnavailable"], tuple[str, str, str]]:
        return type(self), (self.name, self.reason, self.hint)
