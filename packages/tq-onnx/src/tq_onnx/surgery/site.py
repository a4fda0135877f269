"""One attention of a graph, found and described: the same facts whatever operators it is written in."""

from dataclasses import dataclass

from tq_core import TurboQuantError


class CannotCut(TurboQuantError, ValueError):
    """A graph whose attention this package does not take out; the message names the layer and what is in the way."""


@dataclass(frozen=True)
class Site:
    """Names of the tensors around one attention, and what the graph says about its arithmetic.

    `layer` is its place among the layers that have a cache, `number` what the graph calls that layer.
    `query`, `key` and `value` are the new tokens' own, after rotary positions, as the attention reads them: (batch,
    heads, n, dim), or (batch, n, heads * dim) where `by_token`. `output` is what the attention gives, laid out alike.
    `scores` names the scaled products of queries and keys, before cap and mask, where the scale is to be measured
    there; then `scale` is what the measured one is multiplied by. Without it, `scale` is the operator's own, 0 where
    it has its default.
    """

    layer: int
    query: str
    key: str
    value: str
    output: str
    scale: float
    scores: str = ""
    softcap: float = 0.0
    window: int = 0
    by_token: bool = False
    query_heads: int = 0  # 0 where the tensors themselves tell
    number: int = 0

    @property
    def tensors(self) -> tuple[str, ...]:
        """All tensors named, those that exist."""
        return tuple(name for name in (self.query, self.key, self.value, self.output, self.scores) if name)
