"""What TurboQuantMSE, TurboQuantProd and TrellisQuant share: one plan, one backend, the strict unit-norm contract."""

from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tq_core import checks, registry
from tq_core.codebook import codebook_of
from tq_core.codes import Codes
from tq_core.device import Device, typed_memory
from tq_core.errors import InvalidSpec, SpecMismatch
from tq_core.flags import look_once
from tq_core.plan import ScalarPlan
from tq_core.rotation import Rotation
from tq_core.sketch import Sketch
from tq_core.spec import Spec, bits_per_vector, validated
from tq_core.trellis_plan import TrellisPlan

F32 = NDArray[np.float32]


class ScalarQuantizer:
    """Rotate, quantize each coordinate, pack. Built from a spec alone; immutable; safe to share between threads."""

    KIND: ClassVar[str]
    plan: ScalarPlan | TrellisPlan

    def __init__(self, spec: Spec, stage_bits: float, sketch: Sketch | None, backend: str) -> None:
        self._spec = spec
        self.backend, self.follows_data = registry.resolve(backend), registry.follows_data(backend)
        rotation = Rotation(spec["dim"], spec["rotation"], spec["seed"])
        self.plan = ScalarPlan(rotation, codebook_of(spec["dim"], stage_bits), "plain", (1.0,), sketch, strict=True)

    @classmethod
    def from_spec(cls, spec: Spec, *, backend: str = "auto") -> Self:
        """The quantizer of a spec dict of this class's kind; `tq_core.from_spec` takes any kind."""
        clean = validated(spec)
        if clean["kind"] != cls.KIND:
            raise InvalidSpec(f"{cls.__name__} is of kind {cls.KIND!r}, got a spec of kind {clean['kind']!r}")
        arguments = {key: value for key, value in clean.items() if key != "kind"}
        return cls(**arguments, backend=backend)

    @property
    def dim(self) -> int:
        """Dimension of the vectors."""
        return self.plan.dim

    @property
    def bits(self) -> int | float:
        """Nominal bits per coordinate; a float where they are a fraction."""
        bits: int | float = self._spec["bits"]
        return bits

    @property
    def seed(self) -> int:
        """Seed of the rotation (and of the sketch)."""
        return int(self._spec["seed"])

    @property
    def spec(self) -> Spec:
        """A plain dict that rebuilds this quantizer: `tq_core.from_spec(spec)`. The backend is no part of it."""
        return dict(self._spec)

    @property
    def bits_per_vector(self) -> int:
        """Bits held for one vector, everything included."""
        return bits_per_vector(self._spec)

    @property
    def tables(self) -> tuple[NDArray[Any], ...]:
        """Arrays of rotation, codebook and sketch, shared by all vectors (the codebook also by other quantizers)."""
        sketch = self.plan.sketch.tables if self.plan.sketch is not None else ()
        return (*self.plan.rotation.tables, *self.plan.codebook.tables, *sketch)

    @property
    def state_nbytes(self) -> int:
        """Bytes of `tables`."""
        return sum(table.nbytes for table in self.tables)

    @typed_memory
    def quantize(self, x: ArrayLike) -> Codes:
        """Codes of unit vectors x, (dim,) or (rows, dim) float16/32/64, any strides.

        An array on a device (cupy, torch, DLPack) is quantized there by `gpu`, bit for bit as on the host, and its
        codes stay there; WrongDevice where the backend, named explicitly, computes on the host.

        Strict: raises InvalidDtype, ShapeMismatch, NotFinite or NotUnitNorm (tolerance 4e-3 / 1e-4 / 1e-6 for
        float16 / 32 / 64) and never normalises. Zero rows of input are legal: `x` of shape (0, dim).
        """
        operations, lies_on = registry.door(self.backend, self.follows_data, x, "x")
        if lies_on is None:
            return self._quantized(operations, None, x)
        return look_once(lambda: self._quantized(operations, lies_on, x))

    def _quantized(self, operations: Any, lies_on: Device | None, x: ArrayLike) -> Codes:
        rows, single = checks.unit_norm_rows(x, self.dim, lies_on)
        packed, _, gammas = operations.encode(self.plan, rows)
        arrays: dict[str, NDArray[Any]] = {"packed": packed}
        if gammas is not None:
            arrays["gammas"] = gammas.astype(np.float16)
        return Codes._trusted(self._spec, arrays, single)

    @typed_memory
    def dequantize(self, codes: Codes) -> F32:
        """Reconstruction, float32, (rows, dim) or (dim,) when a single vector was quantized."""
        self._require_own(codes)
        packed = codes.arrays["packed"]
        operations, lies_on = registry.door(self.backend, self.follows_data, packed, "codes")
        rows: F32 = operations.decode(self.plan, packed, _ones(len(codes), lies_on), _gammas(codes))
        return rows[0] if codes.single else rows

    @typed_memory
    def scores(self, codes: Codes, queries: ArrayLike) -> F32:
        """Estimated inner products, (queries, rows) float32, straight from packed codes.

        `queries` is (dim,) or (queries, dim), finite floats up to 2**64; each is rotated once.
        """
        self._require_own(codes)
        packed = codes.arrays["packed"]
        operations, lies_on = registry.door(self.backend, self.follows_data, packed, "codes")
        asked = checks.query_rows(queries, self.dim, device=lies_on)
        found: F32 = operations.scores(self.plan, packed, _ones(len(codes), lies_on), _gammas(codes), asked)
        return found

    def _require_own(self, codes: Codes) -> None:
        if not isinstance(codes, Codes) or codes._spec != self._spec:
            made = codes._spec if isinstance(codes, Codes) else type(codes).__name__
            raise SpecMismatch(f"these codes were made by {made}, this quantizer is {self._spec}")

    def __repr__(self) -> str:
        arguments = ", ".join(f"{key}={value!r}" for key, value in self._spec.items() if key != "kind")
        return f"{type(self).__name__}({arguments}, backend={self.backend.name!r})"


def _ones(rows: int, lies_on: Device | None) -> F32:
    ones: F32 = (np if lies_on is None else lies_on.xp).ones(rows, np.float32)
    return ones


def _gammas(codes: Codes) -> F32 | None:
    return codes.arrays["gammas"].astype(np.float32) if "gammas" in codes.arrays else None
