"""Immutable containers of packed rows: what a quantizer (Codes) or a codec (Encoded) returns."""

import reprlib
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from tq_core import checks, container, packing, registry
from tq_core.device import Device, is_on_device, require_together, typed_memory
from tq_core.errors import CorruptData, InvalidSpec, RowOutOfRange, ShapeMismatch, SpecMismatch
from tq_core.spec import Spec, fields, packed_parts, validated


class Codes:
    """Packed rows of one quantizer: `spec` says how to read them, `arrays` holds them, rows first, read-only.

    `len()` counts rows; `codes[2:5]`, `codes[index_array]`, `codes[mask]` and `codes[3]` select them (slices of step
    one share memory); `concatenate` joins; equality is of spec and bytes. `single` marks codes of one (dim,) vector.
    The constructor shares the caller's arrays and refuses what `from_bytes` would refuse.
    Rows made from an array on a device lie there: their `arrays` are that device's, and `to_host` copies them.
    """

    KIND = "codes"

    def __init__(self, spec: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], *, single: bool = False) -> None:
        self._spec = validated(spec)
        if not self._holds(self._spec):
            raise SpecMismatch(f"{type(self).__name__} cannot hold rows of a {self._spec['kind']} spec")
        self._arrays = _checked(self._spec, arrays)
        held = _host_arrays(self._arrays)
        _check_packed(self._spec, held["packed"])
        _check_scalars(held)
        self._single = single
        if single and len(self) != 1:
            raise ShapeMismatch(f"codes of a single vector have one row, got {len(self)}")

    @classmethod
    def _trusted(cls, spec: Spec, arrays: Mapping[str, NDArray[Any]], single: bool) -> Self:
        """Take over arrays that this package has just made to measure: nobody else writes them from here on."""
        self = cls.__new__(cls)
        self._spec, self._single = spec, single
        for array in arrays.values():
            if isinstance(array, np.ndarray):  # arrays of devices have no such flag
                array.setflags(write=False)  # on the owner, so that no view of it can be made writable again
        self._arrays = MappingProxyType({name: array.view() for name, array in arrays.items()})
        return self

    @classmethod
    def _viewing(cls, spec: Spec, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Wrap a caller's arrays of validated spec: names, shapes and dtypes are checked, contents are not."""
        self = cls.__new__(cls)
        self._spec, self._single, self._arrays = spec, False, _checked(spec, arrays)
        return self

    @classmethod
    def _holds(cls, spec: Spec) -> bool:
        return bool(spec["kind"] == "codec") == (cls.KIND == "encoded")

    @property
    def spec(self) -> Spec:
        """A copy of the spec; `from_spec(codes.spec)` is the quantizer that reads these rows."""
        return validated(self._spec)

    @property
    def arrays(self) -> Mapping[str, NDArray[Any]]:
        """Read-only arrays by name, each (rows, width) or (rows,)."""
        return self._arrays

    @property
    def on_device(self) -> bool:
        """Whether the arrays lie on a device."""
        return is_on_device(self._arrays["packed"])

    def to_host(self) -> Self:
        """The same rows with arrays of the host; itself where they lie there."""
        return self._trusted(self._spec, _host_arrays(self._arrays), self._single) if self.on_device else self

    @typed_memory
    def to_device(self) -> Self:
        """The same rows on the device of the backend `gpu`; itself where they lie there.

        BackendUnavailable without a device. InvalidSpec for rows of PolarQuant and QJL, which only the host reads.
        """
        if self.on_device:
            return self
        kind = self._spec.get("quantizer", self._spec)["kind"]
        if kind in ("polar", "qjl"):
            raise InvalidSpec(f"rows of kind {kind!r} are read by the host only")
        device = _gpu()
        held = {name: device.asarray(array) for name, array in self._arrays.items()}
        return self._trusted(self._spec, held, self._single)

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

    @typed_memory
    def __getitem__(self, index: Any) -> Self:
        rows = len(self)
        if isinstance(index, (int, np.integer)) and not isinstance(index, bool):
            if not -rows <= index < rows:
                raise RowOutOfRange(f"there are {rows} rows, got row {index}")
            start = int(index) % rows
            picked = {name: array[start : start + 1] for name, array in self._arrays.items()}
            return self._trusted(self._spec, picked, True)
        if isinstance(index, slice):
            # backends read C-contiguous rows; a slice of step one is, and is not copied
            cut = {name: _contiguous(array[index]) for name, array in self._arrays.items()}
            return self._trusted(self._spec, cut, False)
        if is_on_device(index):  # a mask or indices made there; looked at here, as rows of the host are picked
            index = _to_host(index)
        rows_wanted = checks.as_array(index, "the index")
        if rows_wanted.size == 0 and rows_wanted.ndim == 1 and rows_wanted.dtype != np.bool_:
            rows_wanted = rows_wanted.astype(np.intp)  # an empty list comes as float64
        if rows_wanted.ndim != 1 or rows_wanted.dtype.kind not in "iub":
            raise ShapeMismatch(f"rows are selected by an int, a slice or a 1-D index or mask, got {index!r:.80}")
        if rows_wanted.dtype == np.bool_ and len(rows_wanted) != rows:
            raise ShapeMismatch(f"a mask over {rows} rows has {rows} entries, got {len(rows_wanted)}")
        if rows_wanted.dtype != np.bool_ and ((rows_wanted < -rows) | (rows_wanted >= rows)).any():
            raise RowOutOfRange(f"there are {rows} rows, got indices from {rows_wanted.min()} to {rows_wanted.max()}")
        if rows_wanted.dtype == np.bool_:
            rows_wanted = np.flatnonzero(rows_wanted)
        at = _gpu().asarray(rows_wanted) if self.on_device else rows_wanted
        picked = {name: array.take(at, axis=0) for name, array in self._arrays.items()}
        return self._trusted(self._spec, picked, False)

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return (
            self._spec == other._spec
            and len(self) == len(other)
            and self.on_device == other.on_device
            and all(bool(np.array_equal(array, other._arrays[name])) for name, array in self._arrays.items())
        )

    __hash__ = None  # type: ignore[assignment]  # equal by content, and content may be large

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} rows, {self.nbytes} bytes, spec={self._spec})"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).from_bytes, (self.to_bytes(),)

    @classmethod
    @typed_memory
    def concatenate(cls, parts: Iterable[Self]) -> Self:
        """Rows of all parts in order; they must be of this class and share one spec."""
        held = list(parts)
        if not held:
            raise ShapeMismatch("concatenate needs at least one part")
        first = held[0]
        for part in held:
            if type(part) is not cls:
                raise SpecMismatch(f"{cls.__name__}.concatenate joins {cls.__name__} only, got {type(part).__name__}")
            if part._spec != first._spec:
                raise SpecMismatch(f"parts differ in spec: {first._spec} and {part._spec}")
            require_together(first=first._arrays["packed"], part=part._arrays["packed"])
        joined = {name: np.concatenate([part._arrays[name] for part in held]) for name in first._arrays}
        return cls._trusted(first._spec, joined, False)

    def to_bytes(self) -> bytes:
        """The rows in the container of docs/format.md, section 8: versioned, checksummed, self-describing."""
        header = {"kind": self.KIND, "rows": len(self), "single": self._single, "spec": self._spec}
        kinds, held = fields(self._spec), _host_arrays(self._arrays)
        payload = b"".join(held[name].astype(kinds[name][1], copy=False).tobytes() for name in kinds)
        return container.seal(header, payload)

    @classmethod
    def from_bytes(cls, data: bytes | bytearray | memoryview) -> Self:
        """Read what `to_bytes` wrote. Raises CorruptData or FormatVersion; nothing is trusted before it is verified."""
        header, payload = container.open_sealed(data)
        rows, single = _header_facts(header, cls.KIND)
        spec = container.checked_spec(header["spec"])
        if not cls._holds(spec):
            raise CorruptData(f"these bytes say they hold {cls.KIND!r} of a {spec['kind']} spec, which cannot be")
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
        _check_packed(spec, arrays["packed"])
        _check_scalars(arrays)
        return cls._trusted(spec, arrays, single)


