"""Turns a site's tensors into (batch, heads, n, dim) and back, whichever way the graph lays them out."""

import numpy as np
from numpy.typing import NDArray

from tq_onnx.surgery.site import CannotCut, Site

Floats = NDArray[np.floating]


def by_head(tensor: Floats, heads: int, site: Site) -> Floats:
    """(batch, heads, n, dim) of a tensor of the site; CannotCut for any other form than the two known."""
    if tensor.ndim == 4 and not site.by_token:
        if tensor.shape[1] != heads and heads:
            raise CannotCut(f"layer {site.number}: a tensor of shape {tensor.shape} where {heads} heads were expected")
        return tensor
    if tensor.ndim == 3 and site.by_token and heads and tensor.shape[2] % heads == 0:
        batch, count, width = tensor.shape
        return tensor.reshape(batch, count, heads, width // heads).swapaxes(1, 2)
    raise CannotCut(f"layer {site.number}: a tensor of shape {tensor.shape} is not (batch, heads, tokens, dim)")


def as_output(attended: NDArray[np.float32], site: Site, dtype: str) -> Floats:
    """What attention gave, (batch, heads, n, dim), as the graph expects it."""
    if site.by_token:
        batch, heads, count, dim = attended.shape
        attended = attended.swapaxes(1, 2).reshape(batch, count, heads * dim)
    return np.ascontiguousarray(attended, dtype)
