"""Plans are shared by threads, batches are split among them, and the interpreter runs on meanwhile."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import calls
import numpy as np
import pytest
from children import in_child

from tq_core.rotation import Rotation
from tq_kernels_simd import _simd
from tq_kernels_simd.plan import pack_plan, pack_rotation

ROWS = 5000


@pytest.fixture(scope="module")
def batch():
    return np.random.default_rng(5).standard_normal((ROWS, 64)).astype(np.float32)


@pytest.fixture(scope="module")
def stored(batch):
    """A plan with a sketch and the batch encoded by it."""
    plan = calls.scalar_plan(sketch="gaussian")
    return pack_plan(plan), *encoded(plan, batch, 1)


def encoded(plan, x, threads, sketch=True):
    rows, size = len(x), plan.row_bytes
    packed, scales, gammas = np.zeros((rows, size), np.uint8), np.zeros(rows, np.float32), np.zeros(rows, np.float32)
    _simd.encode(pack_plan(plan), x, packed, scales, gammas if sketch else None, threads)
    return packed, scales, gammas


@pytest.mark.parametrize("threads", [2, 3, 7, 256])
@pytest.mark.parametrize("rows", [0, 1, 513, 1023, ROWS])
def test_encoding_does_not_depend_on_the_threads(threads, rows, batch):
    plan = calls.scalar_plan(sketch="gaussian")
    for one, many in zip(encoded(plan, batch[:rows], 1), encoded(plan, batch[:rows], threads), strict=True):
        assert one.tobytes() == many.tobytes()


@pytest.mark.parametrize("threads", [2, 3, 7, 256])
def test_rotation_decoding_and_attention_do_not_depend_on_the_threads(threads, batch):
    plan = calls.scalar_plan()
    capsule, turn = pack_plan(plan), pack_rotation(Rotation(64, "hadamard", 7))
    packed, scales, _ = encoded(plan, batch, 1, sketch=False)
    results = []
    for count in (1, threads):
        turned, decoded = np.zeros_like(batch), np.zeros_like(batch)
        parts = [np.zeros(shape, np.float32) for shape in ((1, 2, 40, 64), (1, 2, 40), (1, 2, 40))]
        _simd.rotate(turn, batch, turned, 0, count)
        _simd.decode(capsule, packed, scales, decoded, count)
        queries = turned[:80].reshape(1, 2, 40, 64).copy()
        tokens = packed[None, :300], scales[None, :300]  # 80 query rows are more items than threads share segments for
        _simd.attend(capsule, capsule, *tokens, *tokens, queries, *parts, None, None, 0.1, 0.0, 2, min(count, 3))
        results.append((turned.tobytes(), decoded.tobytes(), *(part.tobytes() for part in parts)))
    assert results[0] == results[1]
    assert any(results[0][2])


@pytest.mark.parametrize("accuracy", [0, 1, 2])
@pytest.mark.parametrize("threads", [2, 3, 7, 256])
def test_scores_and_searches_do_not_depend_on_the_threads(threads, accuracy, batch, stored):
    mask, results = np.arange(ROWS) % 7 != 3, []
    for count in (1, threads):
        scores = np.zeros((5, ROWS), np.float32)
        found = np.zeros((5, 9), np.float32), np.zeros((5, 9), np.int64)
        _simd.scores(*stored, batch[:5], scores, accuracy, count)
        _simd.search(*stored, batch[:5], mask, 9, accuracy, *found, count)
        results.append((scores.tobytes(), *(array.tobytes() for array in found)))
    assert results[0] == results[1]
    assert any(results[0][0])


@pytest.mark.parametrize("threads", [2, 3, 7, 256])
@pytest.mark.parametrize("kind", ["gaussian", "hadamard"])
def test_sketches_do_not_depend_on_the_threads(threads, kind):
    residuals = np.random.default_rng(4).integers(-30000, 30000, (ROWS, 64))
    plan = pack_plan(calls.scalar_plan(sketch=kind))
    one, many = np.zeros((ROWS, 8), np.uint8), np.ones((ROWS, 8), np.uint8)
    _simd.sketch(plan, residuals, one, 1)
    _simd.sketch(plan, residuals, many, threads)
    assert one.tobytes() == many.tobytes()


def test_threads_that_share_a_plan_get_the_same_results(batch):
    plan = calls.scalar_plan(search=3)
    capsule = pack_plan(plan)
    expected = encoded(plan, batch[:300], 1, sketch=False)
    start = threading.Barrier(4)

    def hammer(seed):
        start.wait()
        for _ in range(15):
            packed, scales = np.zeros_like(expected[0]), np.zeros_like(expected[1])
            _simd.encode(capsule, batch[:300], packed, scales, None, 1 + seed % 2)
            if packed.tobytes() != expected[0].tobytes() or scales.tobytes() != expected[1].tobytes():
                return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(hammer, range(4)))


def test_the_interpreter_runs_on_during_a_long_encode():
    """The longest pause of this thread while another encodes must be far shorter than the encode."""
    plan = calls.scalar_plan(1024, 8, search=13)
    x = np.random.default_rng(1).standard_normal((400, 1024)).astype(np.float32)
    while True:
        times = {}

        def work(x=x, times=times):
            times["start"] = time.monotonic()
            encoded(plan, x, 1, sketch=False)
            times["end"] = time.monotonic()

        worker = threading.Thread(target=work)
        worker.start()
        marks = [time.monotonic()]
        while worker.is_alive():
            marks.append(time.monotonic())
        worker.join()
        if times["end"] - times["start"] > 0.4:
            break
        x = np.concatenate([x, x])
    inside = [mark for mark in marks if times["start"] <= mark <= times["end"]]
    pauses = np.diff([times["start"], *inside, times["end"]])
    assert len(inside) > 100
    assert pauses.max() < 0.6 * (times["end"] - times["start"])


def test_a_forked_child_encodes_with_threads_of_its_own():
    """No pool is kept, so that a child made by fork has nothing to miss."""
    code = """
import os, sys
import numpy as np
from tq_core import TurboQuantMSE, VectorCodec
x = np.random.default_rng(3).standard_normal((4000, 64)).astype(np.float32)
codec = VectorCodec(TurboQuantMSE(64, 4, backend="simd"))
assert codec.quantizer.backend.threads == 2
expected = codec.encode(x).to_bytes()
child = os.fork()
if child == 0:
    os._exit(0 if codec.encode(x).to_bytes() == expected else 3)
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 0, status
assert codec.encode(x).to_bytes() == expected
print("same")
"""
    assert in_child(code, TQ_THREADS="2", OPENBLAS_NUM_THREADS="1").strip() == "same"
