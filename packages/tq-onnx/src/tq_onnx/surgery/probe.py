"""Numbers guard the structure: attention computed here has to agree with the graph's own, three times.

A short prefill shows wrong tensors, scales and sinks; a step over a long random past shows windows; the same with keys
so large that scores reach 60 shows soft caps. What a config says is tried, never believed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tq_onnx.surgery.layout import by_head
from tq_onnx.surgery.site import CannotCut, Site

Floats = NDArray[np.floating]
F64 = NDArray[np.float64]
Run = Callable[[NDArray[np.int64], Sequence[tuple[Floats, Floats]]], Mapping[str, NDArray[Any]]]

PREFILL: Final = 24
LEAST_PAST: Final = 160
BEYOND_WINDOW: Final = 40  # tokens of past beyond the largest window
LARGEST_LOGIT: Final = 60.0
LARGEST_PAST: Final = 4 << 30  # bytes of the pasts of all layers, of which a probe has a few copies
FIT: Final = {"float32": 1e-4, "float16": 1e-2}  # residual of the fitted scale
CLOSE: Final = {"float32": 1e-4, "float16": 5e-3}  # of the largest output
CLOSE_AMPLIFIED: Final = {"float32": 1e-3, "float16": 3e-2}


class Model(NamedTuple):
    """What the probes need to know about a decoder."""

    rows: int  # that a step runs
    kv_heads: int
    dims: tuple[int, int]
    dtype: str
    vocabulary: int
    context: int  # 0: unknown
    windows: tuple[int, ...]  # sizes of sliding windows that the configs mention


@np.errstate(all="ignore")  # what overflows agrees with nothing
def probe(sites: Sequence[Site], model: Model, run: Run) -> tuple[Site, ...]:
    """The sites with scale and window as the numbers show them, or CannotCut with the layer and the difference.

    `run` runs the whole graph on (rows, n) token ids over pasts, a pair for each site, and returns tensors by name.
    """
    random = np.random.default_rng(0)
    count = min(PREFILL, model.context) if model.context else PREFILL
    ids = random.integers(0, model.vocabulary, (model.rows, count))
    empty = [_past(model, 0, random, (1.0, 1.0)) for _ in sites]
    seen = run(ids, empty)
    sites = [_scaled(site, model, seen) for site in sites]
    for site, past in zip(sites, empty, strict=True):
        _windowed(site, model, seen, past, "a short prompt")  # which window it is shows below
    length = _length(sites, model)
    spreads = [(_spread(seen[site.key]), _spread(seen[site.value])) for site in sites]
    pasts = [_past(model, length, random, spread) for spread in spreads]
    token = ids[:, :1]
    seen = run(token, pasts)
    probed = f"a past of {length} tokens"
    sites = [_windowed(site, model, seen, past, probed) for site, past in zip(sites, pasts, strict=True)]
    large = [
        ((past[0] * _amplifier(site, model, seen, past)).astype(past[0].dtype), past[1])
        for site, past in zip(sites, pasts, strict=True)
    ]
    seen = run(token, large)
    for site, past in zip(sites, large, strict=True):
        _agree(site, model, seen, past)
    return tuple(sites)


def _length(sites: Sequence[Site], model: Model) -> int:
    """Tokens of the long past: beyond every window that hides anything, within the context."""
    windows = [*model.windows, *(site.window for site in sites)]
    hiding = [window for window in windows if not model.context or window < model.context]
    length = max([LEAST_PAST, *(window + BEYOND_WINDOW for window in hiding)])
    length = min(length, model.context - 1) if model.context else length
    size = len(sites) * model.rows * model.kv_heads * sum(model.dims) * length * np.dtype(model.dtype).itemsize
    if size > LARGEST_PAST:
        raise CannotCut(
            f"a past of {length} tokens, beyond its sliding window, would take {size} bytes to probe, more than "
            f"{LARGEST_PAST}"
        )
    return length


def _past(model: Model, tokens: int, random: np.random.Generator, spread: tuple[float, float]) -> tuple[Floats, Floats]:
    key, value = (
        (random.standard_normal((model.rows, model.kv_heads, tokens, dim)) * width).astype(model.dtype)
        for dim, width in zip(model.dims, spread, strict=True)
    )
    return key, value


def _spread(tensor: Floats) -> float:
    return float(np.std(tensor.astype(np.float64))) or 1.0


def _scaled(site: Site, model: Model, seen: Mapping[str, NDArray[Any]]) -> Site:
    """The site with its whole scale: read from an operator, or measured between q k^T and the graph's scores."""
    queries = by_head(seen[site.query], site.query_heads, site)
    keys, values = (by_head(seen[name], model.kv_heads, site) for name in (site.key, site.value))
    if queries.shape[1] % model.kv_heads or (queries.shape[3], keys.shape[3], values.shape[3]) != (
        model.dims[0],
        *model.dims,
    ):
        raise CannotCut(
            f"layer {site.number}: queries of shape {queries.shape} do not meet {model.kv_heads} heads of keys of "
            f"{model.dims[0]} and values of {model.dims[1]} numbers"
        )
    site = replace(site, query_heads=queries.shape[1])
    if not site.scores:
        return replace(site, scale=site.scale or queries.shape[3] ** -0.5)
    products, scores = _products(queries, keys), seen[site.scores].astype(np.float64)
    if scores.size != products.size:
        raise CannotCut(f"layer {site.number}: its scores have the shape {scores.shape}, expected {products.shape}")
    scores = scores.reshape(products.shape)
    fitted = float((products * scores).sum() / (products * products).sum())
    residual = float(np.abs(scores - fitted * products).max() / (np.abs(scores).max() or 1.0))
    if not residual <= FIT[model.dtype]:
        raise CannotCut(
            f"layer {site.number}: its scores are not its queries times its keys, up to a scale (off by {residual:.2g})"
        )
    return replace(site, scale=site.scale * fitted)


