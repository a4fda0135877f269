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
from tq_cache.errors import SnapshotMismatch
from tq_cache.layer import Layer
from tq_cache.policy import CachePolicy
from tq_cache.side import Side
from tq_cache.snapshot_facts import Facts, Shape
from tq_cache.snapshot_side import SideReader, tensors_of
from tq_core import BackendUnavailable, CorruptData, InvalidDimension, InvalidSpec, ShapeMismatch, TurboQuantError

Array = NDArray[Any]
Rows = Sequence[Sequence[Layer]]
Cache = TypeVar("Cache")

KIND: Final = ("tq-cache", "1")
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
        tensors |= tensors_of(prefix, side)
    blocks = container.encoded(KIND, facts.to_metadata(), tensors)
    write_file(target, lambda file: file.writelines(blocks), overwrite=overwrite)


class Snapshot:
    """An opened file of one kind of cache: facts at once, tokens when they are used."""

    def __init__(self, path: str | os.PathLike[str], kind: str) -> None:
        self._file = container.opened(as_path(path), KIND)
        self._path = str(self._file.path)
        self._sides = SideReader(self._file)
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
            raise self._sides.corrupt(f"{len(self._file.tensors)} tensors are too few for these layers, rows: {least}")

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
        except (BackendUnavailable, MemoryError):
            raise
        except TurboQuantError as error:
            raise self._sides.corrupt(f"metadata describes a cache that cannot be: {error}") from error

    def fill(self, rows: Rows, *, lazy: bool) -> None:
        """Put the file's tokens into empty layers `rows[row][layer]`. Not `lazy`: after verifying all of them."""
        if _quantizers(rows[0]) != self.facts.quantizers:
            raise self._sides.corrupt("metadata says quantizers that are not those of its policy, dims and seed")
        left = set(self._file.tensors)
        for prefix, side in _sides(rows):
            left -= self._sides.fill(prefix, side)
        for row, layers in enumerate(rows):
            for index, layer in enumerate(layers):
                layer.evicted = self.facts.evicted[row][index]
                if len({(*side.borders(), len(side.recent)) for side in layer.sides()}) > 1:
                    raise self._sides.corrupt(f"layer {index} of row {row} holds keys and values of different tokens")
                is_ready = {side.basis is not None for side in layer.sides() if side.needs.tokens}
                first, last = layer.groups[0].keys.borders()
                if len(is_ready) > 1 or (False in is_ready and first < last):
                    raise self._sides.corrupt(
                        f"layer {index} of row {row} lacks the mean or channels of some heads, but not of all, or "
                        "though it has codes"
                    )
                if len(layer) + layer.evicted < 0:
                    raise self._sides.corrupt(f"layer {index} of row {row} has seen fewer than no tokens")
        ids = self.token_ids()
        if ids is not None:
            left -= {f"tokens.{row}" for row in range(len(ids))}
            try:
                _check_ids(ids, rows)
            except ShapeMismatch as error:
                raise self._sides.corrupt(str(error)) from error
        if left:
            raise self._sides.corrupt(f"tensors that belong to nothing: {sorted(left)!r:.200}")
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
            array = self._sides.tensor(name)
            if array.dtype != np.dtype("<i8") or array.ndim != 1:
                raise self._sides.corrupt(f"{name} must be I64 of one axis, got {array.dtype} {array.shape}")
            self._file.verify(name)
            found.append(array)
        if facts_of.tokens_digest(found) != self.facts.tokens:
            raise self._sides.corrupt("tokens_sha256 is not that of the token ids")
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

    def _require(self, fact: str, saved: object, given: object) -> None:
        if given is not None and given != saved:
            raise SnapshotMismatch(self._path, fact, saved, given)


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
