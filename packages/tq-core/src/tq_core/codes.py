"""Immutable containers of packed rows: what a quantizer (Codes) or a codec (Encoded) returns."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from tq_core import container, packing
from tq_core.errors import CorruptData, ShapeMismatch, SpecMismatch
from tq_core.spec import Spec, fields, padding_planes, validated


class Codes:
    """Packed rows of one quantizer: `spec` says how to read them, `arrays` holds them, rows first, read-only.

    `len()` counts rows; `codes[2:5]`, `codes[index_array]`, `codes[mask]` and `codes[3]` select them (slices share
    memory); `concatenate` joins; equality is of spec and bytes. `single` marks codes of one (dim,) vector.
    """

    KIND = "codes"

    def __init__(self, spec: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], *, single: bool = False) -> None:
        self._spec = validated(spec)
        if (self._spec["kind"] == "codec") != (self.KIND == "encoded"):
            raise SpecMismatch(f"{type(self).__name__} cannot hold rows of a {self._spec['kind']} spec")
        self._arrays = _checked(self._spec, arrays)
        self._single = single
        if single and len(self) != 1:
            raise ShapeMismatch(f"codes of a single vector have one row, got {len(self)}")

    @classmethod
    def _trusted(cls, spec: Spec, arrays: Mapping[str, NDArray[Any]], single: bool) -> Self:
        """Wrap arrays that this package has just made to measure."""
        self = cls.__new__(cls)
        self._spec, self._single = spec, single
        views = {name: array.view() for name, array in arrays.items()}
        for view in views.values():
            view.setflags(write=False)
        self._arrays = MappingProxyType(views)
        return self

    @property
    def spec(self) -> Spec:
        """A copy of the spec; `from_spec(codes.spec)` is the quantizer that reads these rows."""
        return validated(self._spec)

    @property
    def arrays(self) -> Mapping[str, NDArray[Any]]:
        """Read-only arrays by name, each (rows, width) or (rows,)."""
        return self._arrays

    @property
    def single(self) -> bool:
        """Whether these are the codes of one (dim,) vector."""
        return self._single

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays held, exactly."""
        return sum(array.nbytes for array in self._arrays.values())

    def __len__(self) -> int:
        return len(self._arrays["packed"])

    def __getitem__(self, index: Any) -> Self:
        if isinstance(index, (int, np.integer)):
            rows = len(self)
            if not -rows <= index < rows:
                raise IndexError(f"row {index} of {rows}")
            start = int(index) % rows
            picked = {name: array[start : start + 1] for name, array in self._arrays.items()}
            return self._trusted(self._spec, picked, True)
        if isinstance(index, slice):
            return self._trusted(self._spec, {name: array[index] for name, array in self._arrays.items()}, False)
        rows_wanted = np.asarray(index)
        if rows_wanted.ndim != 1 or rows_wanted.dtype.kind not in "iub":
            raise ShapeMismatch(f"rows are selected by an int, a slice or a 1-D index or mask, got {index!r:.80}")
        return self._trusted(self._spec, {name: array[rows_wanted] for name, array in self._arrays.items()}, False)

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return (
            self._spec == other._spec
            and len(self) == len(other)
            and all(bool(np.array_equal(array, other._arrays[name])) for name, array in self._arrays.items())
        )

    __hash__ = None  # type: ignore[assignment]  # equal by content, and content may be large

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} rows, {self.nbytes} bytes, spec={self._spec})"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).from_bytes, (self.to_bytes(),)

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        """Rows of all parts in order; they must share one spec."""
        if not parts:
            raise ShapeMismatch("concatenate needs at least one part")
        first = parts[0]
        for part in parts[1:]:
            if part._spec != first._spec:
                raise SpecMismatch(f"parts differ in spec: {first._spec} and {part._spec}")
        joined = {name: np.concatenate([part._arrays[name] for part in parts]) for name in first._arrays}
        return cls._trusted(first._spec, joined, False)

    def to_bytes(self) -> bytes:
        """The rows in the container of docs/format.md, section 8: versioned, checksummed, self-describing."""
        header = {"kind": self.KIND, "rows": len(self), "single": self._single, "spec": self._spec}
        kinds = fields(self._spec)
        payload = b"".join(self._arrays[name].astype(kinds[name][1], copy=False).tobytes() for name in kinds)
        return container.seal(header, payload)

    @classmethod
    def from_bytes(cls, data: bytes | bytearray | memoryview) -> Self:
        """Read what `to_bytes` wrote. Raises CorruptData or FormatVersion; nothing is trusted before it is verified."""
        header, payload = container.open_sealed(data)
        rows, single = _header_facts(header, cls.KIND)
        spec = container.checked_spec(header["spec"])
        kinds = fields(spec)
        row_size = sum((width or 1) * dtype.itemsize for width, dtype in kinds.values())
        if rows * row_size != len(payload):
            raise CorruptData(f"{rows} rows of {row_size} bytes expected, but the payload has {len(payload)} bytes")
        arrays, start = {}, 0
        for name, (width, dtype) in kinds.items():
            size = rows * (width or 1) * dtype.itemsize
            flat = np.frombuffer(payload[start : start + size], dtype)
            arrays[name] = (flat if width is None else flat.reshape(rows, width)).copy()
            start += size
        _check_padding(spec, arrays["packed"])
        _check_scalars(arrays)
        return cls._trusted(spec, arrays, single)


class Encoded(Codes):
    """Packed rows of a VectorCodec: codes with one scale a row beside them."""

    KIND = "encoded"


def _checked(spec: Spec, arrays: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
    kinds = fields(spec)
    if set(arrays) != set(kinds):
        raise ShapeMismatch(f"a {spec['kind']} spec has the arrays {list(kinds)}, got {list(arrays)}")
    rows = len(np.atleast_1d(arrays["packed"]))
    checked = {}
    for name, (width, dtype) in kinds.items():
        array = np.asarray(arrays[name])
        shape = (rows,) if width is None else (rows, width)
        if array.shape != shape or array.dtype != dtype:
            raise ShapeMismatch(f"{name} must be {shape} {dtype}, got {array.shape} {array.dtype}")
        checked[name] = array.view()
        checked[name].setflags(write=False)
    return MappingProxyType(checked)


def _header_facts(header: dict[str, Any], kind: str) -> tuple[int, bool]:
    if set(header) != {"kind", "rows", "single", "spec"}:
        raise CorruptData(f"header has the keys {sorted(header)}, expected kind, rows, single, spec")
    if header["kind"] != kind:
        raise CorruptData(f"these bytes hold {header['kind']!r}, expected {kind!r}")
    rows, single = header["rows"], header["single"]
    if type(rows) is not int or rows < 0 or type(single) is not bool or (single and rows != 1):
        raise CorruptData(f"header says rows={rows!r}, single={single!r}")
    return rows, single


def _check_padding(spec: Spec, packed: NDArray[np.uint8]) -> None:
    for offset, values, bits in padding_planes(spec):
        if not packing.has_clean_padding(packed[:, offset:], values, packing.PLANES[bits]):
            raise CorruptData("padding bits of a packed row are not zero")


def _check_scalars(arrays: Mapping[str, NDArray[Any]]) -> None:
    for name, array in arrays.items():
        if name != "packed" and not (np.isfinite(array).all() and (array >= 0).all()):
            raise CorruptData(f"{name} must be finite and not negative")
