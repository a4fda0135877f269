"""The same cache on the host and on a device, told the same.

The device is tq_core's strict one: host memory behind arrays that refuse all that cupy's refuse.
"""

import numpy as np
import pytest

from tq_cache import DecoderCache
from tq_core.strict_device import StrictArray

POLICIES = [
    "k=mse4,v=mse4,sinks=2,window=4",
    "k=mse3,v=mse2.5,kscale=norm,vscale=mse,norms=float32",
    "k=prod4,v=mse8,window=3",
    "k=trellis2s8,v=trellis3s8,sinks=1",
    "k=float16,v=float32,sinks=1,window=2",
    "k=int4,v=int3,sinks=1",
    "k=absmax5,v=int7,window=2",
    "k=mse3x8+mse2,v=mse3x8+mse2,ksplit=3,vsplit=2,kmean=4,sinks=1,window=2",
    "k=mse3x4+mse2,v=int5,kmean=2,ksplit=3,vsplit=2,sinks=1,window=2,head1.k=mse2,head1.v=mse3x5+mse2",
]
LAYERS, BATCH, HEADS, DIM = 2, 2, 2, 32


def dtype_of(name):
    """A dtype by name; bfloat16 comes from ml_dtypes, or the test is skipped."""
    if name == "bfloat16":
        reason = "bfloat16 arrays come from ml_dtypes, which is not installed"
        return pytest.importorskip("ml_dtypes", reason=reason).bfloat16
    return np.dtype(name)


class Pair:
    """Both, and what is asked of both."""

    def __init__(self, gpu, policy, *, dtype=np.float32, **options):
        self.gpu, self.dtype = gpu, dtype
        self.here = DecoderCache(LAYERS, HEADS, DIM, policy, batch=BATCH, backend="numpy", **options)
        self.there = DecoderCache(LAYERS, HEADS, DIM, policy, batch=BATCH, backend="gpu", **options)
        self.random = np.random.default_rng(7)

    def vectors(self, tokens, heads=HEADS):
        made = self.random.standard_normal((self.here.batch, heads, tokens, DIM))
        return (made * np.exp(self.random.uniform(-1, 1, (self.here.batch, heads, 1, 1)))).astype(self.dtype)

    def append(self, tokens):
        put = self.gpu.device.asarray
        if tokens > 8:  # all layers in one call
            new = [(self.vectors(tokens), self.vectors(tokens)) for _ in range(LAYERS)]
            moved = [tuple(map(put, both)) for both in new]
            assert self.here.append_layers(new) == self.there.append_layers(moved)
            return
        for layer in range(LAYERS):
            keys, values = self.vectors(tokens), self.vectors(tokens)
            assert self.here.append(keys, values, layer) == self.there.append(put(keys), put(values), layer)

    def both(self, change):
        """The same change of both."""
        change(self.here)
        change(self.there)

    def check(self):
        """Everything that can be read of both is equal."""
        assert self.there.lengths == self.here.lengths
        assert str(self.there.ledger()) == str(self.here.ledger())
        queries = self.random.standard_normal((self.here.batch, 2 * HEADS, 3, DIM)).astype(np.float32)
        asked, downloads = self.gpu.device.asarray(queries), self.gpu.device.downloads
        causal = min(self.here.lengths) >= 3
        fresh = self.vectors(2), self.vectors(2)
        moved = tuple(map(self.gpu.device.asarray, fresh))
        for layer in range(LAYERS):
            found = [
                (self.here.scores(queries, layer), self.there.scores(asked, layer)),
                (self.here.attend(queries, layer, causal=causal), self.there.attend(asked, layer, causal=causal)),
                (
                    self.here.attend(queries, layer, softcap=5.0, fresh=fresh),
                    self.there.attend(asked, layer, softcap=5.0, fresh=moved),
                ),
            ]
            if len(set(self.here.lengths)) == 1:
                found += [(self.here.keys(layer), self.there.keys(layer))]
                found += [(self.here.values(layer, 1), self.there.values(layer, 1))]
            assert self.gpu.device.downloads == downloads
            for expected, got in found:
                assert type(got) is StrictArray
                np.testing.assert_array_equal(self.gpu.device.to_host(got), expected)
                downloads += 1

    def snapshots(self, folder):
        """Both as bytes, which must be equal."""
        self.here.save(folder / "here", overwrite=True)
        self.there.save(folder / "there", overwrite=True)
        assert (folder / "there").read_bytes() == (folder / "here").read_bytes()
        return folder / "here"
