"""Cache tensors in preallocated memory, so that a step copies new tokens and nothing else.

The runtime reads the past from one flat array and writes past plus new tokens, whole and contiguous, into the prefix of
another. The two take turns. A view of a prefix costs nothing; cutting a [batch, heads, capacity, dim] array to length
would copy it.
"""

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]

SMALLEST: Final = 64  # tokens of the first allocation when no capacity was asked for


class TurnBuffer:
    """One cache tensor `(batch, heads, tokens, dim)` in two flat arrays that take turns."""

    def __init__(self, batch: int, heads: int, dim: int, dtype: str, capacity: int = 0) -> None:
        self._shape = (batch, heads, dim)
        self._row = batch * heads * dim
        self._dtype = np.dtype(dtype)
        self._flats = [self._allocate(capacity), self._allocate(capacity)]
        self._current = 0

    def past(self, tokens: int) -> Floats:
        """The first `tokens` tokens as the last step left them: a contiguous, writable view."""
        return self._view(self._current, tokens)

    def target(self, tokens: int) -> Floats:
        """Room for the result of the next step; the past stays untouched. Grows where it must, without copying."""
        other = 1 - self._current
        if self._flats[other].size < tokens * self._row:
            capacity = self._flats[other].size // self._row
            self._flats[other] = self._allocate(max(tokens, 2 * capacity, SMALLEST))
        return self._view(other, tokens)

    def turn(self) -> None:
        """Make the target the past."""
        self._current = 1 - self._current

    @property
    def nbytes(self) -> int:
        """Bytes of both arrays, used or not."""
        return sum(flat.nbytes for flat in self._flats)

    def _allocate(self, tokens: int) -> Floats:
        return np.empty(tokens * self._row, self._dtype)

    def _view(self, which: int, tokens: int) -> Floats:
        batch, heads, dim = self._shape
        return self._flats[which][: tokens * self._row].reshape(batch, heads, tokens, dim)


class GrownInPlace:
    """One cache tensor `(batch, heads, capacity, dim)` that the runtime appends to where it lies.

    For operators that take one memory as past and present: nothing is copied but new tokens. Rows beyond the tokens
    so far mean nothing. Grows to `limit` at most, by copying.
    """

    def __init__(self, batch: int, heads: int, dim: int, dtype: str, capacity: int, limit: int) -> None:
        self._limit = limit
        self._array: Floats = np.zeros((batch, heads, max(1, min(capacity, limit)), dim), dtype)

    def past(self, tokens: int) -> Floats:
        """The whole memory, of which the first `tokens` rows are filled."""
        return self._array

    def target(self, tokens: int) -> Floats:
        """The same memory, with room for that many tokens."""
        capacity = self._array.shape[2]
        if capacity < tokens:
            batch, heads, _, dim = self._array.shape
            room = max(tokens, min(max(2 * capacity, SMALLEST), self._limit))
            grown = np.zeros((batch, heads, room, dim), self._array.dtype)
            grown[:, :, :capacity] = self._array
            self._array = grown
        return self._array

    def turn(self) -> None:
        """Nothing to do: past and target are one."""

    @property
    def nbytes(self) -> int:
        """Bytes of the memory, used or not."""
        return self._array.nbytes


class StateBuffer:
    """A state of fixed size `(batch, *shape)` in two arrays that take turns; it starts at zeros."""

    def __init__(self, batch: int, shape: tuple[int, ...], dtype: str) -> None:
        self._arrays = [np.zeros((batch, *shape), dtype) for _ in range(2)]
        self._current = 0

    @property
    def past(self) -> NDArray[Any]:
        """The state that the last step left."""
        return self._arrays[self._current]

    @property
    def target(self) -> NDArray[Any]:
        """Room for the state that the next step leaves."""
        return self._arrays[1 - self._current]

    def turn(self) -> None:
        """Make the target the past."""
        self._current = 1 - self._current

    def clear(self) -> None:
        """Back to zeros."""
        self.past[...] = 0

    @property
    def nbytes(self) -> int:
        """Bytes of the state, once."""
        return self.past.nbytes


def flat_bytes(batch: int, heads: int, dims: int, tokens: int, dtype: str) -> int:
    """Bytes of that many tokens of one layer as plain floats; `dims` is key_dim plus value_dim."""
    return math.prod((batch, heads, dims, tokens)) * np.dtype(dtype).itemsize
