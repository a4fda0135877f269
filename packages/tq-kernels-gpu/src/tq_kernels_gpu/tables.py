"""Tables of rotations and plans on a device, uploaded once and kept as long as device and rotation live."""

from collections.abc import Callable
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary, ref

import numpy as np
from numpy.typing import NDArray

from tq_core.rotation import Rotation
from tq_kernels_gpu.device import Argument, Array, Device
from tq_kernels_gpu.errors import NotUploaded


class RotationTables(NamedTuple):
    """A Hadamard rotation on a device, or the matrix of a dense one."""

    signs: Array  # (rounds, ceil(dim / 32)) uint32: bit j & 31 of word j >> 5 negates coordinate j
    permutations: Array  # (rounds - 1, dim) int32, or None
    matrix: Array  # (dim, dim) float64, or None
    dim: int
    rounds: int
    order: int
    factor: float
    inverse_factor: float

    def arguments(self, *, inverse: bool) -> tuple[Argument, ...]:
        """The kernel parameters `signs, permutations, dim, rounds, order, factor`."""
        factor = self.inverse_factor if inverse else self.factor
        numbers = np.int32(self.dim), np.int32(self.rounds), np.int32(self.order)
        return (self.signs, self.permutations, *numbers, np.float32(factor))

    @property
    def buffers(self) -> int:
        """Rows of floats that a block needs to apply it."""
        return 1 if self.permutations is None else 2


class Kept:
    """What was uploaded for one device: made at first use, by an owner that keeps it alive and a key.

    It is there when it is kept: whoever takes it may launch on another stream, which waits for no upload.
    """

    def __init__(self, device: Device) -> None:
        self._device = ref(device)  # its key in _kept: to hold it would be to hold it forever
        self._of_owner: WeakKeyDictionary[object, dict[object, Any]] = WeakKeyDictionary()

    def get(self, owner: object, key: object, make: Callable[[], Any]) -> Any:
        """The object of `owner` and `key`; threads that ask at once may each make it, and one copy stays.

        NotUploaded where it would be made by a graph that is being captured, and so not before that runs.
        """
        held = self._of_owner.setdefault(owner, {})
        found = held.get(key)
        if found is not None:
            return found
        device = self._device()
        assert device is not None  # its caller holds it
        if device.capturing:
            raise NotUploaded("a graph cannot capture the upload of tables; make the same call once before capturing")
        made = make()
        device.wait()
        return held.setdefault(key, made)


_kept: WeakKeyDictionary[Device, Kept] = WeakKeyDictionary()


def kept(device: Device) -> Kept:
    """What was uploaded for that device."""
    found = _kept.get(device)
    return _kept.setdefault(device, Kept(device)) if found is None else found


def rotation_tables(device: Device, rotation: Rotation) -> RotationTables:
    """The tables of a rotation, uploaded at first use."""
    tables: RotationTables = kept(device).get(rotation, "rotation", lambda: _upload_rotation(device, rotation))
    return tables


def _upload_rotation(device: Device, rotation: Rotation) -> RotationTables:
    permutations, matrix = rotation.permutations, rotation.matrix
    return RotationTables(
        signs=device.asarray(sign_words(rotation.signs)),
        permutations=None if permutations is None else device.asarray(permutations.astype(np.int32)),
        matrix=None if matrix is None else device.asarray(matrix.astype(np.float64)),
        dim=rotation.dim,
        rounds=rotation.rounds,
        order=rotation.order,
        factor=rotation.factor,
        inverse_factor=rotation.inverse_factor,
    )


def sign_words(signs: NDArray[np.float32]) -> NDArray[np.uint32]:
    """Signs (rows, dim) as bits, 1 where negative: (rows, ceil(dim / 32)) uint32."""
    rows, dim = signs.shape
    padded = np.zeros((rows, -(-dim // 32) * 32), np.bool_)
    padded[:, :dim] = signs < 0
    return np.packbits(padded, axis=1, bitorder="little").view("<u4").astype(np.uint32)
