"""Values of everything that a graph takes beside its cache: ids, mask, positions and switches, for any step."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tq_core import InvalidSpec, ShapeMismatch
from tq_onnx.cache_inputs import Tensor

Ints = NDArray[np.integer]


class StepInputs:
    """Fills the optional inputs that a graph has; rows of a batch may begin with padding.

    `padding`, everywhere, holds the columns of each row that come before its first token. `first_position` is what the
    first token's position is called: 0, or 1 for a few families.
    """

    def __init__(self, batch: int, optional: Mapping[str, Tensor] | None = None, first_position: int = 0) -> None:
        self._batch, self._optional, self._first = batch, optional or {}, first_position
        self._ones: dict[str, Ints] = {}

    def values(self, start: int, stop: int, padding: NDArray[np.int64], *, last_only: bool) -> dict[str, NDArray[Any]]:
        """Values by the graph's own names for a step from column `start` to `stop`."""
        make: dict[str, Callable[[str], NDArray[Any]]] = {
            "attention_mask": lambda dtype: self.attention_mask(stop, dtype, padding),
            "position_ids": lambda dtype: self.positions(start, stop, dtype, padding),
            "cache_position": lambda dtype: np.arange(start, stop, dtype=dtype),
            "use_cache_branch": lambda dtype: np.full(1, start > 0, dtype),
            "num_logits_to_keep": lambda dtype: np.full((), int(last_only), dtype),  # 0 means all
        }
        make["logits_to_keep"] = make["num_logits_to_keep"]
        found = {}
        for usual, tensor in self._optional.items():
            value = make[usual](tensor.dtype)
            found[tensor.name] = value.reshape(1) if value.ndim == 0 and len(tensor.shape) == 1 else value
        return found

    def attention_mask(self, tokens: int, dtype: str, padding: NDArray[np.int64] | None = None) -> Ints:
        """(batch, tokens): 1 for past and new tokens, 0 for padding; without any, a prefix of an array that grows."""
        needed = self._batch * tokens
        ones = self._ones.get(dtype)
        if ones is None or ones.size < needed:
            ones = np.ones(max(needed, 2 * (0 if ones is None else ones.size)), dtype)
            self._ones[dtype] = ones
        mask = ones[:needed].reshape(self._batch, tokens)
        if padding is None or not padding.any():
            return mask
        return (np.arange(tokens) >= padding[:, None]).astype(dtype)

    def positions(self, start: int, stop: int, dtype: str, padding: NDArray[np.int64] | None = None) -> Ints:
        """(batch, tokens): each row counts from its first token; padding gets the first position too."""
        row = np.arange(start, stop, dtype=dtype)
        if padding is None or not padding.any():
            return np.ascontiguousarray(np.broadcast_to(row + self._first, (self._batch, stop - start)), dtype)
        return (np.maximum(row - padding[:, None], 0) + self._first).astype(dtype)


def padding_after(mask: Any, shape: tuple[int, int], start: int, padding: NDArray[np.int64]) -> NDArray[np.int64]:
    """Columns of padding of each row once a step from column `start` with that mask of its new tokens is done.

    The mask is (batch, n), 1 or True for tokens; padding may only come before a row's first token. Raises
    ShapeMismatch or InvalidSpec.
    """
    asked = np.asarray(mask)
    if asked.shape != shape:
        raise ShapeMismatch(f"the mask must have the shape {shape} of the tokens, got {asked.shape}")
    if asked.dtype.kind not in "biu" or not np.isin(asked, (0, 1)).all():
        raise InvalidSpec("a mask holds 1 for tokens and 0 for padding and nothing else")
    if (np.diff(asked.astype(np.int8), axis=1) < 0).any():
        raise InvalidSpec("padding must come before the first token of a row; pad on the left")
    columns: NDArray[np.int64] = np.sum(asked == 0, axis=1, dtype=np.int64)
    late = (columns > 0) & (padding < start)
    if late.any():
        raise InvalidSpec(f"row {int(np.argmax(late))} has tokens already and takes no more padding")
    return np.asarray(padding + columns)
