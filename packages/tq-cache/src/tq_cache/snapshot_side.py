"""One side of a layer in a snapshot: its tensors when it is written, and how it is put upon those of a mapped file."""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tq_cache.basis import Basis, first_channels
from tq_cache.floats import require_float32
from tq_cache.grammar import GIVEN
from tq_cache.mapped import MappedTokenArray, Seal
from tq_cache.safetensors_file import SealedFile
from tq_cache.side import Side
from tq_core import CorruptData, ScaleRange

Array = NDArray[Any]
F32 = NDArray[np.float32]

EXACT: Final = ("sinks", "window")
FLOATS: Final = ("float16", "float32", "float64")


def tensors_of(prefix: str, side: Side) -> dict[str, Array]:
    """All that the side holds, by name, on the host."""
    found = {prefix + _name(name): array.view for name, array in side.coded.items()}
    found |= {prefix + "sinks": side.sinks.view, prefix + "window": side.recent.view}
    mean, order = side.basis or side.known
    if mean is not None:
        found[prefix + "mean"] = mean
    if order is not None:
        found[prefix + "channels"] = order[:, : side.needs.channels].astype(np.int64)
    return {name: side.place.to_host(array) for name, array in found.items()}


class SideReader:
    """Fills empty sides from the tensors of one file; every message begins with its path."""

    def __init__(self, file: SealedFile) -> None:
        self._file = file

    def corrupt(self, what: str) -> CorruptData:
        """An error about the file."""
        return CorruptData(f"{self._file.path}: {what}")

    def tensor(self, name: str) -> Array:
        """The tensor of that name, unverified; CorruptData if there is none."""
        if name not in self._file.tensors:
            raise self.corrupt(f"{name} is missing")
        return self._file.tensors[name].array

    def expect(self, name: str, shape: tuple[int, ...], dtypes: tuple[str, ...]) -> None:
        """CorruptData unless the tensor has that shape and one of those dtypes."""
        array = self.tensor(name)
        if array.shape != shape or array.dtype.name not in dtypes:
            raise self.corrupt(f"{name} must be {' or '.join(dtypes)} {shape}, got {array.dtype} {array.shape}")

    def fill(self, prefix: str, side: Side) -> set[str]:
        """Put the tokens of the file into an empty side; the names of the tensors that it takes."""
        names = {name: prefix + _name(name) for name in (*side.coded, *EXACT)}
        coded = self.tensor(names["packed"])
        count = coded.shape[1] if coded.ndim > 1 else 0
        for name, (width, dtype) in side.codec.fields.items():
            tail = () if width is None else (width,)
            self.expect(names[name], (side.lanes, count, *tail), (dtype.name,))
        for name in EXACT:
            array = self.tensor(names[name])
            count = array.shape[1] if array.ndim > 1 else 0
            self.expect(names[name], (side.lanes, count, side.dim), FLOATS)
        arrays = {name: self.tensor(full) for name, full in names.items()}
        seal = Seal(lambda: self._verify_side(prefix, side, names, arrays))
        held = {name: MappedTokenArray(array, seal, side.place) for name, array in arrays.items()}
        sinks, window = (held.pop(name) for name in EXACT)
        basis = Basis(self._mean(prefix + "mean", side), self._order(prefix + "channels", side))
        learned = ((side.needs.mean, basis.mean), (side.needs.split, basis.order))
        if len({array is None for need, array in learned if need and need != GIVEN}) > 1:
            raise self.corrupt(f"{prefix[:-1]} has either mean or channels, which are learned together")
        side.adopt(held, sinks, window, basis)
        known = {"mean": basis.mean, "channels": basis.order}
        return set(names.values()) | {prefix + name for name, array in known.items() if array is not None}

    def _mean(self, name: str, side: Side) -> F32 | None:
        """A mean of each lane, verified now: it is small, and what is decoded depends on it; None if not known yet."""
        if not self._is_known(name, side.needs.mean):
            return None
        self.expect(name, (side.lanes, side.dim), ("float32",))
        self._file.verify(name)
        mean = np.array(self.tensor(name), np.float32)
        if not np.isfinite(mean).all():
            raise self.corrupt(f"{name} has numbers that are not finite")
        placed: F32 = side.place.asarray(mean)
        return placed

    def _order(self, name: str, side: Side) -> NDArray[np.intp] | None:
        """As `_mean`: the order in which channels are encoded, from those that come first."""
        if not self._is_known(name, side.needs.split):
            return None
        self.expect(name, (side.lanes, side.needs.channels), ("int64",))
        self._file.verify(name)
        first = self.tensor(name)
        if not ((first >= 0) & (first < side.dim)).all() or not (np.diff(first, axis=1) > 0).all():
            raise self.corrupt(f"{name} must name channels of {side.dim} in ascending order")
        chosen = np.zeros((side.lanes, side.dim), bool)
        np.put_along_axis(chosen, first, True, axis=1)
        placed: NDArray[np.intp] = side.place.asarray(first_channels(chosen))
        return placed

    def _is_known(self, name: str, need: int | str) -> bool:
        """Whether the file has it; CorruptData where it was given and is missing. Where it has no use it is left."""
        return bool(need) and (need == GIVEN or name in self._file.tensors)

    def _verify_side(self, prefix: str, side: Side, names: Mapping[str, str], arrays: Mapping[str, Array]) -> None:
        """Checksums first; then that a stranger who made them right wrote only what a cache can hold."""
        for name in names.values():
            self._file.verify(name)
        for name in EXACT:
            if not np.isfinite(arrays[name]).all():
                raise self.corrupt(f"{names[name]} has numbers that are not finite")
            try:
                require_float32(arrays[name], names[name])
            except ScaleRange as error:
                raise self.corrupt(str(error)) from error
        coded = {name: array for name, array in arrays.items() if name not in EXACT}
        try:
            side.codec.check({name: array.reshape(-1, *array.shape[2:]) for name, array in coded.items()})
        except CorruptData as error:
            raise self.corrupt(f"{prefix[:-1]}: {error}") from error


def _name(field: str) -> str:
    return field.removesuffix("packed") + "codes" if field.endswith("packed") else field
