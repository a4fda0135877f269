"""Plans of tq_core packed into the one buffer that the C code checks and reads (csrc/plan.c has the same header)."""

import struct
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tq_core.codebook import Codebook, MixedCodebook
from tq_core.registry import Plan
from tq_core.rotation import Rotation
from tq_core.sketch import Sketch
from tq_core.trellis_table import Trellis
from tq_kernels_simd import _simd

MAGIC: Final = int.from_bytes(b"TQPLN002", "little")
HEADER: Final = struct.Struct("=22q5d")
RULES: Final = ("plain", "mse", "norm", "unbiased")  # a rule's number is its index
SKETCHES: Final = {None: 0, "gaussian": 1, "hadamard": 2}
MIXED: Final = 9  # TQ_MIXED, TQ_MIXED_LANES and TQ_MIXED_THRESHOLDS of csrc/plan.h
LANES: Final = 16
PAIR_BITS: Final = 11  # TQ_PAIR_BITS of csrc/plan.h
THRESHOLDS: Final = 5
SIGN: Final = np.uint32(0x80000000)


class _Arrays:
    """Arrays laid one after the other behind the header, each at a multiple of 64 bytes, a cache line."""

    def __init__(self) -> None:
        self.parts: list[bytes] = [bytes(-HEADER.size % 64)]
        self.length = HEADER.size + len(self.parts[0])

    def add(self, array: NDArray[Any]) -> int:
        """Append the array; returns its offset in the buffer."""
        offset = self.length
        data = np.ascontiguousarray(array).tobytes()
        data += bytes(-len(data) % 64)
        self.parts.append(data)
        self.length += len(data)
        return offset


def pack_rotation(rotation: Rotation) -> object:
    """The checked plan of a bare Hadamard rotation."""
    return _simd.plan(rotation_bytes(rotation))


def pack_sketch(sketch: Sketch) -> object:
    """The checked plan of a bare sketch."""
    return _simd.plan(_bytes(None, None, "plain", (), sketch, strict=False))


def pack_plan(plan: Plan) -> object:
    """The checked plan of a quantizer or codec."""
    return _simd.plan(plan_bytes(plan))


def rotation_bytes(rotation: Rotation) -> bytes:
    """What `pack_rotation` hands to the C code."""
    return _bytes(rotation, None, "plain", (), None, strict=False)


def plan_bytes(plan: Plan) -> bytes:
    """What `pack_plan` hands to the C code."""
    return _bytes(plan.rotation, plan.codebook, plan.rule, plan.candidates, plan.sketch, strict=plan.strict)


def _bytes(
    rotation: Rotation | None,
    book: Codebook | MixedCodebook | Trellis | None,
    rule: str,
    candidates: tuple[float, ...],
    sketch: Sketch | None,
    *,
    strict: bool,
) -> bytes:
    arrays = _Arrays()
    dim = rotation.dim if rotation is not None else sketch.dim if sketch is not None else 0
    rounds, order, signs, permutations, factor, inverse = _rotation(arrays, rotation)
    turn = sketch.rotation if sketch is not None else None
    sketch_rounds, sketch_order, sketch_signs, sketch_permutations, sketch_factor, sketch_inverse = _rotation(
        arrays, turn
    )
    matrix = arrays.add(sketch.matrix) if sketch is not None and sketch.matrix is not None else 0
    thresholds = levels = centroids = magnitudes = 0
    width = 0
    if isinstance(book, MixedCodebook):
        width = MIXED
        thresholds, levels, centroids, magnitudes = _mixed(arrays, book)
    elif isinstance(book, Trellis):
        width, levels, centroids = book.bits, arrays.add(2 * book.levels), arrays.add(book.centroids)
        if book.window + book.bits <= PAIR_BITS:
            both = np.arange(1 << (book.window + book.bits))
            first, second = book.centroids[both & ((1 << book.window) - 1)], book.centroids[both >> book.bits]
            thresholds = arrays.add(np.stack([first, second], axis=1))
    elif book is not None:
        width, half = book.bits, 1 << (book.bits - 1)
        thresholds, levels = arrays.add(book.thresholds), arrays.add(book.levels[half:])
        centroids = arrays.add(book.centroids)
        magnitudes = arrays.add(book.code_table[:32768] - np.uint8(half))
    candidate = arrays.add(np.array(candidates, np.float32)) if candidates else 0
    header = HEADER.pack(
        MAGIC,
        arrays.length,
        dim,
        rounds or sketch_rounds,  # a structured sketch has the rounds and the order of its dim's rotation
        order if rounds else sketch_order,
        width,
        RULES.index(rule),
        strict,
        len(candidates),
        SKETCHES[sketch.kind if sketch is not None else None],
        sketch.projections if sketch is not None else 0,
        signs or sketch_signs,
        permutations or sketch_permutations,
        thresholds,
        levels,
        centroids,
        magnitudes,
        candidate,
        matrix,
        sketch_signs,
        sketch_permutations,
        book.window if isinstance(book, Trellis) else 0,
        factor,
        inverse,
        sketch_factor,
        sketch_inverse,
        sketch.constant if sketch is not None else 0.0,
    )
    return b"".join([header, *arrays.parts])


def _mixed(arrays: _Arrays, book: MixedCodebook) -> tuple[int, int, int, int]:
    """What `tq_mixed` of csrc/plan.h points to: thresholds, levels, pairs of centroids; then places and radices."""
    radices = book.layout.radices
    thresholds = np.full((THRESHOLDS, LANES), 32767, np.int16)
    levels = np.empty((THRESHOLDS + 1, LANES), np.int16)
    for lane in range(LANES):
        one = book.books[lane % len(radices)]
        own = one.levels[len(one.levels) // 2 :]
        thresholds[: len(one.thresholds), lane] = one.thresholds
        levels[:, lane] = own[np.minimum(np.arange(THRESHOLDS + 1), len(own) - 1)]
    words = 1 << book.layout.word_bits
    low = radices[0] * radices[1] if len(radices) == 4 else words
    counts = [low, (words - 1) // low + 1] if len(radices) == 4 else [low]
    pairs = []
    for half, count in enumerate(counts):
        first, second = book.books[2 * half : 2 * half + 2]
        index = np.arange(count)  # words that no encoder writes wrap around, as numpy's table of digits does
        n = len(first.centroids)
        pairs.append(
            np.stack([first.centroids[index % n], second.centroids[index // n % len(second.centroids)]], axis=1)
        )
    shape = np.array([len(radices), *radices, 0, 0], np.int32)[:5]
    return arrays.add(thresholds), arrays.add(levels), arrays.add(np.concatenate(pairs)), arrays.add(shape)


def _rotation(arrays: _Arrays, rotation: Rotation | None) -> tuple[int, int, int, int, float, float]:
    if rotation is None or rotation.matrix is not None:
        return 0, 0, 0, 0, 1.0, 1.0  # order 0 suits every dim
    signs = arrays.add(np.where(rotation.signs < 0, SIGN, np.uint32(0)))
    order = rotation.permutations
    permutations = arrays.add(order.astype(np.int32)) if order is not None else 0
    return rotation.rounds, rotation.order, signs, permutations, rotation.factor, rotation.inverse_factor
