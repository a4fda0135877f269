"""What the attention kernels need to read packed rows of a plan: formats, and tables of centroids."""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tq_core.codebook import Codebook, MixedCodebook
from tq_core.errors import InvalidSpec
from tq_core.registry import Plan
from tq_core.trellis_plan import TrellisPlan
from tq_core.trellis_table import Trellis
from tq_kernels_gpu.device import Argument, Array, Device
from tq_kernels_gpu.tables import kept
from tq_kernels_gpu.trellis_tables import TRELLIS

PAIRS: Final = (2, 3, 4)  # bits whose codes are looked up in pairs, in rows whose planes are aligned to words
ALIGNED: Final = 32  # a dim whose planes are


class Reader(NamedTuple):
    """How rows of one plan are packed, and the table of their centroids: of codes, or of windows of a trellis."""

    format: int
    dim: int
    row_bytes: int
    bits: int
    window: int  # of a trellis, else 0
    centroids: NDArray[np.float32]
    codebook: Codebook | Trellis  # keeps its tables on the device

    @property
    def code_arguments(self) -> tuple[Argument, ...]:
        """The kernel parameters `format, dim, bytes, bits, window`."""
        return tuple(map(np.int32, (self.format, self.dim, self.row_bytes, self.bits, self.window)))

    @property
    def pair_format(self) -> int:
        """The format, if codes are looked up in pairs, else 0."""
        return self.format if self.format in PAIRS and self.dim % ALIGNED == 0 else 0


def reader(plan: Plan) -> Reader:
    """The reader of a plan; InvalidSpec for one that has none, of a fractional width or with a sketch."""
    book = plan.codebook
    if plan.sketch is not None:
        raise InvalidSpec("rows with a sketch cannot be attended from codes; decode them")
    if isinstance(book, MixedCodebook):
        raise InvalidSpec(f"rows of {book.bits} bits have no attention kernel; use `scores` and `combine`")
    if isinstance(plan, TrellisPlan):
        assert isinstance(book, Trellis)
        return Reader(TRELLIS, plan.dim, plan.row_bytes, book.bits, book.window, book.centroids, book)
    bits = int(book.bits)
    return Reader(bits, plan.dim, plan.row_bytes, bits, 0, book.centroids, book)


def float_table(device: Device, rows: Reader) -> Array:
    """The centroids on the device, float32, uploaded at first use."""
    return kept(device).get(rows.codebook, "floats", lambda: device.asarray(rows.centroids))


def half_table(device: Device, rows: Reader) -> Array:
    """Centroids as float16 for kernels/halves.cuh, (words,) uint32 on the device, uploaded at first use."""
    return kept(device).get(rows.codebook, ("halves", rows.pair_format), lambda: device.asarray(half_words(rows)))


def half_words(rows: Reader) -> NDArray[np.uint32]:
    """Words of pairs, the first in the low 16 bits, or one centroid a word for other codes, or two for a trellis."""
    halves = rows.centroids.astype(np.float16).view(np.uint16).astype(np.uint32)
    if rows.format == TRELLIS:
        return halves[::2] | halves[1::2] << np.uint32(16)
    if not rows.pair_format:
        return halves
    # an entry's number has the low planes of both codes below their high planes
    low = min(rows.bits, 2) if rows.bits < 4 else 4
    entry = np.arange(1 << 2 * rows.bits)
    codes = [
        entry >> low * place & (1 << low) - 1 | (entry >> 2 * low + place & (1 << rows.bits - low) - 1) << low
        for place in (0, 1)
    ]
    pairs: NDArray[np.uint32] = halves[codes[0]] | halves[codes[1]] << np.uint32(16)
    return pairs