class Encoded(Codes):
    """Packed rows of a VectorCodec: codes with one scale a row beside them."""

    KIND = "encoded"


def _checked(spec: Spec, arrays: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
    kinds = fields(spec)
    if set(arrays) != set(kinds):
        raise ShapeMismatch(f"a {spec['kind']} spec has the arrays {list(kinds)}, got {list(arrays)}")
    on_device = any(map(is_on_device, arrays.values()))
    if on_device:
        require_together(**arrays)
    rows = len(arrays["packed"] if on_device else np.atleast_1d(arrays["packed"]))
    checked = {}
    for name, (width, dtype) in kinds.items():
        array = _gpu().adopt(arrays[name], name) if on_device else np.asarray(arrays[name])
        shape = (rows,) if width is None else (rows, width)
        if array.shape != shape or array.dtype != dtype:
            raise ShapeMismatch(f"{name} must be {shape} {dtype}, got {array.shape} {array.dtype}")
        if on_device:
            checked[name] = _contiguous(array)
        else:
            checked[name] = np.require(array, requirements=["C", "A"]).view()
            checked[name].setflags(write=False)
    return MappingProxyType(checked)


@typed_memory
def _contiguous(array: Any) -> Any:
    """The array, or a C-contiguous copy of it, where it lies."""
    return array if array.flags.c_contiguous else array.copy()


def _host_arrays(arrays: Mapping[str, Any]) -> Mapping[str, NDArray[Any]]:
    """The arrays on the host, without a copy of those that lie there."""
    return {name: _to_host(array) if is_on_device(array) else array for name, array in arrays.items()}


def _to_host(array: Any) -> NDArray[Any]:
    return _gpu().to_host(array)


def _gpu() -> Device:
    device = registry.device_of(registry.load("gpu"))
    assert device is not None, "the backend gpu has a device"
    return device


def _header_facts(header: dict[str, Any], kind: str) -> tuple[int, bool]:
    if set(header) != {"kind", "rows", "single", "spec"}:
        raise CorruptData(f"header has the keys {sorted(header)}, expected kind, rows, single, spec")
    if header["kind"] != kind:
        raise CorruptData(f"these bytes hold {reprlib.repr(header['kind'])}, expected {kind!r}")
    rows, single = header["rows"], header["single"]
    if type(rows) is not int or rows < 0 or type(single) is not bool or (single and rows != 1):
        raise CorruptData(f"header says rows={reprlib.repr(rows)}, single={reprlib.repr(single)}")
    return rows, single


def _check_packed(spec: Spec, packed: NDArray[np.uint8]) -> None:
    for offset, values, bits in packed_parts(spec):
        packing.require_packed(packed[:, offset:], values, bits)


def _check_scalars(arrays: Mapping[str, NDArray[Any]]) -> None:
    for name, array in arrays.items():
        if name != "packed" and not (np.isfinite(array).all() and not np.signbit(array).any()):
            raise CorruptData(f"{name} must be finite and not negative")
