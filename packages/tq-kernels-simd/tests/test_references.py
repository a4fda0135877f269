"""A call gives back every reference and buffer that it took, whether it succeeds or not, and leaks no memory."""

import contextlib
import gc
import os
import struct
import sys
from pathlib import Path

import calls
import numpy as np
import pytest

from tq_core import TurboQuantError
from tq_kernels_simd import _simd
from tq_kernels_simd.plan import plan_bytes

METHODS = calls.METHODS
REPEATS = 20
BAD = (
    None,
    float("1.5"),
    "".join("text"),
    [],
    np.zeros(3),
    np.zeros((2, 2), np.float32),
    np.zeros((2, 2), np.uint8),
    np.zeros((), "e"),
)


class Index:
    """An integer whose references can be counted: small ints are shared by the whole interpreter."""

    def __init__(self, value):
        self.value = value

    def __index__(self):
        return self.value


def is_fine(method, name, bad):
    """Whether the value, bad for most arguments, is a good one here."""
    if bad is None:
        return (method, name) in calls.OPTIONAL
    return (method, name) in calls.FLOATS and np.ndim(bad) == 0 and not isinstance(bad, str)


def good_arguments(method):
    """The arguments of a good call, the integers wrapped."""
    call = calls.good_call(method)
    return [Index(value) if isinstance(value, int) else value for value in call.values()]


@pytest.fixture(autouse=True)
def no_collection():
    """The collector would free others' references to shared objects while they are counted."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def counts(values):
    """Reference counts, but for None, which others take and leave meanwhile; `nones` watches that."""
    return [sys.getrefcount(value) for value in values if value is not None]


@pytest.mark.parametrize("method", METHODS)
def test_a_good_call_keeps_no_reference(method):
    arguments = good_arguments(method)
    before = counts(arguments)
    for _ in range(REPEATS):
        getattr(_simd, method)(*arguments)
    assert counts(arguments) == before


@pytest.mark.parametrize("method", METHODS)
def test_a_refused_call_keeps_no_reference(method):
    """Each argument in turn is each bad value, so that every error path after every acquired buffer is taken."""
    good, names = good_arguments(method), list(calls.good_call(method))
    held = [*good, *BAD]
    before, nones = counts(held), sys.getrefcount(None)
    refused = tried = 0
    for place, name in enumerate(names):
        for bad in BAD:
            if is_fine(method, name, bad):
                continue
            tried += REPEATS
            for _ in range(REPEATS):
                try:
                    getattr(_simd, method)(*good[:place], bad, *good[place + 1 :])
                except TurboQuantError:
                    refused += 1
    assert refused == tried > 0
    del bad
    assert counts(held) == before
    assert abs(sys.getrefcount(None) - nones) < REPEATS * len(good) / 2


@pytest.mark.parametrize("method", METHODS)
def test_a_wrong_count_keeps_no_reference(method):
    arguments = good_arguments(method)
    before = counts(arguments)
    for _ in range(REPEATS):
        with pytest.raises(TypeError, match="takes"):
            getattr(_simd, method)(*arguments, arguments[0])
    assert counts(arguments) == before


def test_a_plan_keeps_no_reference_to_its_buffer():
    buffer = bytearray(plan_bytes(calls.scalar_plan()))
    before = sys.getrefcount(buffer)
    plan = _simd.plan(buffer)
    assert sys.getrefcount(buffer) == before
    buffer.append(0)  # a BufferError if the buffer were still exported
    fresh = object()
    assert sys.getrefcount(plan) == sys.getrefcount(fresh)
    with pytest.raises(TurboQuantError):
        _simd.plan(buffer)
    buffer.append(0)


SPOILED = [(method, name) for method in METHODS for name in (None, *calls.good_call(method)) if calls.ARRAYS[method]]


@pytest.mark.parametrize(("method", "spoiled"), SPOILED)
def test_no_export_is_left_behind(method, spoiled):
    call = calls.good_call(method)
    memories = {}
    for name in calls.ARRAYS[method]:
        memories[name] = bytearray(call[name].tobytes())
        with memoryview(memories[name]) as view:
            call[name] = view.cast(
                {np.bool_: "?", np.int64: "q"}.get(call[name].dtype.type, call[name].dtype.char), call[name].shape
            )
    views = dict(call)
    if spoiled is not None:
        with pytest.raises(TurboQuantError):
            getattr(_simd, method)(*{**call, spoiled: object()}.values())
    else:
        getattr(_simd, method)(*call.values())
    for name, memory in memories.items():
        views[name].release()
        memory.append(0)  # a BufferError if the buffer were still exported


def test_an_aligned_copy_is_given_back_with_its_buffer():
    call = calls.good_call("decode")
    memory = bytearray(1 + call["scales"].nbytes)
    view = np.frombuffer(memory, np.float32, offset=1)
    for out in (call["out"], None):
        try:
            _simd.decode(*{**call, "scales": view, "out": out}.values())
        except TurboQuantError:
            assert out is None
    del view
    memory.append(0)


def resident_bytes():
    path = Path("/proc/self/statm")
    if not path.exists():
        pytest.skip("no /proc/self/statm on this system")
    return int(path.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_nothing_is_leaked():
    """3000 plans of 36 kB, good and refused ones, and copies of 64 kB rows: over 100 MB if one kind were kept."""
    if "libasan" in os.environ.get("LD_PRELOAD", ""):
        pytest.skip("AddressSanitizer keeps freed memory in quarantine")
    good = plan_bytes(calls.scalar_plan(1024, 4))
    bad = bytearray(good)
    (candidates,) = struct.unpack_from("=q", good, 8 * 17)  # the offset of the last array that is checked
    bad[candidates : candidates + 4] = bytes(4)
    call = calls.good_call("rotate")
    call["x"] = np.frombuffer(bytearray(1 + 4 * 64 * 256), np.float32, offset=1).reshape(256, 64)
    call["out"] = np.zeros((256, 64), np.float32)

    def work():
        _simd.plan(good)
        with pytest.raises(TurboQuantError, match="candidates"):
            _simd.plan(bad)
        _simd.rotate(*call.values())
        with pytest.raises(TurboQuantError, match="out"):
            _simd.rotate(*{**call, "out": None}.values())

    for _ in range(200):
        work()
    before = resident_bytes()
    for _ in range(3000):
        work()
    assert resident_bytes() - before < 20e6


@pytest.mark.parametrize("method", METHODS)
def test_no_call_keeps_its_scratch(method):
    """4000 calls, of which every second one is refused at its last argument: over 8 MB if 4 kB of one were kept."""
    if "libasan" in os.environ.get("LD_PRELOAD", ""):
        pytest.skip("AddressSanitizer keeps freed memory in quarantine")
    good = list(calls.good_call(method).values())
    bad = [*good[:-1], object()]

    def work(times):
        for _ in range(times):
            getattr(_simd, method)(*good)
            with contextlib.suppress(TurboQuantError):
                getattr(_simd, method)(*bad)

    work(200)
    before = resident_bytes()
    work(2000)
    assert resident_bytes() - before < 4e6
