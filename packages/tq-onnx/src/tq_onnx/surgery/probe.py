"""Proves with numbers that located tensors are the attention they seem to be, and recovers its scale.

Own attention over the exposed query and the cache must equal the graph's. What it cannot see in a few tokens: windows
longer than the probe.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tq_onnx.signature import LayerTensors
from tq_onnx.surgery.attention import Attention, Missing
from tq_onnx.surgery.expose import PREFIX

F64 = NDArray[np.float64]
TOLERANCE = {"float32": 1e-3, "float16": 2e-2}  # of the largest number in the output


@dataclass(frozen=True)
class Proved:
    """An attention whose numbers agree: logits are softcap * tanh(scale * q·k / softcap), or scale * q·k without."""

    attention: Attention
    scale: float
    softcap: float
    query_heads: int


def prove(attention: Attention, layer: LayerTensors, found: Mapping[str, NDArray[Any]], dtype: str) -> Proved | Missing:
    """The attention with its scale, from the outputs of one run of several tokens without a past (batch 1)."""
    tokens = int(found[layer.present_key].shape[2])
    keys, values = (np.asarray(found[name][0], np.float64) for name in (layer.present_key, layer.present_value))
    query = queries(attention, layer, found, np.arange(tokens))
    if query is None or query.shape[0] % layer.kv_heads:
        shape = found[PREFIX + attention.query].shape
        return Missing(layer.number, f"{attention.query!r} has the shape {shape}, which is no query of this layer")
    group = query.shape[0] // layer.kv_heads
    products = query @ np.repeat(keys, group, axis=0).transpose(0, 2, 1)
    scale, softcap = attention.scale or 1 / math.sqrt(layer.key_dim), attention.softcap
    if attention.linear is not None:
        fitted = _fit(products, found[PREFIX + attention.linear])
        if fitted is None:
            return Missing(layer.number, f"{attention.linear!r} is no multiple of query times key")
        scale = fitted
        if attention.capped is not None:
            bent = np.tanh(scale * products)
            cap = _fit(bent, found[PREFIX + attention.capped])
            if cap is None:
                return Missing(layer.number, f"{attention.capped!r} is no soft cap of the scores")
            scale, softcap = scale * cap, cap
    logits = scale * products
    if softcap:
        logits = softcap * np.tanh(logits / softcap)
    logits = np.where(np.tri(tokens, dtype=bool), logits, -np.inf)
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    mixed = weights / weights.sum(axis=-1, keepdims=True) @ np.repeat(values, group, axis=0)
    given = _by_head(found[PREFIX + attention.output], mixed.shape)
    if given is None:
        shape = found[PREFIX + attention.output].shape
        return Missing(layer.number, f"{attention.output!r} has the shape {shape}, which is no output of this layer")
    error = float(np.abs(given - mixed).max() / max(np.abs(mixed).max(), 1e-30))
    if not error <= TOLERANCE[dtype]:
        return Missing(layer.number, f"own attention differs from {attention.output!r} by {error:.2g} of its size")
    return Proved(attention, scale, softcap, int(query.shape[0]))


def queries(
    attention: Attention, layer: LayerTensors, found: Mapping[str, NDArray[Any]], positions: NDArray[np.int64]
) -> F64 | None:
    """The query (query_heads, tokens, key_dim) that meets the cached keys; None where its shape makes no sense."""
    given = np.asarray(found[PREFIX + attention.query], np.float64)
    tokens, dim = len(positions), layer.key_dim
    if attention.packed:
        given = given[..., : attention.query_heads * dim]
    shape = (attention.query_heads or given.size // (tokens * dim), tokens, dim)
    query = _by_head(given, shape)
    if query is not None and attention.rotary is not None:
        cosines, sines = (np.asarray(found[PREFIX + name], np.float64)[positions] for name in attention.rotary)
        query = _rotated(query, cosines, sines, interleaved=attention.interleaved)
    return query


def _by_head(given: NDArray[Any], shape: tuple[int, ...]) -> F64 | None:
    """A tensor of batch 1 as (heads, tokens, dim): it may have heads before tokens, or side by side in each token."""
    heads, tokens, dim = shape
    array = np.asarray(given, np.float64)
    if array.size != math.prod(shape) or array.shape[0] not in (1, heads):
        return None
    if array.shape == (1, heads, tokens, dim) or array.shape == (heads, tokens, dim):
        return array.reshape(shape)
    if array.shape in ((1, tokens, heads * dim), (1, tokens, heads, dim), (1, tokens * heads, dim)):
        return array.reshape(tokens, heads, dim).transpose(1, 0, 2)
    grouped = array.ndim == 5 and array.shape[0] == 1 and array.shape[-2:] == (tokens, dim)
    return array.reshape(shape) if grouped else None


def _rotated(query: F64, cosines: F64, sines: F64, *, interleaved: bool) -> F64:
    """The query turned by its positions; tables are (tokens, half), numbers beyond twice that stay."""
    half = cosines.shape[1]
    out = query.copy()
    if interleaved:
        first, second = slice(0, 2 * half, 2), slice(1, 2 * half, 2)
    else:
        first, second = slice(0, half), slice(half, 2 * half)
    out[..., first] = query[..., first] * cosines - query[..., second] * sines
    out[..., second] = query[..., second] * cosines + query[..., first] * sines
    return out


def _fit(products: F64, given: NDArray[Any]) -> float | None:
    """The factor between the two, by least squares; None unless it explains all but rounding."""
    flat = np.asarray(given, np.float64)
    if flat.size != products.size:
        return None
    flat = flat.reshape(products.shape)
    factor = float((products * flat).sum() / max(float((products * products).sum()), 1e-30))
    rest = np.abs(flat - factor * products).max() / max(np.abs(flat).max(), 1e-30)
    return factor if rest <= TOLERANCE["float16" if given.dtype == np.float16 else "float32"] else None
