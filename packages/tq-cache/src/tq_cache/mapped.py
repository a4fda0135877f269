"""Token arrays that lie in a mapped file: verified before they are first read, copied only when they grow."""

from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from tq_cache.place import HOST
from tq_cache.token_array import TokenArray
from tq_core.device import Device

Array = NDArray[Any]


class Seal:
    """A check that several arrays share; it runs before any of them is read, and once it passed, never again."""

    def __init__(self, check: Callable[[], None]) -> None:
        self._check: Callable[[], None] | None = check

    def open(self) -> None:
        """Raise CorruptData, at every call, for arrays that are not what was written."""
        if self._check is not None:
            self._check()
            self._check = None  # and with it the file, if nothing else needs it


class MappedTokenArray(TokenArray):
    """A TokenArray that begins as a read-only view, (lanes, tokens, ...), of a file that is never written.

    Length and ledger are known without reading the tokens. On a device it becomes a copy there when it is first read.
    """

    def __init__(self, tokens: Array, seal: Seal, place: Device = HOST) -> None:
        self._place, self._array = place, tokens
        self._seal: Seal | None = seal
        self._start, self._length = 0, tokens.shape[1]
        self._shared = True  # as a fork does: copy before writing

    @property
    def _held(self) -> Array:
        if self._seal is not None:
            self._seal.open()
            self._array = self._place.asarray(self._array)
            self._seal = None
        return self._array

    @_held.setter
    def _held(self, array: Array) -> None:
        self._array, self._seal = array, None

    def open(self) -> None:
        """As reading the tokens: raises CorruptData for a file that is not what was written."""
        _ = self._held

    @property
    def memory(self) -> Array:
        """As TokenArray, unverified: to be counted, not to be read."""
        return self._array

    @property
    def used_nbytes(self) -> int:
        """As TokenArray."""
        return self._array[:, self._start : self._start + self._length].nbytes