def _products(queries: Floats, keys: Floats) -> F64:
    """q k^T of grouped heads, (batch, query heads, n, tokens) float64."""
    batch, heads, count, dim = queries.shape
    grouped = queries.astype(np.float64).reshape(batch, keys.shape[1], -1, dim)
    products: F64 = grouped @ keys.astype(np.float64).swapaxes(2, 3)
    return products.reshape(batch, heads, count, keys.shape[2])


def _whole(site: Site, model: Model, seen: Mapping[str, NDArray[Any]], past: tuple[Floats, Floats]) -> list[Floats]:
    new = [by_head(seen[name], model.kv_heads, site) for name in (site.key, site.value)]
    return [np.concatenate(pair, axis=2) for pair in zip(past, new, strict=True)]


def attended(site: Site, queries: Floats, keys: Floats, values: Floats) -> F64:
    """Causal attention as the site describes it, (batch, query heads, n, value dim) float64.

    `queries` (batch, query heads, n, key dim) are the last n of the tokens of `keys` and `values` (batch, kv_heads,
    tokens, dim).
    """
    logits = _products(queries, keys) * site.scale
    if site.softcap:
        logits = site.softcap * np.tanh(logits / site.softcap)
    count, tokens = logits.shape[2:]
    distance = np.arange(tokens - count, tokens)[:, None] - np.arange(tokens)
    hidden = (distance < 0) | ((distance >= site.window) if site.window else False)
    logits[..., hidden] = -np.inf
    weights = np.exp(logits - logits.max(axis=3, keepdims=True))
    weights /= weights.sum(axis=3, keepdims=True)
    batch, heads = logits.shape[:2]
    grouped = weights.reshape(batch, values.shape[1], -1, tokens) @ values.astype(np.float64)
    found: F64 = grouped.reshape(batch, heads, count, values.shape[3])
    return found


def _difference(site: Site, model: Model, seen: Mapping[str, NDArray[Any]], past: tuple[Floats, Floats]) -> float:
    """Largest difference from the graph's own attention, as a share of the largest output."""
    queries, keys, values = by_head(seen[site.query], site.query_heads, site), *_whole(site, model, seen, past)
    mine = attended(site, queries, keys, values)
    graph = by_head(seen[site.output], site.query_heads, site).astype(np.float64)
    if graph.shape != mine.shape:
        raise CannotCut(f"layer {site.number}: its attention gives {graph.shape}, expected {mine.shape}")
    return float(np.abs(mine - graph).max() / (np.abs(graph).max() or 1.0))


def _agree(site: Site, model: Model, seen: Mapping[str, NDArray[Any]], past: tuple[Floats, Floats]) -> None:
    difference = _difference(site, model, seen, past)
    if not difference <= CLOSE_AMPLIFIED[model.dtype]:
        raise _differs(site, f"logits up to {LARGEST_LOGIT:.0f}", difference)


def _windowed(
    site: Site, model: Model, seen: Mapping[str, NDArray[Any]], past: tuple[Floats, Floats], probed: str
) -> Site:
    """The site with the window under which it is nearest to the graph: its own, none, or one of the configs'.

    The nearest, not the first that is near enough: of two large windows that differ by one token, both may be.
    """
    known = [
        site.window,
        0,
        *(size for window in (site.window, *model.windows) if window for size in (window, window + 1)),
    ]
    tried = [replace(site, window=window) for window in dict.fromkeys(known)]
    differences = [_difference(candidate, model, seen, past) for candidate in tried]
    least = int(np.nanargmin([*differences, np.inf]))
    if least == len(tried) or not differences[least] <= CLOSE[model.dtype]:
        raise _differs(site, probed, differences[min(least, len(tried) - 1)])
    return tried[least]


def _differs(site: Site, probed: str, difference: float) -> CannotCut:
    return CannotCut(
        f"layer {site.number}: attention on {probed} differs from the graph's by {difference:.2g} of its output; "
        "the graph does more than causal attention there (a sink, a window, a bias)"
    )


def _amplifier(site: Site, model: Model, seen: Mapping[str, NDArray[Any]], past: tuple[Floats, Floats]) -> float:
    """What the keys of the past are multiplied by, so that the largest logit reaches LARGEST_LOGIT."""
    queries = by_head(seen[site.query], site.query_heads, site)
    largest = float(np.abs(_products(queries, past[0]) * site.scale).max(initial=0.0))
    return LARGEST_LOGIT / largest if largest > 0 else 1.0
