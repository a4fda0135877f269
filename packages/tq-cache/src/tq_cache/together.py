"""Several layers of one form at once: rows of a batch or layers of a model, in one call of each quantizer.

A call costs some dozen microseconds of numpy whatever it holds, and a step brings a token to every layer of every row.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tq_cache.codecs import Rows, TokenCodec
from tq_cache.flow import Flow, Pending, pending
from tq_cache.layer import Layer
from tq_cache.side import Side
from tq_cache.token_array import TokenArray
from tq_core import ScaleRange

F32 = NDArray[np.float32]
Floats = NDArray[np.floating]

FEW: Final = 256  # rows of a call; from there on one more call costs nothing, and scratch memory grows with the rows


Exact = tuple[Side, TokenArray, TokenArray]  # with its sinks and its window


class Change(NamedTuple):
    """An append to several layers whose tokens are encoded, and nothing of it done yet."""

    layers: Sequence[Layer]
    flows: list[Flow]
    work: list[tuple[Side, Pending]]

    def carry_out(self) -> list[range]:
        """Add the tokens, to all layers or to none; the positions that each quantized."""
        self._reserve()
        return self._commit()

    @contextmanager
    def standing(self) -> Iterator[None]:
        """Add the tokens, and take them back where what is done with them fails."""
        before = []
        for side, sinks, recent in self._reserve():
            twin = side.twin()
            twin.sinks = twin.sinks if side.sinks is sinks else sinks  # of a narrower dtype
            twin.recent = twin.recent if side.recent is recent else recent
            before.append((side, twin))
        evicted = [layer.evicted for layer in self.layers]
        try:
            self._commit()
            yield
        except BaseException:
            for side, twin in before:
                side.back_to(twin)
            for layer, count in zip(self.layers, evicted, strict=True):
                layer.evicted = count
            raise

    def _reserve(self) -> list[Exact]:
        """Make room, after which `_commit` cannot fail. Returns the exact tokens as they were: room may be wider."""
        held = [(side, side.sinks, side.recent) for side, _ in self.work]
        try:
            for side, ready in self.work:
                side.reserve(ready)
        except BaseException:
            for side, sinks, recent in held:
                side.sinks, side.recent = sinks, recent
            raise
        return held

    def _commit(self) -> list[range]:
        learning = [layer for layer in self.layers if not layer.is_ready]
        for side, ready in self.work:
            side.commit(ready)
        quantized = [layer.settle(flow) for layer, flow in zip(self.layers, self.flows, strict=True)]
        for layer in learning:
            if layer.is_ready:  # nothing waits any more; room that memory is too full to give back is kept
                with suppress(MemoryError):
                    layer.trim()
        return quantized


def prepared(layers: Sequence[Layer], keys: Sequence[Floats], values: Sequence[Floats]) -> Change:
    """What adding (lanes, n, dim) tokens to each layer does; no layer changes.

    Vectors that one codec takes, those of several layers and of keys and values alike, are encoded in one call; codes
    do not depend on what is encoded beside them.
    """
    for layer in layers:
        layer.open()
    flows = [layer.flow(tokens.shape[1]) for layer, tokens in zip(layers, keys, strict=True)]
    parts = [
        (side, tokens if group.heads is None else tokens[group.heads], flow)
        for layer, flow, both in zip(layers, flows, zip(keys, values, strict=True), strict=True)
        for group in layer.groups
        for side, tokens in zip((group.keys, group.values), both, strict=True)
    ]
    settled = [side.settled(tokens, flow) for side, tokens, flow in parts]
    encoded = _encode([side for side, _, _ in parts], [found.tokens for found in settled])
    work = [
        (side, pending(tokens, flow, rows, found.basis))
        for (side, tokens, flow), rows, found in zip(parts, encoded, settled, strict=True)
    ]
    return Change(layers, flows, work)


def keys(layers: Sequence[Layer], start: int, stop: int) -> F32:
    """What keys start..stop-1 decode to, (layers, lanes, n, dim); layers that hold as many tokens as each other."""
    sides = [[layer.groups[group].keys for layer in layers] for group in range(len(layers[0].groups))]
    return _joined(layers[0], [_tokens(alike, start, stop) for alike in sides])


def values(layers: Sequence[Layer], start: int, stop: int) -> F32:
    """As `keys`."""
    sides = [[layer.groups[group].values for layer in layers] for group in range(len(layers[0].groups))]
    return _joined(layers[0], [_tokens(alike, start, stop) for alike in sides])


def _joined(layer: Layer, parts: list[F32]) -> F32:
    """(layers, lanes, ...) from the lanes of each group."""
    if len(parts) == 1:
        return parts[0]
    return np.stack([layer.joined([part[row] for part in parts]) for row in range(len(parts[0]))])


def _tokens(sides: Sequence[Side], start: int, stop: int) -> F32:
    if len({side.borders() for side in sides}) > 1:  # cropped by rows: each decodes by itself
        return np.stack([side.tokens(start, stop) for side in sides])
    first = sides[0]
    codes, window = first.borders()
    low, high = min(max(start, codes), window), max(min(stop, window), codes)
    out: F32 = first.place.xp.empty((len(sides), first.lanes, stop - start, first.dim), np.float32)
    if low < high:
        decoded = _decode(sides, low - codes, high - codes)
        for row, side, rows in zip(out, sides, decoded, strict=True):
            row[:, low - start : high - start] = side.restored(rows)
    for row, side in zip(out, sides, strict=True):
        for begin, end in ((start, min(stop, codes)), (max(start, window), stop)):
            if begin < end:
                row[:, begin - start : end - start] = side.tokens(begin, end)
    return out


def _encode(sides: Sequence[Side], settled: Sequence[Floats]) -> list[Rows]:
    """The rows of each side, (lanes, n, ...) arrays; sides of one codec share calls of FEW rows, as they fit."""
    calls: list[list[int]] = []
    filling: dict[int, list[int]] = {}  # by codec: its last call, and how many rows that has
    held: dict[int, int] = {}
    for index, (side, tokens) in enumerate(zip(sides, settled, strict=True)):
        key, new = id(side.codec), tokens.shape[0] * tokens.shape[1]
        if key not in filling or held[key] + new > FEW:
            filling[key], held[key] = [], 0
            calls.append(filling[key])
        filling[key].append(index)
        held[key] += new
    found: list[Rows] = [{}] * len(sides)
    for indices in calls:
        dim, codec = sides[indices[0]].dim, sides[indices[0]].codec
        dtypes = {settled[index].dtype for index in indices}
        dtype = dtypes.pop() if len(dtypes) == 1 else np.result_type(*dtypes)  # wider is exact: codes stay the same
        flat = [settled[index].astype(dtype, copy=False).reshape(-1, dim) for index in indices]
        rows = _encoded(codec, flat)
        start = 0
        for index, part in zip(indices, flat, strict=True):
            stop, lead = start + len(part), settled[index].shape[:2]
            found[index] = {name: array[start:stop].reshape(*lead, *array.shape[1:]) for name, array in rows.items()}
            start = stop
    return found


def _encoded(codec: TokenCodec, parts: list[Floats]) -> Rows:
    """All parts in one call; an error counts rows within the part that it is about."""
    if len(parts) == 1:
        return codec.encode(parts[0])
    try:
        return codec.encode(np.concatenate(parts))
    except ScaleRange:
        for part in parts:
            codec.encode(part)
        raise


def _decode(sides: Sequence[Side], low: int, high: int) -> F32:
    first = sides[0]
    rows = {}
    for name in first.coded:
        parts = np.stack([side.coded[name].view[:, low:high] for side in sides])
        rows[name] = parts.reshape(-1, *parts.shape[3:])
    return first.codec.decode(rows).reshape(len(sides), first.lanes, high - low, first.dim)
