"""Rows that caches are tested on, and snapshots that strangers make."""

import copy
import hashlib
import json

import numpy as np
import pytest

from tq_cache import DecoderCache, MultiHeadKVCache, QuantizedKVCache

LEARNING = "k=mse3x4+mse2,v=int5,kmean=2,ksplit=3,vsplit=2,sinks=1,window=2,head1.k=mse2,head1.v=mse3x5+mse2"


@pytest.fixture
def vectors():
    """A maker of float arrays: `vectors(shape, seed, dtype)`, norms spread over a decade."""

    def make(*shape, seed=0, dtype=np.float32):
        generator = np.random.default_rng(seed)
        x = generator.standard_normal(shape)
        return (x * np.exp(generator.uniform(-1, 1, (*shape[:-1], 1)))).astype(dtype)

    return make


@pytest.fixture(scope="session")
def filled():
    """A maker of caches of 7 tokens: `filled("head" | "layer" | "decoder", policy)`; "heads" differ and learn."""

    def make(kind, policy="k=mse3,v=int5,sinks=1,window=2"):
        if kind == "heads":
            kind, policy = "layer", LEARNING
        cache, lead = {
            "head": lambda: (QuantizedKVCache(12, policy), ()),
            "layer": lambda: (MultiHeadKVCache(2, 12, policy), (2,)),
            "decoder": lambda: (DecoderCache(1, 2, 12, policy, batch=2), (2, 2)),
        }[kind]()
        x = np.random.default_rng(0).standard_normal((*lead, 7, 12)).astype(np.float32)
        cache.append(x, -x, *([0] if kind == "decoder" else []))
        return cache

    return make


@pytest.fixture(scope="session")
def originals(tmp_path_factory, filled):
    """One good snapshot of each kind, as bytes."""
    folder = tmp_path_factory.mktemp("originals")
    found = {}
    for kind in ("head", "layer", "decoder", "heads"):
        filled(kind).save(folder / kind, tokens=range(7), model="m")
        found[kind] = (folder / kind).read_bytes()
    return found


@pytest.fixture(scope="session")
def apart():
    """Header and body of a snapshot's bytes."""

    def take(data):
        end = 8 + int.from_bytes(data[:8], "little")
        return json.loads(data[8:end]), data[end:]

    return take


@pytest.fixture(scope="session")
def sealed():
    """A maker of files whose checksums are right, as a stranger can make them: `sealed(header, body)`."""

    def seal(header, body, *, digests=True):
        header = copy.deepcopy(header)
        facts = header["__metadata__"]
        for name, entry in header.items() if digests else ():
            offsets = entry.get("data_offsets") if name != "__metadata__" and isinstance(entry, dict) else None
            if isinstance(offsets, list) and len(offsets) == 2 and all(type(at) is int for at in offsets):
                facts["sha256." + name] = hashlib.sha256(body[slice(*offsets)]).hexdigest()
        facts["header_sha256"] = "0" * 64
        facts["header_sha256"] = hashlib.sha256(_spelled(header)).hexdigest()
        return _spelled(header) + body

    return seal


def _spelled(header):
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
