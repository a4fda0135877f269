"""Every operation on a FencedDevice, in a process that may end at once: `run_fenced.py behind|before WHAT`.

Arrays behind which a fence lies begin at any address, and kernels are compiled to end the process where they load or
store a number at an address that is no multiple of its size, which a device refuses, shift by more bits than there
are, or overflow.
"""

import ctypes
import faulthandler
import sys

import numpy as np
import shim_device
from fenced_device import FencedDevice, fenced
from gpu_plans import WIDTHS, scalar_plan

from tq_core.numpy_backend import NumpyBackend
from tq_core.rotation import Rotation
from tq_core.sketch import Sketch
from tq_core.testing import samples
from tq_core.trellis_plan import TrellisPlan
from tq_core.trellis_table import trellis
from tq_kernels_gpu import sources
from tq_kernels_gpu.attention import PackedAttention
from tq_kernels_gpu.backend import GpuBackend

SANITIZED = ("-fsanitize=alignment,shift,signed-integer-overflow", "-fno-sanitize-recover=all")
MISALIGNED = """
extern "C" __global__ void tq_probe(const unsigned char* in, unsigned* out) { out[0] = *(const unsigned*)in; }
"""


def _plans():
    for dim in (3, 33, 100, 128):
        for bits in WIDTHS:
            yield scalar_plan(dim, bits, search=3)
    for kind in ("gaussian", "hadamard"):
        for dim in (20, 100, 128):
            yield scalar_plan(dim, 3, sketch=Sketch(dim, dim, kind, 5))
    yield scalar_plan(1536, 4)
    yield scalar_plan(48, 4, kind="dense")
    for dim, bits, states in ((45, 3, 8), (64, 1, 256), (129, 2, 256), (64, 4, 1024)):
        yield TrellisPlan(Rotation(dim, "hadamard", 7), trellis(bits, states), "unbiased", (1.0,), strict=False)


def _run(backend, plan):
    rows = NumpyBackend().encode(plan, samples(plan.dim)[:7])
    backend.encode(plan, samples(plan.dim)[:7])
    backend.decode(plan, *rows)
    mask = np.arange(7) != 3
    for count in (1, 3, 9):
        queries = samples(plan.dim, 1)[:count]
        for accuracy in ("exact", "int8"):
            backend.scores(plan, *rows, queries, accuracy=accuracy)
            backend.search(plan, *rows, queries, 3, mask, accuracy)
        backend.combine(plan, *rows, samples(7, 2)[:count])
    many = [None if array is None else np.concatenate([array] * 9) for array in rows]
    backend.search(plan, *many, samples(plan.dim, 1)[:1], 3, None, "auto")
    if plan.sketch is not None:
        integers = np.rint(samples(plan.dim)[:7] * 4).astype(np.int64)
        backend.unsketch(plan.sketch, backend.sketch(plan.sketch, integers))


def _attend(backend, plan, side):
    """The attention kernels take addresses of packed rows: these arrays are fenced themselves."""
    tokens = 3 * 24 + 5
    packed, scales, _ = NumpyBackend().encode(plan, np.concatenate([samples(plan.dim)] * 4)[:tokens])
    for dtype in ("float16", "float32"):
        with np.errstate(over="ignore"):
            narrow = np.nan_to_num(scales.astype(dtype), posinf=1)
        stored = fenced(packed[None], side), fenced(narrow[None], side)
        for accuracy in ("exact", "integer"):
            attention = PackedAttention(plan, plan, backend, accuracy=accuracy)
            for heads in (1, 9):
                queries = samples(plan.dim, 1)[None, :heads, None, :]
                attention.attend(*stored, *stored, np.nan_to_num(queries).copy(), scale=0.1)


def main(side, what):
    """Ends early where a kernel does what it must not; "touch" and "misalign" do so, "run" is every operation."""
    faulthandler.enable()
    shim_device.FLAGS += SANITIZED
    if what == "touch":
        array = fenced(np.zeros(4, np.uint8), side)
        ctypes.string_at(array.ctypes.data + (4 if side == "behind" else -1), 1)
        return
    device = FencedDevice(side)
    if what == "misalign":
        sources.source, sources.kernels = lambda module: MISALIGNED, lambda module: ("tq_probe",)
        device.module("probe").launch("tq_probe", 1, 1, (np.zeros(5, np.uint8), np.zeros(1, np.uint32)))
        return
    backend = GpuBackend(device)
    for plan in _plans():
        sys.stdout.write(f"{type(plan).__name__} of dim {plan.dim}, {plan.codebook.bits} bits, sketch {plan.sketch}\n")
        sys.stdout.flush()
        _run(backend, plan)
        if plan.sketch is None and plan.codebook.bits == int(plan.codebook.bits):
            _attend(backend, plan, side)
    sys.stdout.write("all operations\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
