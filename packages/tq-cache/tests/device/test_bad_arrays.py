"""Arrays that lie elsewhere, or hold what a cache does not take: errors are those of the host, and nothing changes."""

import numpy as np
import pytest
from device_pair import BATCH, DIM, HEADS, LAYERS, POLICIES, Pair

from tq_cache import DecoderCache
from tq_core import InvalidDtype, NotFinite, ScaleRange, ShapeMismatch, WrongDevice

BAD = [
    (lambda pair, x, put: pair.there.append(x, x, 0), WrongDevice, "keys lies on the host"),
    (lambda pair, x, put: pair.there.append(put(x), x, 0), WrongDevice, "values lies on the host"),
    (lambda pair, x, put: pair.here.append(put(x), put(x), 0), WrongDevice, "keys lies on a device and is read on"),
    (lambda pair, x, put: pair.there.attend(x, 0), WrongDevice, "queries lies on the host"),
    (lambda pair, x, put: pair.here.attend(put(x), 0), WrongDevice, "queries lies on a device"),
    (lambda pair, x, put: pair.there.attend(put(x), 0, fresh=(x, x)), WrongDevice, "keys lies on the host"),
    (lambda pair, x, put: pair.there.append(put(x.astype(int)), put(x), 0), InvalidDtype, "got int64"),
    (lambda pair, x, put: pair.there.append(put(x[..., 1:]), put(x), 0), ShapeMismatch, "keys must have shape"),
    (lambda pair, x, put: pair.there.append(put(x * np.nan), put(x), 0), NotFinite, r"keys\[0, 0, 0, 0\] is nan"),
    (lambda pair, x, put: pair.there.append(put(x), put(x * 1e30), 0), ScaleRange, "overflows float16"),
    (lambda pair, x, put: pair.there.append(put(x), put(x.astype(float) * 1e300), 0), ScaleRange, "overflows float16"),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD)
def test_bad_input_is_a_typed_error_and_changes_nothing(gpu, call, error, message, tmp_path):
    pair = Pair(gpu, "k=mse4,v=mse4,sinks=8,window=0")
    pair.append(9)
    before = pair.snapshots(tmp_path).read_bytes()
    with pytest.raises(error, match=message):
        call(pair, pair.vectors(2), gpu.device.asarray)
    assert pair.snapshots(tmp_path).read_bytes() == before
    pair.check()


def test_auto_is_the_host_unless_the_environment_says_otherwise(gpu, monkeypatch):
    x = np.ones((BATCH, HEADS, 1, DIM), np.float32)
    monkeypatch.delenv("TQ_BACKEND", raising=False)
    DecoderCache(LAYERS, HEADS, DIM, "balanced", batch=BATCH).append(x, x, 0)
    monkeypatch.setenv("TQ_BACKEND", "gpu")
    cache = DecoderCache(LAYERS, HEADS, DIM, "balanced", batch=BATCH)
    cache.append(gpu.device.asarray(x), gpu.device.asarray(x), 0)
    with pytest.raises(WrongDevice, match="keys lies on the host"):
        cache.append(x, x, 0)


def test_what_only_seems_too_large_for_a_window_is_looked_at_again(gpu):
    pair = Pair(gpu, "k=mse4,v=mse4,window=4")
    keys, values = pair.vectors(3), pair.vectors(3) * np.float32(3000)  # norms that float16 holds, though near its end
    pair.here.append(keys, values, 0)
    pair.there.append(gpu.device.asarray(keys), gpu.device.asarray(values), 0)
    assert pair.there.get_seq_length(0) == 3
    values[1, 1, 2] *= 100
    with pytest.raises(ScaleRange) as expected:
        pair.here.append(keys, values, 0)
    with pytest.raises(ScaleRange) as found:
        pair.there.append(gpu.device.asarray(keys), gpu.device.asarray(values), 0)
    assert str(found.value) == str(expected.value)


ODD = [  # by what a number of the keys, and one of the values, is multiplied
    (np.nan, 1.0),
    (1.0, np.inf),
    (np.nan, np.nan),
    (1e30, 1.0),
    (1.0, -1e30),
    (1e30, np.nan),
]


@pytest.mark.parametrize("policy", [*POLICIES, "k=mse4,v=mse4,kmean=2,sinks=3,window=8"])
@pytest.mark.parametrize(("first", "second"), ODD)
def test_bad_numbers_are_told_as_on_the_host(gpu, policy, first, second, tmp_path):
    pair = Pair(gpu, policy)
    pair.append(5)
    before = pair.snapshots(tmp_path).read_bytes()
    keys, values, asked = pair.vectors(3), pair.vectors(3), pair.vectors(2)
    keys[1, 1, 2, 7] *= first
    values[0, 1, 2, 5] *= second
    asked[1, 0, 1, 3] *= first
    put = gpu.device.asarray
    for here, there in (
        (lambda: pair.here.append(keys, values, 1), lambda: pair.there.append(put(keys), put(values), 1)),
        (lambda: pair.here.update(keys, values, 0), lambda: pair.there.update(put(keys), put(values), 0)),
        (lambda: pair.here.attend(asked, 0), lambda: pair.there.attend(put(asked), 0)),
        (lambda: pair.here.scores(asked, 0), lambda: pair.there.scores(put(asked), 0)),
        (
            lambda: pair.here.attend(np.abs(asked) < 9, 0),
            lambda: pair.there.attend(put(np.abs(asked) < 9), 0),
        ),
    ):
        told = []
        kept = pair.here.fork(), pair.there.fork()
        for call in (here, there):
            try:
                call()
                told.append("nothing")
            except (NotFinite, ScaleRange, InvalidDtype) as error:
                told.append(f"{type(error).__name__}: {error}")
        assert told[0] == told[1]
        if told[0] != "nothing":
            assert pair.snapshots(tmp_path).read_bytes() == before
        pair.here, pair.there = kept
