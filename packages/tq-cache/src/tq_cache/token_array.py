"""A growing array of tokens: appended at the end, dropped at either end, forked without a copy."""

from copy import copy
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from tq_cache.place import HOST
from tq_core.device import Device

SPARE: Final = 16  # a grown array has a sixteenth of its tokens to spare, and at least 8: little padding, few copies
LEAST: Final = 8


class TokenArray:
    """(lanes, tokens, ...) of one dtype. Amortised O(1) a token for `extend`, `drop_front` and `drop_back`."""

    def __init__(
        self, lanes: int, tail: tuple[int, ...], dtype: "np.dtype[Any]", capacity: int = 0, place: Device = HOST
    ) -> None:
        self._place = place
        self._held: NDArray[Any] = place.xp.empty((lanes, capacity, *tail), dtype)
        self._start = 0
        self._length = 0
        self._shared = False  # another fork may look at the same memory: copy before writing

    def __len__(self) -> int:
        return self._length

    @property
    def view(self) -> NDArray[Any]:
        """The tokens, (lanes, tokens, ...); valid until the next change."""
        return self._held[:, self._start : self._start + self._length]

    @property
    def memory(self) -> NDArray[Any]:
        """All memory held, used or not; forks share it until one of them grows."""
        return self._held

    @property
    def used_nbytes(self) -> int:
        """Bytes of the tokens alone."""
        return self.view.nbytes

    def open(self) -> None:
        """Verify what no one has read yet; here there is nothing."""

    def reserve(self, extra: int) -> None:
        """Make room for `extra` tokens at the end. The content stays, also when memory runs out."""
        needed = self._length + extra
        capacity = self._held.shape[1]
        if extra == 0 or (self._start + needed <= capacity and not self._shared):
            return
        if not self._length and not self._shared:  # not when the last one is dropped: `twin` may still be gone back to
            self._start = 0
            if needed <= capacity:
                return
        spare = max(LEAST, self._length // SPARE)
        # moving down is worth it only when it frees as much; otherwise each token would be copied each time
        if needed <= capacity and self._start >= spare and not self._shared:
            self._held[:, : self._length] = self.view.copy()
        else:
            target = needed + spare if self._length else needed  # a first fill is taken as it comes
            grown = self._place.xp.empty((self._held.shape[0], target, *self._held.shape[2:]), self._held.dtype)
            grown[:, : self._length] = self.view
            self._held = grown
            self._shared = False
        self._start = 0

    def extend(self, tokens: NDArray[Any]) -> None:
        """Append (lanes, n, ...) tokens for which room was reserved."""
        if not tokens.shape[1]:  # memory that is read-only, and may be unverified, takes not even nothing
            return
        stop = self._start + self._length
        self._held[:, stop : stop + tokens.shape[1]] = tokens
        self._length += tokens.shape[1]

    def drop_front(self, tokens: int) -> None:
        """Forget the first tokens."""
        self._start += tokens
        self._length -= tokens

    def drop_back(self, tokens: int) -> None:
        """Forget the last tokens."""
        self._length -= tokens

    def trim(self) -> None:
        """Give back all room without tokens."""
        self._held = self.view.copy()
        self._start, self._shared = 0, False

    def widened(self, dtype: "np.dtype[Any]") -> Self:
        """The same tokens in an array of its own, of as wide or a wider dtype of the same kind."""
        wide = self._place.xp.empty(self._held.shape, dtype)  # room to spare holds no numbers: it is not converted
        wide[:, self._start : self._start + self._length] = self.view
        other = copy(self)
        other._held, other._shared = wide, False
        return other

    def fork(self) -> Self:
        """The same tokens in an object of its own; memory is shared until either of them grows."""
        self._shared = True
        return self.twin()

    def twin(self) -> Self:
        """What is held now, to be gone back to; good until the next `reserve`, as nothing else writes over tokens."""
        return copy(self)

    def take(self, positions: NDArray[np.int64]) -> None:
        """Keep the tokens at these positions, in this order."""
        self._held = self.view[:, self._place.asarray(positions)]
        self._start, self._length, self._shared = 0, len(positions), False
