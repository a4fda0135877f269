"""The knobs of synthetic workloads, and settings of them in the shape of models that people run.

The shapes (layers, heads, dims) are those that the models publish. The rest is set to what is reported about their
caches (norm ratios, biased keys, outlier channels), rounded: it imitates a kind of trouble, not a model.
"""

from dataclasses import dataclass, fields, replace
from typing import Any, Final

from tq_core import InvalidSpec


@dataclass(frozen=True)
class Workload:
    """Every knob of a synthetic workload.

    `layers`, `kv_heads`, `query_groups` (query heads that share a key head), `head_dim`: the shape. `tokens`,
    `query_count` (positions that are asked, evenly over the tokens; each by every query head), `samples`.
    `norm_ratio`: median norm of keys over that of values, which is 1. `key_mean`: norm of the mean key over the root
    mean square norm of what varies, in the slowest quarter of the RoPE pairs. `outlier_channels`: how many channels
    are `outlier_scale` times as loud as the rest. `rope`: base of the rotary embedding that turns keys and queries, 0
    for none. `norm_tail`: standard deviation of the logarithm of norms. `sinks`: first tokens that draw attention
    by `sink_logit` nats, with values of a tenth of the norm. `focus`: share of a query's energy that points at one
    earlier token. `logit_std`: standard deviation of logits in nats, set by the queries' norm; 0 leaves each query
    coordinate at unit variance, so that logits grow with `norm_ratio`.
    """

    layers: int = 4
    kv_heads: int = 4
    query_groups: int = 1
    head_dim: int = 128
    tokens: int = 1024
    query_count: int = 64
    samples: int = 1
    norm_ratio: float = 1.0
    key_mean: float = 0.0
    outlier_channels: int = 0
    outlier_scale: float = 8.0
    rope: float = 0.0
    norm_tail: float = 0.0
    sinks: int = 0
    sink_logit: float = 4.0
    focus: float = 0.0
    logit_std: float = 2.0
    dtype: str = "float16"

    def __post_init__(self) -> None:
        for name, least in _COUNTS.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= _MOST:
                raise InvalidSpec(f"{name} is a whole number in {least}..{_MOST}, got {value!r:.40}")
        for name in _AMOUNTS:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1e6:
                raise InvalidSpec(f"{name} is a number in 0..1e6, got {value!r:.40}")
        if self.norm_ratio == 0:
            raise InvalidSpec("norm_ratio must be above 0: keys of no length ask nothing")
        if self.focus >= 1:
            raise InvalidSpec(f"focus is a share below 1, got {self.focus}")
        if self.outlier_channels > self.head_dim:
            raise InvalidSpec(f"{self.outlier_channels} outlier channels of {self.head_dim}")
        if self.rope and self.head_dim % 2:
            raise InvalidSpec(f"rotary pairs need an even head_dim, got {self.head_dim}; set rope=0")
        if self.sinks >= self.tokens:
            raise InvalidSpec(f"{self.sinks} sinks of {self.tokens} tokens leave none to attend to")
        if self.dtype not in ("float16", "bfloat16", "float32"):
            raise InvalidSpec(f"dtype is float16, bfloat16 or float32, got {self.dtype!r:.40}")

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values."""
        size = 4 if self.dtype == "float32" else 2
        return 2 * size * self.layers * self.kv_heads * self.samples * self.tokens * self.head_dim

    def with_knobs(self, **knobs: Any) -> "Workload":
        """The same with other values; InvalidSpec for a knob that does not exist."""
        known = {field.name for field in fields(self)}
        for name in knobs:
            if name not in known:
                raise InvalidSpec(f"no knob is called {name!r}; known: {', '.join(sorted(known))}")
        return replace(self, **knobs)


_COUNTS: Final = {
    "layers": 1,
    "kv_heads": 1,
    "query_groups": 1,
    "head_dim": 2,
    "tokens": 1,
    "query_count": 1,
    "samples": 1,
    "outlier_channels": 0,
    "sinks": 0,
}
_AMOUNTS: Final = (
    *("norm_ratio", "key_mean", "outlier_scale", "rope", "norm_tail", "sink_logit", "focus", "logit_std"),
)
_MOST: Final = 1 << 24

_REAL: Final = Workload(
    rope=10_000.0, norm_ratio=5.0, key_mean=1.0, outlier_channels=4, norm_tail=0.3, sinks=4, focus=0.2
)

WORKLOADS: Final = {
    "isotropic": Workload(),
    "isotropic-64": Workload(head_dim=64),
    "gpt2": replace(_REAL, layers=12, kv_heads=12, head_dim=64, rope=0.0, norm_ratio=6.0, key_mean=1.5),
    "phi-2": replace(_REAL, layers=32, kv_heads=32, head_dim=80, norm_ratio=4.0, outlier_channels=2),
    "gemma-2b": replace(_REAL, layers=18, kv_heads=1, query_groups=8, head_dim=256, norm_ratio=3.0),
    "phi-3-mini": replace(_REAL, layers=32, kv_heads=32, head_dim=96, norm_ratio=4.0),
    "llama-3-8b": replace(_REAL, layers=32, kv_heads=8, query_groups=4, rope=500_000.0),
    "mistral-7b": replace(_REAL, layers=32, kv_heads=8, query_groups=4),
    "qwen2.5-7b": replace(
        _REAL, layers=28, kv_heads=4, query_groups=7, rope=1e6, norm_ratio=106.0, key_mean=4.0, outlier_channels=8,
        outlier_scale=4.0,
    ),
    "smollm2-135m": replace(_REAL, layers=30, kv_heads=3, query_groups=3, head_dim=64, norm_ratio=4.0),
}  # fmt: skip
"""Names for `synthetic(model=...)`; the isotropic ones are the control, without any structure."""
