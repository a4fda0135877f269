"""Choosing the next token from logits: greedy, or drawn at a temperature from the likeliest ones."""

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tq_core import InvalidSpec, NotFinite, ShapeMismatch


class Sampler:
    """Picks a token a row. Temperature 0 is greedy: the likeliest token, the lower id where two tie.

    Otherwise logits are divided by the temperature; `top_k` keeps the k likeliest tokens (0: all), `top_p` the fewest
    of those whose probabilities reach p (1: all), and one is drawn. The same seed and logits give the same tokens.
    """

    def __init__(self, *, temperature: float = 0.0, top_k: int = 0, top_p: float = 1.0, seed: int = 0) -> None:
        self.temperature = _number(temperature, "temperature", 0.0, 1e6)
        self.top_p = _number(top_p, "top_p", 0.0, 1.0)
        if self.top_p == 0:
            raise InvalidSpec("top_p must lie above 0 and at most at 1, got 0; temperature=0 is greedy")
        self.top_k, self.seed = _whole(top_k, "top_k"), _whole(seed, "seed")
        self._bits = np.random.PCG64(self.seed)

    def pick(self, logits: ArrayLike) -> NDArray[np.int64]:
        """Token ids (batch,) for logits (batch, vocabulary), which must be finite."""
        given = np.asarray(logits, np.float64)
        if given.ndim != 2 or given.shape[1] < 1:
            raise ShapeMismatch(f"logits must have shape (batch, vocabulary), got {given.shape}")
        if not np.isfinite(given).all():
            raise NotFinite("logits have NaN or infinity; there is no token to pick")
        if self.temperature == 0:
            return np.asarray(given.argmax(axis=1), np.int64)
        return np.array([self._draw(row) for row in self.probabilities(given)], np.int64)

    def probabilities(self, logits: ArrayLike) -> NDArray[np.float64]:
        """What `pick` draws from, (batch, vocabulary); all on the likeliest token where greedy."""
        given = np.asarray(logits, np.float64)
        if self.temperature == 0:
            found = np.zeros_like(given)
            np.put_along_axis(found, given.argmax(axis=1)[:, None], 1.0, axis=1)
            return found
        order = np.argsort(-given, axis=1, kind="stable")
        scaled = np.take_along_axis(given, order, axis=1)
        scaled = (scaled - scaled[:, :1]) / self.temperature
        weights = np.exp(scaled)
        if self.top_k:
            weights[:, self.top_k :] = 0
        weights /= weights.sum(axis=1, keepdims=True)
        if self.top_p < 1:
            before = np.cumsum(weights, axis=1) - weights
            weights[before >= self.top_p] = 0
            weights /= weights.sum(axis=1, keepdims=True)
        found = np.empty_like(weights)
        np.put_along_axis(found, order, weights, axis=1)
        return found

    def _draw(self, probabilities: NDArray[np.float64]) -> int:
        # 53 bits of the raw stream, which numpy promises to keep, unlike its distributions
        point = (int(self._bits.random_raw()) >> 11) * 2.0**-53
        heap = np.cumsum(probabilities)
        chosen = int(np.searchsorted(heap, point * heap[-1], side="right"))
        # rounding may carry the point past the last token that can be drawn
        return min(chosen, int(np.flatnonzero(probabilities)[-1]))


def _number(value: Any, name: str, low: float, high: float) -> float:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not low <= value <= high:
        raise InvalidSpec(f"{name} must lie in {low:g}..{high:g}, got {value!r}")
    return float(value)


def _whole(value: Any, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 64:
        raise InvalidSpec(f"{name} must be a whole number in 0..2**64-1, got {value!r:.80}")
    return value
