"""Snapshots: what of a cache is written, and how a cache is rebuilt upon a mapped file (docs/format.md, section 9)."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tq_cache import safetensors_file as container
from tq_cache import snapshot_facts as facts_of
from tq_cache.atomic_file import as_path, check_target, write_file
from tq_cache.basis import Basis, first_channels
from tq_cache.errors import SnapshotMismatch
from tq_cache.grammar import GIVEN
from tq_cache.layer import Layer
from tq_cache.mapped import MappedTokenArray, Seal
from tq_cache.policy import CachePolicy
from tq_cache.side import Side
from tq_cache.snapshot_facts import Facts, Shape
from tq_core import BackendUnavailable, CorruptData, InvalidDimension, InvalidSpec, ShapeMismatch, TurboQuantError

Array = NDArray[Any]
F32 = NDArray[np.float32]
Rows = Sequence[Sequence[Layer]]
Cache = TypeVar("Cache")

KIND: Final = ("tq-cache", "1")
EXACT: Final = ("sinks", "window")
FLOATS: Final = ("float16", "float32", "float64")
LEAST_ARRAYS: Final = 6  # codes, sinks and window of keys and of values


def save(
    path: str | os.PathLike[str],
    shape: Shape,
    rows: Rows,
    *,
    model: str,
    tokens: ArrayLike | str | None,
    rope: Mapping[str, Any] | None,
    dtype: str,
    overwrite: bool,
) -> None:
    """Write layers, `rows[row][layer]`, whole or not at all; everything is checked before anything is written."""
    target = as_path(path)
    check_target(target, overwrite)
    if max(shape.head_dim, shape.value_dim) > facts_of.MAX_DIM:
        raise InvalidDimension(f"snapshots hold dims up to {facts_of.MAX_DIM}, got {shape.head_dim}, {shape.value_dim}")
    if shape.kv_heads > facts_of.MAX_HEADS:
        raise InvalidSpec(f"snapshots hold layers of up to {facts_of.MAX_HEADS} heads, got {shape.kv_heads}")
    tensors: dict[str, Array] = {}
    digest = ""
    if isinstance(tokens, str) and facts_of.is_digest(tokens):
        digest = tokens
    elif tokens is not None:
        ids = facts_of.token_rows(tokens, shape.batch)
        _check_ids(ids, rows)
        digest = facts_of.tokens_digest(ids)
        tensors |= {f"tokens.{row}": array for row, array in enumerate(ids)}
    facts = Facts(
        shape,
        facts_of.model_id(model),
        facts_of.dtype_name(dtype),
        facts_of.rope_facts(rope),
        digest,
        [[layer.evicted for layer in row] for row in rows],
        _quantizers(rows[0]),
    )
    for prefix, side in _sides(rows):
        tensors |= {prefix + _name(name): array.view for name, array in side.coded.items()}
        tensors |= {prefix + "sinks": side.sinks.view, prefix + "window": side.recent.view}
        mean, order = side.basis or side.known
        if mean is not None:
            tensors[prefix + "mean"] = mean
        if order is not None:
            tensors[prefix + "channels"] = order[:, : side.needs.channels].astype(np.int64)
    write_file(target, container.encoded(KIND, facts.to_metadata(), tensors), overwrite=overwrite)


class Snapshot:
    """An opened file of one kind of cache: facts at once, tokens when they are used."""

    def __init__(self, path: str | os.PathLike[str], kind: str) -> None:
        self._file = container.opened(as_path(path), KIND)
        self._path = str(self._file.path)
        try:
            self.facts = Facts.from_metadata(self._file.metadata)
        except CorruptData as error:
            raise CorruptData(f"{self._path}: {error}") from error
        self.shape = self.facts.shape
        if self.shape.kind != kind:
            use = f"load it with {facts_of.KINDS[self.shape.kind]}.load"
            raise SnapshotMismatch(self._path, "kind", self.shape.kind, kind, use)
        least = LEAST_ARRAYS * self.shape.layers * self.shape.batch
        if len(self._file.tensors) < least:
            raise self._corrupt(f"{len(self._file.tensors)} tensors are too few for these layers and rows: {least}")

    def require(
        self,
        *,
        model: str | None,
        tokens: ArrayLike | str | None,
        rope: Mapping[str, Any] | None,
        dtype: str | None,
        policy: CachePolicy | str | None,
        seed: int | None,
    ) -> None:
        """Raise SnapshotMismatch unless each given fact is what was saved; None is not given."""
        facts, shape = self.facts, self.shape
        self._require("model", facts.model, None if model is None else facts_of.model_id(model))
        self._require("dtype", facts.dtype, None if dtype is None else facts_of.dtype_name(dtype))
        if rope is not None:
            facts_of.rope_facts(rope)
            self._require("rope", json.loads(facts.rope), rope)
        self._require("policy", shape.policy, None if policy is None else str(facts_of.own_policy(shape, policy)))
        self._require("seed", shape.seed, seed)
        if tokens is not None:
            if not (isinstance(tokens, str) and facts_of.is_digest(tokens)):
                tokens = facts_of.tokens_digest(facts_of.token_rows(tokens, shape.batch))
            self._require("tokens", facts.tokens, tokens)

    def built(self, make: Callable[[Shape], Cache]) -> Cache:
        """The empty cache that `make` makes of the shape; CorruptData where there cannot be such a cache."""
        try:
            return make(self.shape)
        except BackendUnavailable:
            raise
        except TurboQuantError as error:
            raise self._corrupt(f"metadata describes a cache that cannot be: {error}") from error

    def fill(self, rows: Rows, *, lazy: bool) -> None:
        """Put the file's tokens into empty layers `rows[row][layer]`. Not `lazy`: after verifying all of them."""
        if _quantizers(rows[0]) != self.facts.quantizers:
            raise self._corrupt("metadata says quantizers that are not those of its policy, dims and seed")
        left = set(self._file.tensors)
        for prefix, side in _sides(rows):
            left -= self._adopt(prefix, side)
        for row, layers in enumerate(rows):
            for index, layer in enumerate(layers):
                layer.evicted = self.facts.evicted[row][index]
                if len({(*side.borders(), len(side.recent)) for side in layer.sides()}) > 1:
                    raise self._corrupt(f"layer {index} of row {row} holds keys and values of different tokens")
                is_ready = {side.basis is not None for side in layer.sides() if side.needs.tokens}
                first, last = layer.groups[0].keys.borders()
                if len(is_ready) > 1 or (False in is_ready and first < last):
                    raise self._corrupt(
                        f"layer {index} of row {row} lacks the mean or channels of some heads, but not of all, or "
                        "though it has codes"
                    )
                if len(layer) + layer.evicted < 0:
                    raise self._corrupt(f"layer {index} of row {row} has seen fewer than no tokens")
        ids = self.token_ids()
        if ids is not None:
            left -= {f"tokens.{row}" for row in range(len(ids))}
            try:
                _check_ids(ids, rows)
            except ShapeMismatch as error:
                raise self._corrupt(str(error)) from error
        if left:
            raise self._corrupt(f"tensors that belong to nothing: {sorted(left)!r:.200}")
        if not lazy:
            for _, side in _sides(rows):
                side.open()

    def token_ids(self) -> list[facts_of.Ids] | None:
        """The ids saved with each row, verified; None where ids were not saved."""
        if "tokens.0" not in self._file.tensors:
            return None
        found = []
        for row in range(self.shape.batch):
            name = f"tokens.{row}"
            array = self._tensor(name)
            if array.dtype != np.dtype("<i8") or array.ndim != 1:
                raise self._corrupt(f"{name} must be I64 of one axis, got {array.dtype} {array.shape}")
            self._file.verify(name)
            found.append(array)
        if facts_of.tokens_digest(found) != self.facts.tokens:
            raise self._corrupt("tokens_sha256 is not that of the token ids")
        return found

    def common_prefix(self, tokens: ArrayLike) -> list[tuple[int, int]]:
        """For each row, how many of the saved ids those of `tokens` begin with, and how many were saved."""
        saved = self.token_ids()
        if saved is None:
            kept = "their sha256 alone" if self.facts.tokens else "none"
            raise SnapshotMismatch(self._path, "token ids", kept, "ids", "save(..., tokens=ids) keeps them")
        found = []
        for own, asked in zip(saved, facts_of.token_rows(tokens, self.shape.batch), strict=True):
            shorter = min(len(own), len(asked))
            differs = np.flatnonzero(own[:shorter] != asked[:shorter])
            found.append((int(differs[0]) if len(differs) else shorter, len(own)))
        return found

    def _adopt(self, prefix: str, side: Side) -> set[str]:
        names = {name: prefix + _name(name) for name in (*side.coded, *EXACT)}
        coded = self._tensor(names["packed"])
        count = coded.shape[1] if coded.ndim > 1 else 0
        for name, (width, dtype) in side.codec.fields.items():
            tail = () if width is None else (width,)
            self._expect(names[name], (side.lanes, count, *tail), (dtype.name,))
        for name in EXACT:
            array = self._tensor(names[name])
            count = array.shape[1] if array.ndim > 1 else 0
            self._expect(names[name], (side.lanes, count, side.dim), FLOATS)
        arrays = {name: self._tensor(full) for name, full in names.items()}
        seal = Seal(lambda: self._verify_side(prefix, side, names, arrays))
        held = {name: MappedTokenArray(array, seal) for name, array in arrays.items()}
        sinks, window = (held.pop(name) for name in EXACT)
        basis = Basis(self._mean(prefix + "mean", side), self._order(prefix + "channels", side))
        side.adopt(held, sinks, window, basis)
        known = {"mean": basis.mean, "channels": basis.order}
        return set(names.values()) | {prefix + name for name, array in known.items() if array is not None}

    def _mean(self, name: str, side: Side) -> F32 | None:
        """A mean of each lane, verified now: it is small, and what is decoded depends on it; None if not known yet."""
        if not self._is_known(name, side.needs.mean):
            return None
        self._expect(name, (side.lanes, side.dim), ("float32",))
        self._file.verify(name)
        mean = np.array(self._tensor(name), np.float32)
        if not np.isfinite(mean).all():
            raise self._corrupt(f"{name} has numbers that are not finite")
        return mean

    def _order(self, name: str, side: Side) -> NDArray[np.intp] | None:
        """As `_mean`: the order in which channels are encoded, from those that come first."""
        if not self._is_known(name, side.needs.split):
            return None
        self._expect(name, (side.lanes, side.needs.channels), ("int64",))
        self._file.verify(name)
        first = self._tensor(name)
        if not ((first >= 0) & (first < side.dim)).all() or not (np.diff(first, axis=1) > 0).all():
            raise self._corrupt(f"{name} must name channels of {side.dim} in ascending order")
        chosen = np.zeros((side.lanes, side.dim), bool)
        np.put_along_axis(chosen, first, True, axis=1)
        return first_channels(chosen)

    def _is_known(self, name: str, need: int | str) -> bool:
        """Whether the file has it; CorruptData where it was given and is missing. Where it has no use it is left."""
        return bool(need) and (need == GIVEN or name in self._file.tensors)

    def _verify_side(self, prefix: str, side: Side, names: Mapping[str, str], arrays: Mapping[str, Array]) -> None:
        """Checksums first; then that a stranger who made them right wrote only what a cache can hold."""
        for name in names.values():
            self._file.verify(name)
        for name in EXACT:
            if not np.isfinite(arrays[name]).all():
                raise self._corrupt(f"{names[name]} has numbers that are not finite")
        coded = {name: array for name, array in arrays.items() if name not in EXACT}
        try:
            side.codec.check({name: array.reshape(-1, *array.shape[2:]) for name, array in coded.items()})
        except CorruptData as error:
            raise self._corrupt(f"{prefix[:-1]}: {error}") from error

    def _tensor(self, name: str) -> Array:
        if name not in self._file.tensors:
            raise self._corrupt(f"{name} is missing")
        return self._file.tensors[name].array

    def _expect(self, name: str, shape: tuple[int, ...], dtypes: tuple[str, ...]) -> None:
        array = self._tensor(name)
        if array.shape != shape or array.dtype.name not in dtypes:
            raise self._corrupt(f"{name} must be {' or '.join(dtypes)} {shape}, got {array.dtype} {array.shape}")

    def _require(self, fact: str, saved: object, given: object) -> None:
        if given is not None and given != saved:
            raise SnapshotMismatch(self._path, fact, saved, given)

    def _corrupt(self, what: str) -> CorruptData:
        return CorruptData(f"{self._path}: {what}")


