"""The tensors of a trace in memory or mapped: read-only, and checked no later than at their first use."""

from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tq_core import NotFinite
from tq_trace import bfloat16, checks
from tq_trace.layout import Stored


class Held:
    """Tensors that fit together, with positions inside the tokens; floats may wait for `check` or for `floats`.

    Nobody else changes the arrays. Messages about floats begin with `origin`. Raises ShapeMismatch, InvalidPosition.
    """

    def __init__(self, tensors: Stored, origin: str = "") -> None:
        own = dict(tensors)
        checks.require_shapes(own)
        checks.require_positions(own["query_positions"][1], own["keys"][1].shape[1])
        own["query_positions"] = ("I64", own["query_positions"][1].astype(np.int64, copy=False))
        for _, array in own.values():
            array.setflags(write=False)
        self.stored: Stored = MappingProxyType(own)
        self._origin = origin
        self._unchecked = set(checks.FLOATS)

    def check(self) -> None:
        """Raise NotFinite for a value that is not, in tensors that have not been checked yet."""
        for name in checks.FLOATS:
            self._check(name)

    def _check(self, name: str) -> None:
        if name in self._unchecked:
            try:
                checks.require_finite(*self.stored[name], name)
            except NotFinite as error:
                raise NotFinite(f"{self._origin}: {error}" if self._origin else str(error)) from None
            self._unchecked.discard(name)

    def validate(self) -> None:
        """Check everything now, again for what was checked."""
        self._unchecked = set(checks.FLOATS)
        checks.require_shapes(self.stored)
        checks.require_positions(self.stored["query_positions"][1], self.shape("keys")[1])
        self.check()

    def floats(self, name: str, index: Any = slice(None)) -> NDArray[np.floating]:
        """A tensor or the sample at `index`, checked and read-only; bfloat16 as a new float32 array."""
        kind, array = self.stored[name]
        self._check(name)
        if kind != "BF16":
            view: NDArray[np.floating] = array[index]
            return view
        widened = bfloat16.widen(array[index])
        widened.setflags(write=False)
        return widened

    @property
    def positions(self) -> NDArray[np.int64]:
        """(samples, query_count), read-only."""
        positions: NDArray[np.int64] = self.stored["query_positions"][1][:]
        return positions

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor."""
        return tuple(map(int, self.stored[name][1].shape))

    def __eq__(self, other: object) -> bool:
        """Equal in names, dtypes, shapes and bits: -0.0 is not 0.0."""
        if not isinstance(other, Held):
            return NotImplemented
        return all(
            kind == other.stored[name][0]
            and array.shape == other.stored[name][1].shape
            and array.tobytes() == other.stored[name][1].tobytes()
            for name, (kind, array) in self.stored.items()
        )

    __hash__ = None  # type: ignore[assignment]  # mypy knows no class that is not hashable; equal by content
