"""PolarQuant: angles of a recursive polar transform (arXiv 2502.02617; docs/format.md, section 7)."""

import math
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tq_core import checks, packing, registry
from tq_core.codes import Codes
from tq_core.errors import SpecMismatch
from tq_core.polar_angles import AngleBook, angle_book
from tq_core.rotation import Rotation
from tq_core.spec import Spec, bits_per_vector, polar_levels, validated

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
U8 = NDArray[np.uint8]

UNIT: Final = 4096.0


class PolarQuant:
    """Unit vectors of power-of-two dim as angles, `bits` for a first-level angle and half of it for deeper ones.

    Groups of 16 rotated coordinates share one float16 radius; bits=4 is the paper's (4, 2, 2, 2) code of 3.875
    bits a coordinate, of about the quality of a 3-bit Lloyd-Max code.
    """

    def __init__(self, dim: int, bits: int, *, seed: int = 0, backend: str = "auto") -> None:
        self._spec = validated({"kind": "polar", "dim": dim, "bits": bits, "seed": seed})
        self.backend, self.follows_data = registry.resolve(backend), False
        self.rotation = Rotation(self._spec["dim"], "hadamard", self._spec["seed"])
        self.levels = polar_levels(self._spec["dim"], self._spec["bits"])
        self.books: list[AngleBook] = [angle_book(level, bits) for level, (_, bits) in enumerate(self.levels, 1)]

    @property
    def dim(self) -> int:
        """Dimension of the vectors."""
        return self.rotation.dim

    @property
    def spec(self) -> Spec:
        """A plain dict that rebuilds this quantizer."""
        return dict(self._spec)

    @property
    def bits_per_vector(self) -> int:
        """Bits held for one vector, radii included."""
        return bits_per_vector(self._spec)

    @property
    def tables(self) -> tuple[NDArray[Any], ...]:
        """Arrays of the rotation and the angle books, shared by all vectors."""
        return (*self.rotation.tables, *(table for book in self.books for table in book.tables))

    @property
    def state_nbytes(self) -> int:
        """Bytes of `tables`."""
        return sum(table.nbytes for table in self.tables)

    @property
    def expected_mse(self) -> float:
        """E|x - x_hat|^2 of a unit vector: 2 (1 - product over levels of E cos(angle error))."""
        return 2.0 * (1.0 - math.prod(book.mean_cosine for book in self.books))

    def quantize(self, x: ArrayLike) -> Codes:
        """Codes of unit vectors x, (dim,) or (rows, dim) float16/32/64; strict as TurboQuantMSE.quantize."""
        rows, single = checks.unit_norm_rows(x, self.dim)
        packed, radii = self.encode_units(rows.astype(np.float32))
        return Codes._trusted(self._spec, {"packed": packed, "radii": radii}, single)

    def dequantize(self, codes: Codes) -> F32:
        """Reconstruction, float32, (rows, dim) or (dim,)."""
        self._require_own(codes)
        rows = self.backend.unrotate(self.rotation, self.rotated(codes.arrays["packed"], codes.arrays["radii"]))
        return rows[0] if codes.single else rows

    def scores(self, codes: Codes, queries: ArrayLike) -> F32:
        """Estimated inner products, (queries, rows) float32, in the rotated domain."""
        self._require_own(codes)
        asked = self.backend.rotate(self.rotation, checks.query_rows(queries, self.dim))
        rotated = self.rotated(codes.arrays["packed"], codes.arrays["radii"])
        return (asked @ rotated.T) * np.float32(1.0 / self.dim)

    def encode_units(self, units: F32) -> tuple[U8, NDArray[np.float16]]:
        """Packed angles (rows, bytes) and radii (rows, groups) of unit rows, unchecked."""
        scaled = np.rint(self.backend.rotate(self.rotation, units) * np.float32(UNIT))
        radii = np.clip(scaled, -32767, 32767).astype(np.float64) / UNIT
        planes = []
        for book, (_, bits) in zip(self.books, self.levels, strict=True):
            x, y = radii[:, 0::2], radii[:, 1::2]
            planes.append(packing.pack(book.bins(x, y), bits))
            radii = np.sqrt(x * x + y * y)
        return np.concatenate(planes, axis=1), radii.astype(np.float16)

    def rotated(self, packed: U8, radii: NDArray[np.float16]) -> F32:
        """Decoded rows before rotating back, (rows, dim) float32 of unit variance."""
        stops = np.cumsum([packing.row_bytes(values, bits) for values, bits in self.levels])
        values = radii.astype(np.float64)
        for level in range(len(self.levels) - 1, -1, -1):
            count, bits = self.levels[level]
            start = 0 if level == 0 else int(stops[level - 1])
            bins = packing.unpack(packed[:, start : int(stops[level])], count, bits)
            pairs = np.empty((len(packed), count, 2))
            pairs[:, :, 0] = values * self.books[level].cosines[bins]
            pairs[:, :, 1] = values * self.books[level].sines[bins]
            values = pairs.reshape(len(packed), 2 * count)
        return values.astype(np.float32)

    def _require_own(self, codes: Codes) -> None:
        if not isinstance(codes, Codes) or codes._spec != self._spec:
            made = codes._spec if isinstance(codes, Codes) else type(codes).__name__
            raise SpecMismatch(f"these codes were made by {made}, this quantizer is {self._spec}")

    def __repr__(self) -> str:
        arguments = ", ".join(f"{key}={value!r}" for key, value in self._spec.items() if key != "kind")
        return f"PolarQuant({arguments}, backend={self.backend.name!r})"
