"""Golden codes: inputs made of the project's own random bits, and the codecs that encode them."""

import hashlib
import json
from importlib.resources import files
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tq_core import random_bits
from tq_core.build import from_spec
from tq_core.spec import Spec

ROWS: Final = 8
STREAM: Final = 1 << 20  # far from the streams of the format

_MSE: Final = [(dim, bits) for dim in (64, 128) for bits in range(1, 9)]
_MSE_OTHER: Final = [(2, 2), (3, 1), (7, 5), (20, 3), (80, 6), (96, 7), (100, 3), (200, 4), (576, 2), (1536, 4)]
_MIXED: Final = [(64, 2.25), (128, 2.25), (128, 2.5), (128, 3.25), (128, 3.5), (7, 3.25), (66, 2.25), (99, 3.5)]
_PROD: Final = [(64, 2, "gaussian"), (128, 4, "gaussian"), (100, 3, "hadamard"), (96, 8, "hadamard")]

# (dim, bits, states, search): every table once, odd dims and streams that end within a byte
_TRELLIS: Final = [
    *((64, bits, states, 0) for states in (8, 256, 1024, 4096) for bits in (1, 2, 3, 4)),
    *((33, 3, 8, 0), (45, 3, 256, 3), (100, 1, 1024, 0), (128, 4, 1024, 5), (301, 2, 256, 0)),
]


def cases() -> dict[str, Spec]:
    """Every golden codec by name."""
    found: dict[str, Spec] = {}
    for dim, bits in (*_MSE, *_MSE_OTHER):
        inner = {"kind": "mse", "dim": dim, "bits": bits, "seed": dim + bits, "rotation": "hadamard"}
        found[f"mse-{dim}-{bits}"] = _codec(inner)
    for dim, width in _MIXED:
        inner = {"kind": "mse", "dim": dim, "bits": width, "seed": dim, "rotation": "hadamard"}
        found[f"mse-{dim}-{width}"] = _codec(inner, search=9 if dim == 64 else 0)
    for rule in ("plain", "norm", "mse"):
        inner = {"kind": "mse", "dim": 96, "bits": 3, "seed": 11, "rotation": "hadamard"}
        found[f"mse-96-3-{rule}-float32"] = _codec(inner, scale=rule, norm_dtype="float32")
    for dim, search in ((64, 13), (128, 9)):
        inner = {"kind": "mse", "dim": dim, "bits": 4, "seed": 5, "rotation": "hadamard"}
        found[f"mse-{dim}-4-search{search}"] = _codec(inner, search=search)
    for dim, bits, sketch in _PROD:
        inner = {"kind": "prod", "dim": dim, "bits": bits, "seed": 3, "rotation": "hadamard", "sketch": sketch}
        found[f"prod-{dim}-{bits}-{sketch}"] = _codec(inner)
    for bits in (2, 4):
        found[f"polar-64-{bits}"] = _codec({"kind": "polar", "dim": 64, "bits": bits, "seed": 9})
    for dim, bits, states, search in _TRELLIS:
        inner = {"kind": "trellis", "dim": dim, "bits": bits, "seed": 7, "states": states, "rotation": "hadamard"}
        found[f"trellis-{dim}-{bits}-{states}"] = _codec(inner, search=search)
    found["qjl-128"] = {"kind": "qjl", "dim": 128, "projections": 100, "seed": 4, "sketch": "gaussian"}
    return found


def _codec(inner: Spec, **options: Any) -> Spec:
    return {"kind": "codec", "quantizer": inner, "scale": "unbiased", "norm_dtype": "float16", "search": 0, **options}


def vectors(dim: int) -> NDArray[np.float32]:
    """The (8, dim) float32 input: Gaussian rows, then a one-hot, a constant, an outlier and a zero row."""
    key = random_bits.stream_key(dim, STREAM)
    x = random_bits.gaussians(key, ROWS * dim).reshape(ROWS, dim).astype(np.float32)
    x[4] = 0
    x[4, dim // 2] = 3
    x[5] = -0.25
    x[6, 0] = 1000
    x[7] = 0
    return x


def encode(spec: Spec, backend: str = "numpy") -> bytes:
    """The container bytes of a golden case."""
    maker = from_spec(spec, backend=backend)
    dim = spec["quantizer"]["dim"] if spec["kind"] == "codec" else spec["dim"]
    make = maker.encode if spec["kind"] == "codec" else maker.quantize
    return bytes(make(vectors(dim)).to_bytes())


def digests() -> dict[str, str]:
    """The shipped sha256 of every case."""
    text = files("tq_core").joinpath("data/golden.json").read_text("ascii")
    found: dict[str, str] = json.loads(text)
    return found


def mismatches(backend: str) -> list[str]:
    """Names of the cases whose bytes on this machine differ from the shipped digests."""
    shipped = digests()
    return [
        name for name, spec in cases().items() if hashlib.sha256(encode(spec, backend)).hexdigest() != shipped.get(name)
    ]
