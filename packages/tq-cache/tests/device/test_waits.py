"""How often the host waits for a device: once a call that checks numbers, and never for others."""

import pytest
from device_pair import HEADS, LAYERS, POLICIES, Pair, dtype_of

from tq_core.strict_device import waits


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("policy", [*POLICIES, "k=mse4,v=mse4,kmean=4,sinks=2,window=6,norms=float32"])
def test_a_call_waits_for_the_device_once(gpu, policy, dtype):
    pair = Pair(gpu, policy, dtype=dtype_of(dtype))
    put = gpu.device.asarray
    keys, values, asked = (put(pair.vectors(tokens, heads)) for tokens, heads in ((5, HEADS), (5, HEADS), (3, 4)))
    cache = pair.there
    calls = {
        "append": lambda: cache.append(keys, values, 0),
        "append_layers": lambda: cache.append_layers([(keys, values)] * LAYERS),
        "update": lambda: cache.fork().update(keys, values, 0),
        "scores": lambda: cache.scores(asked, 0),
        "attend": lambda: cache.attend(asked, 0, causal=True, fresh=(keys, values)),
        "tiles": lambda: cache.attend(asked, 0, softcap=3.0, workspace_bytes=1),
    }
    for _ in range(3):
        for name, call in calls.items():
            before = waits()
            call()
            assert waits() - before == 1, name
    before = waits()
    cache.keys(1)
    cache.crop(4)
    cache.repeat(2)
    cache.clear()
    assert waits() == before
