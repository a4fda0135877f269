"""Token codecs: what a store does to rows of vectors. TurboQuant, the affine yardsticks and plain floats alike."""

from collections.abc import Mapping
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from tq_cache.affine import AffineCodec
from tq_cache.floats import FloatCodec
from tq_cache.split import SplitCodec
from tq_cache.stores import AnyStore, SplitStore, Store
from tq_core import Encoded, ScaleRange, TrellisQuant, TurboQuantMSE, TurboQuantProd, VectorCodec
from tq_core.codebook import MixedCodebook

F32 = NDArray[np.float32]
Rows = Mapping[str, NDArray[Any]]  # field name -> (rows, width) or (rows,)
Fields = Mapping[str, tuple[int | None, "np.dtype[Any]"]]  # field name -> (row width, None for one number a row; dtype)


class TokenCodec(Protocol):
    """Encodes (rows, dim) floats, already checked to be finite, to arrays named by `fields`, one row each."""

    @property
    def fields(self) -> Fields:
        """The arrays that hold encoded rows; `packed` holds the codes, the others scalars."""

    @property
    def tables(self) -> tuple[NDArray[Any], ...]:
        """Arrays shared by all rows: rotation, codebook, sketch."""

    @property
    def spec(self) -> Mapping[str, Any]:
        """A plain dict that says everything about how rows are encoded."""

    @property
    def scratch(self) -> int:
        """Bytes of scratch memory a number that `decode`, `scores` and `combine` take at most, results apart."""

    def check(self, rows: Rows) -> None:
        """Raise CorruptData for rows that `encode` never makes; they come from a file."""

    def encode(self, rows: NDArray[np.floating]) -> Rows:
        """Encoded rows."""

    def decode(self, rows: Rows) -> F32:
        """(rows, dim) float32."""

    def scores(self, rows: Rows, queries: F32) -> F32:
        """Inner products of (queries, dim) with the decoded rows, (queries, rows) float32."""

    def combine(self, rows: Rows, weights: F32) -> F32:
        """Weighted sums of the decoded rows, weights (sums, rows): (sums, dim) float32."""


class TurboCodec:
    """A VectorCodec as a token codec. A norm too small for float16 is stored as 0: an error below 3e-8 a vector."""

    def __init__(self, store: Store, dim: int, norms: str, seed: int, backend: str) -> None:
        quantizer: TurboQuantMSE | TurboQuantProd | TrellisQuant
        if store.kind == "trellis":
            quantizer = TrellisQuant(dim, int(store.bits), seed=seed, states=store.states, backend=backend)
        elif store.kind == "mse":
            quantizer = TurboQuantMSE(dim, store.bits, seed=seed, backend=backend)
        else:
            quantizer = TurboQuantProd(dim, int(store.bits), seed=seed, backend=backend)
        self.fused: WeakKeyDictionary[TurboCodec, dict[str, FusedAttention | None]] = WeakKeyDictionary()
        self.codec = VectorCodec(quantizer, scale=store.scale, norm_dtype=norms, search=store.search, underflow="zero")

    @property
    def fields(self) -> Fields:
        """As TokenCodec."""
        return self.codec.fields

    @property
    def tables(self) -> tuple[NDArray[Any], ...]:
        """As TokenCodec."""
        return self.codec.tables

    @property
    def spec(self) -> Mapping[str, Any]:
        """As TokenCodec: that of `tq_core.VectorCodec`."""
        return self.codec.spec

    @property
    def scratch(self) -> int:
        """As TokenCodec: a byte of code and a float32 centroid; beside them words or, more, the signs of a sketch."""
        if self.codec.plan.sketch is not None:
            return 9
        return 7 if isinstance(self.codec.plan.codebook, MixedCodebook) else 5

    def check(self, rows: Rows) -> None:
        """As TokenCodec: padding bits not zero, words beyond their levels, scalars negative or not finite."""
        Encoded(self.codec.spec, rows)

    def encode(self, rows: NDArray[np.floating]) -> Rows:
        """As TokenCodec; ScaleRange for a norm beyond the norms' dtype."""
        try:
            return self.codec.encode(rows).arrays
        except ScaleRange as error:
            raise ScaleRange(f"{error}; in a policy that is norms=float32") from None

    def decode(self, rows: Rows) -> F32:
        """As TokenCodec."""
        return self.codec.decode(self.codec.wrap(rows))

    def scores(self, rows: Rows, queries: F32) -> F32:
        """As TokenCodec, straight from packed codes."""
        return self.codec.scores(self.codec.wrap(rows), queries)

    def combine(self, rows: Rows, weights: F32) -> F32:
        """As TokenCodec, added in the rotated domain."""
        return self.codec.combine(self.codec.wrap(rows), weights)


class Fused(Protocol):
    """What a fused kernel finds: sums of exp(logit - maximum) over the tokens, and of the same times the values."""

    @property
    def values(self) -> F32:
        """(lanes, heads a lane, n, value dim), zeros where no token was seen."""

    @property
    def maxima(self) -> F32:
        """(lanes, heads a lane, n), -inf where no token was seen."""

    @property
    def sums(self) -> F32:
        """(lanes, heads a lane, n), 0 where no token was seen."""


class FusedAttention(Protocol):
    """What a backend may offer beside the operations of tq_core: attention over tokens packed by two plans.

    Limits are counted from the first packed token and may lie beyond either end.
    """

    def attend(self, *packed: NDArray[Any], **options: Any) -> Fused:
        """Attention of packed keys, their scales, packed values, their scales, and queries."""


def fused_attention(keys: TokenCodec, values: TokenCodec, accuracy: str) -> FusedAttention | None:
    """The fused kernel of the codecs' backend, made once a pair of codecs; None where there is none for them."""
    if not (isinstance(keys, TurboCodec) and isinstance(values, TurboCodec)):
        return None
    made = keys.fused.get(values)
    if made is not None and accuracy in made:
        return made[accuracy]
    backend = keys.codec.quantizer.backend
    has_sketch = keys.codec.plan.sketch is not None or values.codec.plan.sketch is not None
    if has_sketch or backend is not values.codec.quantizer.backend or not hasattr(backend, "attention"):
        return None
    kernel: FusedAttention | None = getattr(backend, "on_device", backend).attention(
        keys.codec.plan, values.codec.plan, accuracy
    )
    keys.fused.setdefault(values, {})[accuracy] = kernel
    return kernel


def codec_for(store: AnyStore, dim: int, norms: str, seed: int, backend: str) -> TokenCodec:
    """The codec of a store. Raises what tq_core raises for a bad dim, seed or backend."""
    if isinstance(store, SplitStore):
        high = codec_for(store.high, store.channels, norms, seed, backend)
        return SplitCodec(high, codec_for(store.rest, dim - store.channels, norms, seed, backend), store.channels)
    if store.kind == "float":
        return FloatCodec(dim, int(store.bits))
    if store.kind in ("int", "absmax"):
        return AffineCodec(dim, int(store.bits), symmetric=store.kind == "absmax", dtype=norms)
    return TurboCodec(store, dim, norms, seed, backend)
