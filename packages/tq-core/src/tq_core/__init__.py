"""TurboQuant vector quantizers (arXiv 2504.19874): exact, packed, scored without unpacking to floats."""

from tq_core._prim import bits as _bits
from tq_core.build import from_spec, normalize
from tq_core.codec import VectorCodec
from tq_core.codes import Codes, Encoded
from tq_core.container import FORMAT_VERSION
from tq_core.errors import (
    BackendUnavailable,
    CorruptData,
    FormatVersion,
    InvalidBitWidth,
    InvalidDimension,
    InvalidDtype,
    InvalidSpec,
    NotFinite,
    NotUnitNorm,
    OutOfDeviceMemory,
    RowOutOfRange,
    ScaleRange,
    ShapeMismatch,
    SpecMismatch,
    TurboQuantError,
    WrongDevice,
    ZeroVector,
)
from tq_core.mse import TurboQuantMSE
from tq_core.polar import PolarQuant
from tq_core.prod import TurboQuantProd
from tq_core.qjl import QJL
from tq_core.registry import backends
from tq_core.report import report
from tq_core.trellis import TrellisQuant

COMPILED: bool = not (getattr(_bits, "__file__", "") or "").endswith(".py")
"""Whether the scalar primitives run compiled (a wheel) or interpreted (an editable install)."""

__all__ = [
    "COMPILED",
    "FORMAT_VERSION",
    "QJL",
    "BackendUnavailable",
    "Codes",
    "CorruptData",
    "Encoded",
    "FormatVersion",
    "InvalidBitWidth",
    "InvalidDimension",
    "InvalidDtype",
    "InvalidSpec",
    "NotFinite",
    "NotUnitNorm",
    "OutOfDeviceMemory",
    "PolarQuant",
    "RowOutOfRange",
    "ScaleRange",
    "ShapeMismatch",
    "SpecMismatch",
    "TrellisQuant",
    "TurboQuantError",
    "TurboQuantMSE",
    "TurboQuantProd",
    "VectorCodec",
    "WrongDevice",
    "ZeroVector",
    "backends",
    "from_spec",
    "normalize",
    "report",
]
