"""Inputs and tools shared by these tests; nothing is imported by relative path, so that they run anywhere."""

import hashlib
import importlib.util
import json
import struct
import sys
from pathlib import Path

import numpy as np
import pytest

import tq_core


@pytest.fixture(scope="session")
def slow():
    """The independent encoder of slow_format.py, one number at a time."""
    return loaded("slow_format")


@pytest.fixture(scope="session")
def slow_trellis():
    """The independent trellis encoder of slow_trellis.py."""
    return loaded("slow_trellis")


def loaded(name):
    path = Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(f"tq_core_{name}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def gaussian_rows():
    """gaussian_rows(rows, dim, seed=...) -> (rows, dim) float32."""

    def make(rows, dim, seed=1):
        return np.random.default_rng(seed).standard_normal((rows, dim)).astype(np.float32)

    return make


@pytest.fixture(scope="session")
def unit_rows(gaussian_rows):
    """unit_rows(rows, dim, seed=...) -> (rows, dim) float32 of unit norm."""

    def make(rows, dim, seed=1):
        x = gaussian_rows(rows, dim, seed).astype(np.float64)
        return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)

    return make


@pytest.fixture(scope="session")
def awkward_rows(gaussian_rows):
    """awkward_rows(dim) -> (14, dim) float32: ordinary, one-hot, sparse, constant, outlier, tiny, huge, zero rows."""

    def make(dim, seed=2):
        x = gaussian_rows(14, dim, seed)
        x[3:10] = 0
        x[3, 0] = 1
        x[4, dim - 1] = -2
        x[5, [0, dim - 1]] = 1
        x[6] = 1
        x[7] = -0.5
        x[8, ::2] = 3
        x[10, 0] = 1e4
        x[11] *= np.float32(1e-15)
        x[12] *= np.float32(1e15)
        x[13] = x[0]
        return x

    return make


@pytest.fixture(scope="session")
def reseal():
    """reseal(header, payload, version=1) -> container bytes with a valid checksum; header a dict or raw bytes."""

    def make(header, payload, version=1):
        text = header
        if not isinstance(header, bytes):
            text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode("ascii")
        fixed = b"TQv\0" + struct.pack("<IIQ", version, len(text), len(payload))
        return fixed + hashlib.sha256(fixed + text + payload).digest() + text + payload

    return make


@pytest.fixture(scope="session")
def taken_apart():
    """taken_apart(data) -> (header dict, payload) of container bytes."""

    def take(data):
        size = int.from_bytes(data[8:12], "little")
        return json.loads(data[52 : 52 + size]), data[52 + size :]

    return take


MAKERS = {
    "mse": lambda: tq_core.TurboQuantMSE(64, 3, seed=5),
    "mse-dense": lambda: tq_core.TurboQuantMSE(24, 4, seed=5, rotation="dense"),
    "mse-blocks": lambda: tq_core.TurboQuantMSE(33, 5, seed=5),
    "mse-mixed": lambda: tq_core.TurboQuantMSE(66, 2.25, seed=5),
    "prod": lambda: tq_core.TurboQuantProd(64, 3, seed=5),
    "prod-hadamard": lambda: tq_core.TurboQuantProd(100, 2, seed=5, sketch="hadamard"),
    "polar": lambda: tq_core.PolarQuant(64, 4, seed=5),
    "trellis": lambda: tq_core.TrellisQuant(50, 3, seed=5, states=8),
    "qjl": lambda: tq_core.QJL(64, projections=90, seed=5),
}
CODEC_MAKERS = {
    "codec-mse": lambda: tq_core.VectorCodec(tq_core.TurboQuantMSE(64, 4, seed=5)),
    "codec-blocks": lambda: tq_core.VectorCodec(tq_core.TurboQuantMSE(100, 3, seed=5), scale="mse", search=5),
    "codec-mixed": lambda: tq_core.VectorCodec(tq_core.TurboQuantMSE(64, 3.5, seed=5), search=5),
    "codec-prod": lambda: tq_core.VectorCodec(tq_core.TurboQuantProd(64, 3, seed=5), norm_dtype="float32"),
    "codec-trellis": lambda: tq_core.VectorCodec(tq_core.TrellisQuant(64, 2, seed=5, states=256), search=3),
    "codec-polar": lambda: tq_core.VectorCodec(tq_core.PolarQuant(32, 4, seed=5), scale="norm"),
}


@pytest.fixture(scope="session", params=MAKERS)
def quantizer(request):
    """Every kind of quantizer in turn."""
    return MAKERS[request.param]()


@pytest.fixture(
    scope="session",
    params=["mse", "mse-dense", "mse-blocks", "mse-mixed", "prod", "prod-hadamard", "polar", "trellis"],
)
def strict_quantizer(request):
    """Every kind of quantizer that asks for unit vectors."""
    return MAKERS[request.param]()


@pytest.fixture(scope="session", params=CODEC_MAKERS)
def codec(request):
    """Codecs around every kind of quantizer."""
    return CODEC_MAKERS[request.param]()


@pytest.fixture(scope="session", params=[*MAKERS, *CODEC_MAKERS])
def encoder(request):
    """(encode, decode, scores, maker) of every quantizer and codec: the one vocabulary under one name."""
    maker = {**MAKERS, **CODEC_MAKERS}[request.param]()
    if isinstance(maker, tq_core.VectorCodec):
        return Encoder(maker, maker.encode, maker.decode)
    return Encoder(maker, maker.quantize, maker.dequantize)


class Encoder:
    """A quantizer or codec with its two verbs under one name."""

    def __init__(self, maker, encode, decode):
        self.maker, self.encode, self.decode = maker, encode, decode
        self.dim, self.spec, self.scores = maker.dim, maker.spec, maker.scores
