"""Several layers of one form at once: the rows of a batch, encoded and decoded in one call of the quantizer.

A call costs some hundred microseconds of numpy whatever it holds, and a batch has one layer for each of its rows.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from tq_cache.codecs import Rows
from tq_cache.flow import Pending, pending
from tq_cache.layer import Layer
from tq_cache.side import Side

F32 = NDArray[np.float32]
Floats = NDArray[np.floating]


def append(layers: Sequence[Layer], keys: Sequence[Floats], values: Sequence[Floats]) -> list[range]:
    """Add (lanes, n, dim) tokens to each layer; returns the positions that each quantized.

    All or nothing: whatever can fail is done before any layer changes.
    """
    for layer in layers:
        layer.open()
    flows = [layer.flow(tokens.shape[1]) for layer, tokens in zip(layers, keys, strict=True)]
    work: list[tuple[Side, Pending]] = []
    for sides, tokens in _alike(layers, keys, values):
        settled = [side.settled(new, flow) for side, new, flow in zip(sides, tokens, flows, strict=True)]
        encoded = _encode(sides, [found.tokens for found in settled])
        work += [
            (side, pending(new, flow, rows, found.basis))
            for side, new, flow, rows, found in zip(sides, tokens, flows, encoded, settled, strict=True)
        ]
    for side, ready in work:
        side.reserve(ready)
    learning = [layer for layer in layers if not layer.is_ready]
    for side, ready in work:
        side.commit(ready)
    quantized = [layer.settle(flow) for layer, flow in zip(layers, flows, strict=True)]
    for layer in learning:
        if layer.is_ready:  # nothing waits any more; room that memory is too full to give back is kept
            with suppress(MemoryError):
                layer.trim()
    return quantized


def keys(layers: Sequence[Layer], start: int, stop: int) -> F32:
    """What keys start..stop-1 decode to, (layers, lanes, n, dim); layers that hold as many tokens as each other."""
    sides = [[layer.groups[group].keys for layer in layers] for group in range(len(layers[0].groups))]
    return _joined(layers[0], [_tokens(alike, start, stop) for alike in sides])


def values(layers: Sequence[Layer], start: int, stop: int) -> F32:
    """As `keys`."""
    sides = [[layer.groups[group].values for layer in layers] for group in range(len(layers[0].groups))]
    return _joined(layers[0], [_tokens(alike, start, stop) for alike in sides])


def _alike(
    layers: Sequence[Layer], keys: Sequence[Floats], values: Sequence[Floats]
) -> Iterator[tuple[list[Side], list[Floats]]]:
    """The sides of all layers that have one codec, with the tokens of their lanes."""
    for index, (heads, *_) in enumerate(layers[0].groups):
        groups = [layer.groups[index] for layer in layers]
        yield [group.keys for group in groups], [new if heads is None else new[heads] for new in keys]
        yield [group.values for group in groups], [new if heads is None else new[heads] for new in values]


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
    first = sides[0]
    counts = [tokens.shape[1] for tokens in settled]
    dtype = np.result_type(*(tokens.dtype for tokens in settled))  # wider is exact, and codes do not depend on it
    flat = np.concatenate([tokens.astype(dtype, copy=False).reshape(-1, first.dim) for tokens in settled])
    rows = first.codec.encode(flat)
    found: list[Rows] = []
    start = 0
    for count in counts:
        stop = start + first.lanes * count
        found.append(
            {name: array[start:stop].reshape(first.lanes, count, *array.shape[1:]) for name, array in rows.items()}
        )
        start = stop
    return found


def _decode(sides: Sequence[Side], low: int, high: int) -> F32:
    first = sides[0]
    rows = {}
    for name in first.coded:
        parts = np.stack([side.coded[name].view[:, low:high] for side in sides])
        rows[name] = parts.reshape(-1, *parts.shape[3:])
    return first.codec.decode(rows).reshape(len(sides), first.lanes, high - low, first.dim)
