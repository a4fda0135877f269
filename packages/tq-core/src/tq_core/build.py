"""Rebuilding quantizers and codecs from specs, and the `normalize` helper."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tq_core import checks
from tq_core.codec import VectorCodec
from tq_core.errors import ScaleRange, ShapeMismatch, ZeroVector
from tq_core.mse import TurboQuantMSE
from tq_core.norms import row_norms, unit_rows
from tq_core.polar import PolarQuant
from tq_core.prod import TurboQuantProd
from tq_core.qjl import QJL
from tq_core.spec import validated
from tq_core.trellis import TrellisQuant

Quantizer = TurboQuantMSE | TurboQuantProd | QJL | PolarQuant | TrellisQuant | VectorCodec

_CLASSES: Mapping[str, Any] = {cls.KIND: cls for cls in (TurboQuantMSE, TurboQuantProd, TrellisQuant)} | {
    "qjl": QJL,
    "polar": PolarQuant,
}


def from_spec(spec: Mapping[str, Any], *, backend: str = "auto") -> Any:
    """The quantizer or codec that a spec dict describes; InvalidSpec and its kin for anything else."""
    clean = validated(spec)
    if clean["kind"] == "codec":
        inner = from_spec(clean["quantizer"], backend=backend)
        return VectorCodec(inner, scale=clean["scale"], norm_dtype=clean["norm_dtype"], search=clean["search"])
    arguments = {key: value for key, value in clean.items() if key != "kind"}
    return _CLASSES[clean["kind"]](**arguments, backend=backend)


def normalize(x: ArrayLike) -> tuple[NDArray[np.float32], Any]:
    """`(unit, norms)`: rows of unit norm, float32 shaped as x, and their norms, float64 shaped (rows,) or ().

    x is (dim,) or (rows, dim) float16/32/64. Raises ZeroVector for a row without direction, and
    InvalidDtype, ShapeMismatch or NotFinite as everywhere, ScaleRange for a norm beyond float64.
    """
    array = checks.as_array(x, "x")
    if array.ndim not in (1, 2):
        raise ShapeMismatch(f"x must have shape (dim,) or (rows, dim), got {array.shape}")
    rows, single = checks.float_rows(array, checks.dimension(array.shape[-1]))
    # a power of two keeps float64 squares of huge or tiny rows in range, and is exact
    peaks = np.abs(rows).max(axis=1, initial=0).astype(np.float64)
    if (peaks == 0).any():
        raise ZeroVector(f"row {int(np.argmax(peaks == 0))} is zero and has no direction")
    far = (peaks > 2.0**400) | (peaks < 2.0**-400)
    if far.any():
        exponent = np.where(far, np.frexp(peaks)[1], 0)
        rows = np.ldexp(rows.astype(np.float64), -exponent[:, None])
        norms = row_norms(rows)
        units = unit_rows(rows, norms)
        with np.errstate(over="ignore"):
            norms = np.ldexp(norms, exponent)
        if not np.isfinite(norms).all():
            raise ScaleRange(f"row {int(np.argmax(~np.isfinite(norms)))} has a norm beyond float64; scale it down")
    else:
        norms = row_norms(rows)
        units = unit_rows(rows, norms)
    return (units[0], norms[0]) if single else (units, norms)
