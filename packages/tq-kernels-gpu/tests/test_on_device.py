"""What only a CUDA device can show: its name, streams, graphs, and the float16 instructions. Label: "ran on GPU".

Every other test that takes `device` runs there too; these are of the real device alone.
"""

import numpy as np
import pytest
from gpu_plans import same_bits, scalar_plan

from tq_core.numpy_backend import NumpyBackend
from tq_core.testing import samples
from tq_kernels_gpu import tables
from tq_kernels_gpu.ops.decode import decode
from tq_kernels_gpu.ops.encode import encode

pytestmark = pytest.mark.gpu
NUMPY = NumpyBackend()


def test_the_label_names_the_device(gpu):
    assert gpu.label == f"ran on GPU ({gpu.name})"
    assert gpu.capability >= 75


def test_operations_run_on_the_current_stream(gpu):
    plan, cupy = scalar_plan(128, 4), gpu.xp
    x = gpu.asarray(samples(128))
    gpu.wait()  # the other stream does not
    with cupy.cuda.Stream(non_blocking=True) as stream:
        packed, scales, _ = encode(gpu, plan, x)
        rows = decode(gpu, plan, packed, scales, None)
        stream.synchronize()
    expected = NUMPY.encode(plan, samples(128))
    same_bits(gpu.to_host(packed), expected[0])
    same_bits(gpu.to_host(rows), NUMPY.decode(plan, *expected))


def test_decoding_into_a_buffer_is_captured_by_a_graph(gpu):
    plan, cupy = scalar_plan(128, 4), gpu.xp
    packed, scales, _ = encode(gpu, plan, gpu.asarray(samples(128)))
    out = cupy.zeros((24, 128), np.float32)
    decode(gpu, plan, packed, scales, None, out=out)  # compiles, uploads tables
    out[...] = 0
    stream = cupy.cuda.Stream(non_blocking=True)
    gpu.wait()
    with stream:
        stream.begin_capture()
        decode(gpu, plan, packed, scales, None, out=out)
        graph = stream.end_capture()
        graph.launch(stream)
        stream.synchronize()
    same_bits(gpu.to_host(out), NUMPY.decode(plan, gpu.to_host(packed), gpu.to_host(scales), None))


def test_tables_are_uploaded_once(gpu):
    rotation = scalar_plan(100, 4).rotation
    assert tables.rotation_tables(gpu, rotation) is tables.rotation_tables(gpu, rotation)


def test_numbers_below_the_normal_ones_are_kept(gpu):
    plan, x = scalar_plan(64, 4), samples(64) * np.float32(1e-25)
    packed, scales, _ = NUMPY.encode(plan, x)
    assert (np.abs(scales[scales > 0]) < 1e-38).any(), "the rows are not small enough to show it"
    got = encode(gpu, plan, gpu.asarray(x))
    same_bits(gpu.to_host(got[1]), scales)
    same_bits(gpu.to_host(decode(gpu, plan, *got)), NUMPY.decode(plan, packed, scales, None))
