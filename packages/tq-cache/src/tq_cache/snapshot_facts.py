"""What the header of a snapshot says: the shape of the cache and where its tokens came from."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tq_cache import checks
from tq_cache.policy import CachePolicy
from tq_core import CorruptData, InvalidSpec, ShapeMismatch, TurboQuantError

Ids = NDArray[np.int64]

KINDS: Final = {"head": "QuantizedKVCache", "layer": "MultiHeadKVCache", "decoder": "DecoderCache"}
DTYPES: Final = ("float16", "bfloat16", "float32", "float64")
MAX_DIM: Final = 4096  # a stranger's header asks for tables that grow with the dim, squared for prod
MAX_HEADS: Final = 1 << 12  # as many are grouped by their stores before any of their tensors is looked at
MAX_EVICTED: Final = 1 << 53  # what JSON readers of other languages hold exactly

_SHA256: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Shape:
    """What makes a cache, apart from its tokens; `policy` is canonical, `kind` a key of KINDS."""

    kind: str
    policy: str
    layers: int
    batch: int
    kv_heads: int
    head_dim: int
    value_dim: int
    seed: int
    max_tokens: int


@dataclass(frozen=True)
class Facts:
    """The metadata of a snapshot. `evicted`: tokens gone from the front, [row][layer].

    `tokens` is empty for no ids, otherwise their sha256; `rope` is canonical JSON, `null` for none. `quantizers` is
    canonical JSON: the specs in use, and for each layer which of them keys and values have.
    """

    shape: Shape
    model: str
    dtype: str
    rope: str
    tokens: str
    evicted: list[list[int]]
    quantizers: str

    def to_metadata(self) -> dict[str, str]:
        """Strings by name; `from_metadata` reads them, and no other spelling of them."""
        shape = {name: str(value) for name, value in asdict(self.shape).items()}
        return {
            **shape,
            "model": self.model,
            "dtype": self.dtype,
            "rope": self.rope,
            "tokens_sha256": self.tokens,
            "evicted": canonical(self.evicted),
            "quantizers": self.quantizers,
        }

    @classmethod
    def from_metadata(cls, found: Mapping[str, str]) -> "Facts":
        """The facts of a header; CorruptData for unknown, missing, impossible or oddly spelled ones."""
        missing, unknown = sorted(METADATA - set(found)), sorted(set(found) - METADATA)
        if missing or unknown:
            raise CorruptData(f"metadata lacks {missing} and has the unknown {unknown!r:.200}")
        if found["kind"] not in KINDS:
            raise CorruptData(f"kind is {found['kind']!r:.40}, expected one of {', '.join(KINDS)}")
        try:
            facts = cls._parsed(found)
        except (TurboQuantError, ValueError, RecursionError) as error:
            raise CorruptData(f"metadata says what cannot be: {error!s:.300}") from error
        for name, text in facts.to_metadata().items():
            if found[name] != text:
                raise CorruptData(f"metadata {name!r} is {found[name]!r:.100}, which is not its canonical form")
        return facts

    @classmethod
    def _parsed(cls, found: Mapping[str, str]) -> "Facts":
        kind = found["kind"]
        number = {name: int(found[name]) for name in NUMBERS}
        for name, low, high in (
            ("layers", 1, checks.MAX_COUNT if kind == "decoder" else 1),
            ("batch", 1, checks.MAX_COUNT if kind == "decoder" else 1),
            ("kv_heads", 1, 1 if kind == "head" else MAX_HEADS),
            ("head_dim", 2, MAX_DIM),
            ("value_dim", 2, MAX_DIM),
            ("seed", 0, (1 << 64) - 1),
            ("max_tokens", 0, checks.MAX_COUNT),
        ):
            if not low <= number[name] <= high:
                raise InvalidSpec(f"{name} of a {kind} must lie in {low}..{high}, got {number[name]}")
        shape = Shape(kind=kind, policy=found["policy"], **number)
        if str(own_policy(shape, shape.policy)) != shape.policy:
            raise InvalidSpec(f"policy {shape.policy!r:.200} is not canonical, or not one of this kind and layers")
        rope = json.loads(found["rope"])
        if found["tokens_sha256"] and not _SHA256.fullmatch(found["tokens_sha256"]):
            raise InvalidSpec(f"tokens_sha256 is {found['tokens_sha256']!r:.80}")
        return cls(
            shape,
            model_id(found["model"]),
            dtype_name(found["dtype"]),
            rope_facts(rope),
            found["tokens_sha256"],
            _evicted(json.loads(found["evicted"]), shape),
            canonical(json.loads(found["quantizers"])),
        )


NUMBERS: Final = ("layers", "batch", "kv_heads", "head_dim", "value_dim", "seed", "max_tokens")
METADATA: Final = {"kind", "policy", *NUMBERS, "model", "dtype", "rope", "tokens_sha256", "evicted", "quantizers"}


def own_policy(shape: Shape, policy: CachePolicy | str) -> CachePolicy:
    """The policy as a cache of that kind and that many layers, heads and dims follows it."""
    parsed = CachePolicy.parse(policy)
    if shape.kind != "decoder":
        parsed = parsed.inner() if shape.kind == "layer" else parsed.lone()
    return parsed.resolve(shape.layers, kv_heads=shape.kv_heads, head_dim=shape.head_dim, value_dim=shape.value_dim)


def canonical(value: Any) -> str:
    """JSON with sorted keys, no spaces, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def model_id(model: str) -> str:
    """model as it is, or InvalidSpec."""
    if not isinstance(model, str):
        raise InvalidSpec(f"model is a string that names the model, got {type(model).__name__}")
    try:
        model.encode()
    except UnicodeEncodeError as error:
        raise InvalidSpec(f"model is no text that can be written as UTF-8: {model!r:.80}") from error
    return model


