"""Tables are on the device before anyone gets them: a second stream does not wait for what the first one uploads."""

import gc

from tq_kernels_gpu.resident import Resident
from tq_kernels_gpu.tables import kept


def _device(shim):
    device, log = shim.ShimDevice(), []
    device.wait = lambda: log.append("waited")
    return device, log


def test_the_upload_is_waited_for_before_it_is_kept(shim):
    device, log = _device(shim)
    owner = frozenset("owner")
    assert kept(device).get(owner, "key", lambda: log.append("uploaded") or "table") == "table"
    assert log == ["uploaded", "waited"]
    assert kept(device).get(owner, "key", lambda: log.append("uploaded again")) == "table"
    assert kept(Resident(device)).get(owner, "key", lambda: log.append("uploaded again")) == "table"
    assert log == ["uploaded", "waited"]


def test_what_is_kept_for_a_device_does_not_keep_the_device(shim):
    device, _ = _device(shim)
    held = kept(device)
    assert held.get(frozenset("owner"), "key", lambda: "table") == "table"
    del device
    gc.collect()
    assert held._device() is None
