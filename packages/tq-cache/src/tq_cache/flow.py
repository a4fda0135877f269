"""What one append moves through a layer, worked out before any token is touched."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tq_cache.basis import Basis

Floats = NDArray[np.floating]


class Flow(NamedTuple):
    """What one append moves, in tokens; the same for keys and values."""

    sinks: int  # new tokens that become sinks
    settle_old: int  # tokens that leave the window for good
    settle_new: int  # new tokens that are quantized at once
    skip: int  # of those settling, the first ones that are evicted before they need a code
    drop_sinks: int  # evicted
    drop_coded: int  # evicted


class Pending(NamedTuple):
    """An append whose tokens are encoded; `encoded` arrays are (lanes, n, ...)."""

    flow: Flow
    sinks: Floats
    recent: Floats
    encoded: Mapping[str, NDArray[Any]]
    basis: Basis | None


class Settled(NamedTuple):
    """Tokens that an append quantizes, (lanes, n, dim) as they are encoded, and the basis that they are in."""

    tokens: Floats
    basis: Basis | None  # None: not known yet, and no tokens


def pending(tokens: Floats, flow: Flow, encoded: Mapping[str, NDArray[Any]], basis: Basis | None) -> Pending:
    """An append of (lanes, n, dim) tokens whose settled ones are encoded."""
    return Pending(flow, tokens[:, : flow.sinks], tokens[:, flow.sinks + flow.settle_new :], encoded, basis)