def dtype_name(dtype: str) -> str:
    """dtype if it is the name of a float dtype, or InvalidSpec."""
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise InvalidSpec(f"dtype is one of {', '.join(DTYPES)}, got {dtype!r:.40}")
    return dtype


def rope_facts(rope: Mapping[str, Any] | None) -> str:
    """Canonical JSON of facts about positions, `null` for None; InvalidSpec where JSON cannot hold them."""
    if rope is not None and not isinstance(rope, dict):
        raise InvalidSpec(f"rope is a dict of plain values, got {type(rope).__name__}")
    try:
        text = canonical(rope)
        is_same = json.loads(text) == rope
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidSpec(f"rope must be a dict that JSON can hold: {error!s:.100}") from error
    if not is_same:
        raise InvalidSpec(f"rope must be made of dicts with string keys, lists, strings and numbers, got {rope!r:.100}")
    return text


def token_rows(tokens: ArrayLike, batch: int) -> list[Ids]:
    """Token ids of each row: one list for all rows, or (batch, tokens), or a list for each row."""
    if isinstance(tokens, np.ndarray):
        nested = tokens.ndim == 2
    else:
        if not isinstance(tokens, Sequence) or isinstance(tokens, (str, bytes)):
            raise ShapeMismatch(f"tokens are lists of ids, got {type(tokens).__name__}")
        nested = len(tokens) > 0 and isinstance(tokens[0], (Sequence, np.ndarray))
    if not nested:
        return [_ids(tokens)] * batch
    rows = [_ids(row) for row in tokens]
    if len(rows) != batch:
        raise ShapeMismatch(f"tokens have {len(rows)} rows, the cache {batch}; give one list, or one for each row")
    return rows


def tokens_digest(rows: Iterable[Ids]) -> str:
    """sha256 over each row: its length and its ids, all as little-endian 64-bit integers."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(len(row).to_bytes(8, "little") + row.astype("<i8").tobytes())
    return digest.hexdigest()


def is_digest(tokens: object) -> bool:
    """Whether tokens are given by their sha256; InvalidSpec for any other string."""
    if not isinstance(tokens, str):
        return False
    if not _SHA256.fullmatch(tokens):
        raise InvalidSpec(f"tokens are ids, or their sha256 as 64 lower-case hex digits, got {tokens!r:.80}")
    return True


def _ids(tokens: ArrayLike) -> Ids:
    try:
        array = np.asarray(tokens)
    except (ValueError, OverflowError) as error:
        raise ShapeMismatch(f"tokens are a list of ids, or a list for each row: {error!s:.100}") from error
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise ShapeMismatch(f"tokens are a list of integer ids, got {array.dtype} {array.shape}")
    if array.dtype == np.uint64 and (array > np.iinfo(np.int64).max).any():
        raise ShapeMismatch("tokens are ids below 2**63")
    return array.astype(np.int64)


def _evicted(found: list[list[int]], shape: Shape) -> list[list[int]]:
    is_table = (
        isinstance(found, list)
        and len(found) == shape.batch
        and all(isinstance(row, list) and len(row) == shape.layers for row in found)
        and all(type(count) is int and abs(count) <= MAX_EVICTED for row in found for count in row)
    )
    if not is_table:
        raise InvalidSpec(f"evicted is a number for each of {shape.layers} layers in each of {shape.batch} rows")
    return found
