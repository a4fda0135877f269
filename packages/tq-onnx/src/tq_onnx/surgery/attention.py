"""What is known of one layer's attention in a graph, in the same terms for every way that exporters write it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Attention:
    """Tensors of one layer's attention, by their names in the graph.

    form: "MatMul", or the operator that computes it all. `query` enters the scores, after RoPE unless `rotary` names
    the tables that the operator applies itself. `linear` is the last tensor that is a plain multiple of query times key
    (None inside an operator), `capped` the one after a soft cap. `output` is the mixture of values. `scale` and
    `softcap` are those that an operator states; 0 where it states none.
    """

    layer: int
    form: str
    query: str
    output: str
    linear: str | None = None
    capped: str | None = None
    query_heads: int = 0  # what an operator states; 0: the tensor's own axis
    packed: bool = False  # query, key and value side by side in one tensor
    rotary: tuple[str, str] | None = None
    interleaved: bool = False
    scale: float = 0.0
    softcap: float = 0.0

    @property
    def tensors(self) -> tuple[str, ...]:
        """All that has to be exposed to see this attention at work."""
        return tuple(name for name in (self.query, self.output, self.linear, self.capped, *(self.rotary or ())) if name)


@dataclass(frozen=True)
class Missing:
    """A layer whose attention was not found, and why."""

    layer: int
    reason: str
