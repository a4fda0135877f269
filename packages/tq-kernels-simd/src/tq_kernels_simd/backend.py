"""Backend `simd`: the operations of tq_core in C, with what is left to numpy said in `levels`."""

import math
import os
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from tq_core.codebook import MixedCodebook
from tq_core.errors import InvalidSpec
from tq_core.numpy_backend import NumpyBackend
from tq_core.registry import Plan
from tq_core.rotation import Rotation
from tq_core.sketch import Sketch
from tq_kernels_simd import _simd
from tq_kernels_simd.plan import pack_plan, pack_rotation, pack_sketch

if TYPE_CHECKING:
    from tq_kernels_simd.attention import PackedAttention

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]
I64 = NDArray[np.int64]

ACCURACIES: Final = {"exact": 0, "int16": 1, "int8": 2, "auto": 3}  # csrc/score/query.h, csrc/search/run.h
OPERATIONS: Final = (
    *("rotate", "unrotate", "encode", "decode", "scores", "search", "combine", "attention", "sketch", "sketch_scores"),
)
LEFT_TO_NUMPY: Final = ("unsketch",)
MAX_THREADS: Final = 256


class SimdBackend(NumpyBackend):
    """The C kernels of the level that `_simd.level()` names. Stateless but for the packed plans it has seen."""

    name = "simd"

    def __init__(self, threads: int = 1) -> None:
        self.threads = threads
        self._rotations: WeakKeyDictionary[Rotation, object] = WeakKeyDictionary()
        self._plans: WeakKeyDictionary[Rotation, dict[tuple[object, ...], object]] = WeakKeyDictionary()
        self._sketches: WeakKeyDictionary[Sketch, object] = WeakKeyDictionary()
        self.levels = dict.fromkeys(OPERATIONS, _simd.level()) | dict.fromkeys(LEFT_TO_NUMPY, "(numpy)")

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

    def encode(self, plan: Plan, x: NDArray[np.floating]) -> tuple[U8, F32, F32 | None]:
        """As NumpyBackend, bit for bit."""
        if plan.rotation.matrix is not None:
            return super().encode(plan, x)
        packed = np.empty((len(x), plan.row_bytes), np.uint8)
        scales = np.empty(len(x), np.float32)
        gammas = np.empty(len(x), np.float32) if plan.sketch is not None else None
        _simd.encode(self._packed(plan), x, packed, scales, gammas, self.threads)
        return packed, scales, gammas

    def decode(self, plan: Plan, packed: U8, scales: F32, gammas: F32 | None) -> F32:
        """As NumpyBackend, within rounding."""
        if plan.rotation.matrix is not None or plan.sketch is not None:
            return super().decode(plan, packed, scales, gammas)
        out = np.empty((len(packed), plan.dim), np.float32)
        _simd.decode(self._packed(plan), packed, scales, out, self.threads)
        return out

    def scores(
        self, plan: Plan, packed: U8, scales: F32, gammas: F32 | None, queries: F32, *, accuracy: str = "exact"
    ) -> F32:
        """As NumpyBackend, within rounding; at "int16" and "int8" with the error that csrc/score/query.h allows."""
        out = np.empty((len(queries), len(packed)), np.float32)
        rotated = self.rotate(plan.rotation, queries)
        _simd.scores(self._packed(plan), packed, scales, gammas, rotated, out, ACCURACIES[accuracy], self.threads)
        return out

    def search(
        self,
        plan: Plan,
        packed: U8,
        scales: NDArray[np.floating],
        gammas: NDArray[np.floating] | None,
        queries: F32,
        k: int,
        mask: NDArray[np.bool_] | None,
        accuracy: str,
    ) -> tuple[F32, I64]:
        """The k best rows of each query; scales and gammas in float16 or float32."""
        found = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
        rotated, number = self.rotate(plan.rotation, queries), ACCURACIES[accuracy]
        _simd.search(self._packed(plan), packed, scales, gammas, rotated, mask, k, number, *found, self.threads)
        return found

    def combine(self, plan: Plan, packed: U8, scales: F32, gammas: F32 | None, weights: F32) -> F32:
        """As NumpyBackend, within rounding; signs are added before they are projected back, once a sum."""
        ready = self._packed(plan)
        total = np.empty((len(weights), plan.dim), np.float32)
        _simd.combine(ready, packed, scales, weights, 0, total, self.threads)
        if plan.sketch is not None and gammas is not None:
            signs = np.empty((len(weights), plan.sketch.projections), np.float32)
            lengths = gammas * np.float32(math.sqrt(plan.dim))
            _simd.combine(ready, packed, lengths, weights, 1, signs, self.threads)
            total += self._unproject(plan.sketch, signs)
        return self.unrotate(plan.rotation, total)

    def _unproject(self, sketch: Sketch, signs: F32) -> F32:
        """Signs, or sums of them, times the transpose of the sketch and its constant, as NumpyBackend.unsketch."""
        if sketch.matrix is not None:
            return (signs @ sketch.matrix.astype(np.float32)) * np.float32(sketch.constant / 2048)
        assert sketch.rotation is not None
        return self.unrotate(sketch.rotation, signs) * np.float32(sketch.constant * sketch.dim)

    def sketch(self, sketch: Sketch, residuals: I64) -> U8:
        """As NumpyBackend, bit for bit."""
        out = np.empty((len(residuals), (sketch.projections + 7) // 8), np.uint8)
        _simd.sketch(self._packed_sketch(sketch), residuals, out, self.threads)
        return out

    def sketch_scores(self, sketch: Sketch, bits: U8, queries: F32) -> F32:
        """As NumpyBackend, within rounding."""
        out, ones = np.empty((len(queries), len(bits)), np.float32), np.ones(len(bits), np.float32)
        _simd.scores(self._packed_sketch(sketch), bits, None, ones, queries, out, ACCURACIES["exact"], self.threads)
        return out

    def _packed_sketch(self, sketch: Sketch) -> object:
        packed = self._sketches.get(sketch)
        if packed is None:
            packed = self._sketches[sketch] = pack_sketch(sketch)
        return packed

    def _packed(self, plan: Plan) -> object:
        """The packed form of a plan, kept as long as its rotation; sketches are told by what they are drawn from."""
        sketch = plan.sketch
        drawn = None if sketch is None else (sketch.kind, sketch.seed, sketch.projections)
        key = (plan.codebook, plan.rule, plan.candidates, plan.strict, drawn)
        of_rotation = self._plans.setdefault(plan.rotation, {})
        found = of_rotation.get(key)
        if found is None:
            found = of_rotation[key] = pack_plan(plan)
        return found

    def attention(self, keys: Plan, values: Plan, accuracy: str) -> "PackedAttention | None":
        """Fused attention over tokens packed by two plans; see tq_kernels_simd.attention.

        None for fractional widths, which have no kernel: a caller attends by `scores` and `combine`.
        """
        if isinstance(keys.codebook, MixedCodebook) or isinstance(values.codebook, MixedCodebook):
            return None
        from tq_kernels_simd.attention import PackedAttention

        return PackedAttention(keys, values, self, accuracy=accuracy, threads=self.threads)


def load() -> SimdBackend:
    """The loader that tq_core's registry calls; TQ_THREADS says how many threads a batch may use, 1 by default."""
    text = os.environ.get("TQ_THREADS") or "1"
    # ASCII digits alone: int() refuses other characters that isdigit() accepts, and very long numbers
    if not (text.isascii() and text.isdigit() and len(text) <= 3 and 1 <= int(text) <= MAX_THREADS):
        raise InvalidSpec(f"TQ_THREADS must be a number in 1..{MAX_THREADS}, got {text!r}")
    return SimdBackend(int(text))
