"""Backend `simd`: the operations of tq_core in C, with what is left to numpy said in `levels`."""

import os
from typing import Final
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from tq_core.errors import InvalidSpec
from tq_core.numpy_backend import NumpyBackend
from tq_core.plan import ScalarPlan
from tq_core.rotation import Rotation
from tq_kernels_simd import _simd
from tq_kernels_simd.plan import pack_plan, pack_rotation

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]

MAX_THREADS: Final = 256


class SimdBackend(NumpyBackend):
    """The C kernels of the level that `_simd.level()` names. Stateless but for the packed plans it has seen."""

    name = "simd"

    def __init__(self, threads: int = 1) -> None:
        self.threads = threads
        self._rotations: WeakKeyDictionary[Rotation, object] = WeakKeyDictionary()
        self._plans: dict[tuple[int, ...], tuple[ScalarPlan, object]] = {}
        self.levels = dict.fromkeys(("rotate", "unrotate", "encode", "decode", "scores"), _simd.level())

    def rotate(self, rotation: Rotation, x: F32) -> F32:
        """As NumpyBackend, bit for bit."""
        return self._turn(rotation, x, 0)

    def unrotate(self, rotation: Rotation, z: F32) -> F32:
        """As NumpyBackend, bit for bit."""
        return self._turn(rotation, z, 1)

    def _turn(self, rotation: Rotation, x: F32, inverse: int) -> F32:
        if rotation.matrix is not None:  # a matrix product: the system's BLAS is the fastest there is
            return super().unrotate(rotation, x) if inverse else super().rotate(rotation, x)
        packed = self._rotations.get(rotation)
        if packed is None:
            packed = self._rotations[rotation] = pack_rotation(rotation)
        out = np.empty_like(x)
        _simd.rotate(packed, x, out, inverse, self.threads)
        return out

    def encode(self, plan: ScalarPlan, x: NDArray[np.floating]) -> tuple[U8, F32, F32 | None]:
        """As NumpyBackend, bit for bit."""
        if plan.rotation.matrix is not None:
            return super().encode(plan, x)
        packed = np.empty((len(x), plan.row_bytes), np.uint8)
        scales = np.empty(len(x), np.float32)
        gammas = np.empty(len(x), np.float32) if plan.sketch is not None else None
        _simd.encode(self._packed(plan), x, packed, scales, gammas, self.threads)
        return packed, scales, gammas

    def decode(self, plan: ScalarPlan, packed: U8, scales: F32, gammas: F32 | None) -> F32:
        """As NumpyBackend, within rounding."""
        if plan.rotation.matrix is not None or plan.sketch is not None:
            return super().decode(plan, packed, scales, gammas)
        out = np.empty((len(packed), plan.dim), np.float32)
        _simd.decode(self._packed(plan), packed, scales, out, self.threads)
        return out

    def scores(self, plan: ScalarPlan, packed: U8, scales: F32, gammas: F32 | None, queries: F32) -> F32:
        """As NumpyBackend, within rounding."""
        if plan.sketch is not None:
            return super().scores(plan, packed, scales, gammas, queries)
        out = np.empty((len(queries), len(packed)), np.float32)
        _simd.scores(self._packed(plan), packed, scales, self.rotate(plan.rotation, queries), out, self.threads)
        return out

    def _packed(self, plan: ScalarPlan) -> object:
        """The packed form of a plan, kept as long as the backend: a plan is a tuple of shared tables."""
        key = (id(plan.rotation), id(plan.codebook), id(plan.sketch), hash((plan.rule, plan.candidates, plan.strict)))
        found = self._plans.get(key)
        if found is None:
            found = self._plans[key] = (plan, pack_plan(plan))
        return found[1]


def load() -> SimdBackend:
    """The loader that tq_core's registry calls; TQ_THREADS says how many threads a batch may use, 1 by default."""
    text = os.environ.get("TQ_THREADS", "1")
    if not text.isdigit() or not 1 <= int(text) <= MAX_THREADS:
        raise InvalidSpec(f"TQ_THREADS must be a number in 1..{MAX_THREADS}, got {text!r}")
    return SimdBackend(int(text))
