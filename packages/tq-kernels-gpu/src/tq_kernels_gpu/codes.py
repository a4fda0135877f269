"""Codebooks and candidate scales of a plan on a device, in the tables that kernels/codes.cuh describes."""

from typing import Final, NamedTuple

import numpy as np

from tq_core.codebook import Codebook, MixedCodebook
from tq_core.plan import RULES
from tq_core.registry import Plan
from tq_core.trellis_table import Trellis
from tq_kernels_gpu.device import Argument, Array, Device
from tq_kernels_gpu.tables import kept
from tq_kernels_gpu.trellis_tables import TrellisTables, trellis_tables

FORMATS: Final[dict[float, int]] = {bits: bits for bits in range(1, 9)} | {2.25: 9, 2.5: 10, 3.25: 11, 3.5: 12}
MIXED_SLOTS: Final = 8  # tq_slots and tq_centroid_slots of a fractional width
MIXED_CENTROIDS: Final = 16
NEVER: Final = 32767  # a threshold that no |v| is beyond


class BookTables(NamedTuple):
    """The codebooks of a width on a device, those of its places one after the other."""

    thresholds: Array  # int16: of magnitudes, padded with NEVER
    levels: Array  # int16: of magnitudes, as many as thresholds
    centroids: Array  # float32: of codes
    format: int

    def for_encoding(self) -> tuple[Argument, ...]:
        """The kernel parameters `thresholds, levels, table, format`."""
        return (self.thresholds, self.levels, np.int32(len(self.levels)), np.int32(self.format))

    def for_decoding(self) -> tuple[Argument, ...]:
        """The kernel parameters `centroids, table, format`."""
        return (self.centroids, np.int32(len(self.centroids)), np.int32(self.format))


def book_tables(device: Device, book: Codebook | MixedCodebook) -> BookTables:
    """The tables of a codebook, uploaded at first use."""
    tables: BookTables = kept(device).get(book, "book", lambda: _upload_book(device, book))
    return tables


def centroid_tables(device: Device, book: Codebook | MixedCodebook | Trellis) -> BookTables | TrellisTables:
    """What decoding needs of a plan's codebook of either kind."""
    return trellis_tables(device, book) if isinstance(book, Trellis) else book_tables(device, book)


def _upload_book(device: Device, book: Codebook | MixedCodebook) -> BookTables:
    mixed = isinstance(book, MixedCodebook)
    books = book.books
    slots = MIXED_SLOTS if mixed else len(books[0].half)
    room = MIXED_CENTROIDS if mixed else len(books[0].centroids)
    thresholds = np.full((len(books), slots), NEVER, np.int16)
    levels = np.zeros((len(books), slots), np.int16)
    centroids = np.zeros((len(books), room), np.float32)
    for place, one in enumerate(books):
        own = one.levels[len(one.levels) // 2 :]
        thresholds[place, : len(one.thresholds)] = one.thresholds
        levels[place, : len(own)] = own
        centroids[place, : len(one.centroids)] = one.centroids
    return BookTables(
        thresholds=device.asarray(thresholds.reshape(-1)),
        levels=device.asarray(levels.reshape(-1)),
        centroids=device.asarray(centroids.reshape(-1)),
        format=FORMATS[book.bits],
    )


def search_arguments(device: Device, plan: Plan) -> tuple[Argument, ...]:
    """The kernel parameters `candidates, candidate_count, rule` of a plan."""
    values = np.array(plan.candidates, np.float32)
    candidates = kept(device).get(plan.rotation, plan.candidates, lambda: device.asarray(values))
    return (candidates, np.int32(len(values)), np.int32(RULES.index(plan.rule)))
