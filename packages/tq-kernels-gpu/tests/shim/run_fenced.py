"""Every operation on a FencedDevice, in a process that may end at once: `run_fenced.py behind|before run|touch`."""

import ctypes
import faulthandler
import sys

import numpy as np
from fenced_device import FencedDevice, fenced
from gpu_plans import WIDTHS, scalar_plan

from tq_core.numpy_backend import NumpyBackend
from tq_core.rotation import Rotation
from tq_core.sketch import Sketch
from tq_core.testing import samples
from tq_core.trellis_plan import TrellisPlan
from tq_core.trellis_table import trellis
from tq_kernels_gpu.backend import GpuBackend


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


def main(side, what):
    """Ends by a signal where a kernel, or with `what` = "touch" this function, touches what it was not given."""
    faulthandler.enable()
    if what == "touch":
        array = fenced(np.zeros(4, np.uint8), side)
        ctypes.string_at(array.ctypes.data + (4 if side == "behind" else -1), 1)
        return
    backend = GpuBackend(FencedDevice(side))
    for plan in _plans():
        sys.stdout.write(f"{type(plan).__name__} of dim {plan.dim}, {plan.codebook.bits} bits, sketch {plan.sketch}\n")
        sys.stdout.flush()
        _run(backend, plan)
    sys.stdout.write("all operations\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