def _sides(rows: Rows) -> list[tuple[str, Side]]:
    """Every side with the beginning of its tensors' names, layer by layer; several groups of a layer have numbers."""
    found = []
    for index in range(len(rows[0])):
        for row, layers in enumerate(rows):
            groups = layers[index].groups
            for number, group in enumerate(groups):
                prefix = f"layers.{index}.rows.{row}." + (f"groups.{number}." if len(groups) > 1 else "")
                found += [(f"{prefix}k.", group.keys), (f"{prefix}v.", group.values)]
    return found


def _name(field: str) -> str:
    return field.removesuffix("packed") + "codes" if field.endswith("packed") else field


def _quantizers(layers: Sequence[Layer]) -> str:
    """Canonical JSON {"layers": [[k, v], ...], "specs": [...]}: indices into the specs, in order of first use.

    A layer of several groups has a pair for each of them.
    """
    specs: list[Any] = []
    table = []
    for layer in layers:
        pairs = []
        for group in layer.groups:
            pair = []
            for side in (group.keys, group.values):
                spec = dict(side.codec.spec)
                if spec not in specs:
                    specs.append(spec)
                pair.append(specs.index(spec))
            pairs.append(pair)
        table.append(pairs[0] if len(pairs) == 1 else pairs)
    return facts_of.canonical({"layers": table, "specs": specs})


def _check_ids(ids: Sequence[facts_of.Ids], rows: Rows) -> None:
    """One id for each token that a row has seen, evicted ones included."""
    for row, (own, layers) in enumerate(zip(ids, rows, strict=True)):
        for index, layer in enumerate(layers):
            if len(own) != len(layer) + layer.evicted:
                raise ShapeMismatch(
                    f"row {row} has {len(own)} token ids, but layer {index} has seen {len(layer) + layer.evicted} "
                    "tokens, evicted ones included; give the id of each"
                )
