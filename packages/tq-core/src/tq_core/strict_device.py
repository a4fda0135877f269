"""A device for tests: host memory behind arrays that are as strict as cupy's, so that no hidden transfer passes.

Its arrays refuse to become numpy arrays, to be mixed with them, and whatever cupy's do not have; what is computed with
them stays in such arrays, numbers included. `HostGpu` is a backend `gpu` made of numpy's operations upon it. It proves
who computes where; that kernels are right is proved elsewhere.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, Self
from unittest.mock import patch

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin
from numpy.typing import NDArray

from tq_core import registry
from tq_core.device import is_on_device, widened
from tq_core.errors import InvalidDtype, WrongDevice
from tq_core.numpy_backend import NumpyBackend
from tq_core.topk import best_rows

# Of numpy's functions those that cupy 13 has and this project asks for, by where arrays come from.
_ARRAYS_TO_ARRAYS = """
    abs all amax amin any argmax argsort argwhere array_equal broadcast_to clip concatenate copyto cumsum empty_like
    expand_dims flatnonzero full_like linalg.norm max min moveaxis nonzero ones_like prod repeat result_type round sort
    squeeze stack sum take take_along_axis tile transpose unique where zeros_like
"""
_METHODS = """
    all any argmax argmin argsort astype clip copy cumsum dot fill flatten nonzero prod ravel repeat reshape sort
    squeeze sum swapaxes take tolist transpose view
"""
FROM_ARRAYS: Final = frozenset(_ARRAYS_TO_ARRAYS.split())
FROM_NOTHING: Final = ("arange", "array", "asarray", "ascontiguousarray", "empty", "eye", "full", "ones", "zeros")
METHODS: Final = frozenset(_METHODS.split())
WAITING: Final = frozenset(("argwhere", "flatnonzero", "nonzero", "tolist", "unique"))  # what is made depends on values
FACTS: Final = ("shape", "dtype", "ndim", "size", "nbytes", "itemsize", "flags", "strides")


class StrictArray(NDArrayOperatorsMixin):
    """An array that only StrictDevice.to_host makes a numpy array of."""

    __array_priority__ = 100

    def __init__(self, held: NDArray[Any]) -> None:
        self._held = held

    def __array__(self, *_: object, **__: object) -> NDArray[Any]:
        raise TypeError("Implicit conversion to a NumPy array is not allowed")

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0  # kDLCUDA: what code under test must take it for

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {**self._held.__array_interface__, "version": 3}

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, out: Any = None, **options: Any) -> Any:
        if method != "__call__" or set(options) - {"dtype", "casting"}:
            raise TypeError(f"{ufunc.__name__}.{method} with {sorted(options)} is nothing that cupy has")
        if out is not None:
            options["out"] = tuple(map(_own, out))
        return _wrapped(getattr(ufunc, method)(*map(_own, inputs), **options))

    def __array_function__(self, function: Callable[..., Any], _: object, args: Any, options: Any) -> Any:
        name = f"{function.__module__}.{function.__name__}".removeprefix("numpy.")
        if name not in FROM_ARRAYS:
            raise TypeError(f"numpy.{name} is not known to be a function of cupy's")
        _Waits.count += name in WAITING
        return _wrapped(function(*map(_own, args), **{key: _own(value) for key, value in options.items()}))

    def __getattr__(self, name: str) -> Any:
        if name in FACTS:
            return getattr(self._held, name)
        if name in METHODS:
            method = getattr(self._held, name)
            _Waits.count += name in WAITING
            return lambda *args, **options: _wrapped(
                method(*map(_own, args), **{key: _own(value) for key, value in options.items()})
            )
        raise AttributeError(f"arrays of cupy have no {name!r}, or it is not asked for here")

    def max(self, axis: Any = None) -> Any:
        """As numpy's, without `initial`, which cupy's methods lack."""
        return _wrapped(self._held.max(axis=axis))

    def min(self, axis: Any = None) -> Any:
        """As `max`."""
        return _wrapped(self._held.min(axis=axis))

    def __getitem__(self, index: Any) -> Any:
        _Waits.count += isinstance(index, StrictArray) and index.dtype == np.bool_
        return _wrapped(self._held[_index(index)])

    def __setitem__(self, index: Any, value: Any) -> None:
        self._held[_index(index)] = _own(value)

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[Any]:
        return (self[number] for number in range(len(self)))

    def __bool__(self) -> bool:
        _Waits.count += 1
        return bool(self._held)

    def __int__(self) -> int:
        _Waits.count += 1
        return int(self._held)

    def __float__(self) -> float:
        _Waits.count += 1
        return float(self._held)

    def __index__(self) -> int:
        _Waits.count += 1
        return self._held.__index__()

    def __repr__(self) -> str:
        return f"StrictArray({self._held!r})"

    def __str__(self) -> str:
        return str(self._held)

    @property
    def T(self) -> Self:  # noqa: N802 - numpy's name
        """Axes reversed."""
        return type(self)(self._held.T)


class StrictModule:
    """numpy's names as an array module of the device, and dtypes as they are."""

    def __getattr__(self, name: str) -> Any:
        if name == "ndarray":
            return StrictArray
        found = getattr(np, name)
        if not callable(found) or isinstance(found, type):
            return found
        if not (isinstance(found, np.ufunc) or name in FROM_ARRAYS or name in FROM_NOTHING):
            raise AttributeError(f"cupy is not known to have {name!r}")

        def call(*args: Any, **options: Any) -> Any:
            # only these take arrays of the host, which is how they come in
            take = _held if name in ("array", "asarray") else _own
            return _wrapped(found(*map(take, args), **{key: take(value) for key, value in options.items()}))

        return call


class StrictDevice:
    """Host memory as a device."""

    label = "logic on CPU"

    def __init__(self) -> None:
        self.xp: Any = StrictModule()
        self.downloads = 0  # calls of to_host, which code under test may be asked to do without

    def asarray(self, host: NDArray[Any]) -> StrictArray:
        """As Device."""
        if not isinstance(host, np.ndarray):
            raise TypeError(f"asarray takes arrays of the host, got {type(host).__name__}")
        return StrictArray(_allocated(np.array(host, order="C")))

    def to_host(self, array: StrictArray) -> NDArray[Any]:
        """As Device."""
        self.downloads += 1
        _Waits.count += 1
        return np.array(array._held)

    def adopt(self, array: object, name: str, *, bits: bool = False) -> StrictArray:
        """As Device; for arrays of this device alone, bfloat16 being that of ml_dtypes."""
        if not is_on_device(array):
            raise WrongDevice(f"{name} lies on the host and is computed with on a device; move it there")
        if not isinstance(array, StrictArray):
            raise WrongDevice(f"{name} lies on another device")
        if array._held.dtype.kind == "V":
            if array._held.dtype.name != "bfloat16":
                raise InvalidDtype(f"{name} cannot be read, its dtype is {array._held.dtype}")
            return StrictArray(array._held.view(np.uint16) if bits else array._held.astype(np.float32))
        return array


class HostGpu(NumpyBackend):
    """A backend `gpu` that is numpy on a StrictDevice: `on_device` takes and returns its arrays."""

    name = "gpu"

    def __init__(self, device: StrictDevice | None = None) -> None:
        self.device = device or StrictDevice()
        self.on_device: Any = _OnDevice(self)

    def search(
        self, plan: Any, packed: Any, scales: Any, gammas: Any, queries: Any, k: int, mask: Any, accuracy: str
    ) -> tuple[Any, Any]:
        """As SearchingBackend; always exact."""
        wide = scales.astype(np.float32)
        residual = None if gammas is None else gammas.astype(np.float32)

        def score(rows: slice, part: Any) -> Any:
            own = None if residual is None else residual[rows]
            return self.scores(plan, packed[rows], wide[rows], own, part)

        return best_rows(score, queries, len(packed), k, mask)


@contextmanager
def installed(backend: Any) -> Iterator[Any]:
    """Within it, `backend` is what the name `gpu` stands for."""
    known = registry.loaders()
    registry._load.cache_clear()
    try:
        with patch.object(registry, "loaders", lambda: known | {backend.name: lambda: backend}):
            yield backend
    finally:
        registry._load.cache_clear()


class _OnDevice:
    """The operations of a backend, for strict arrays and nothing else."""

    def __init__(self, backend: HostGpu) -> None:
        self.encode = _resident(lambda plan, x: backend.encode(plan, widened(x) if x.dtype == np.uint16 else x))
        for name in ("rotate", "unrotate", "decode", "scores", "combine", "search"):
            setattr(self, name, _resident(getattr(backend, name)))


def _resident(operation: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **options: Any) -> Any:
        return _wrapped(operation(*map(_own, args), **options))

    return call


class _Waits:
    count = 0


def waits() -> int:
    """How often the host has waited for strict devices: for numbers, and for arrays whose shapes depend on numbers."""
    return _Waits.count


class DeviceIsFull(MemoryError):
    """What the array module raises, as cupy its own; never what a caller is to see."""


class _Room:
    """How many arrays may yet be made; None: any number."""

    left: int | None = None


@contextmanager
def full_after(arrays: int) -> Iterator[None]:
    """Within it, DeviceIsFull where more than that many arrays are made on strict devices, views apart."""
    _Room.left = arrays
    try:
        yield
    finally:
        _Room.left = None


def _allocated(made: NDArray[Any]) -> NDArray[Any]:
    if _Room.left is not None and made.ndim and made.base is None:
        if not _Room.left:
            raise DeviceIsFull(f"{made.nbytes} bytes asked for")
        _Room.left -= 1
    return made


def _wrapped(made: Any) -> Any:
    """Arrays and numpy's numbers as arrays of the device, also in tuples; all else as it is."""
    if type(made) is tuple:
        return tuple(map(_wrapped, made))
    if isinstance(made, np.generic):
        made = np.array(made)
    return StrictArray(_allocated(made)) if isinstance(made, np.ndarray) else made


def _held(value: Any) -> Any:
    """What is behind arrays of the device, also in lists and tuples; all else as it is."""
    if isinstance(value, StrictArray):
        return value._held
    if type(value) in (list, tuple):
        return type(value)(map(_held, value))
    return value


def _own(value: Any) -> Any:
    """As `_held`, and TypeError for arrays of the host."""
    if isinstance(value, np.ndarray):
        raise TypeError(f"an array of the host, {value.shape} {value.dtype}, is mixed with arrays of a device")
    if type(value) in (list, tuple):
        return type(value)(map(_own, value))
    return _held(value)


def _index(index: Any) -> Any:
    parts = index if isinstance(index, tuple) else (index,)
    if any(isinstance(part, np.ndarray) for part in parts):
        raise TypeError("arrays of a device are indexed by arrays of the device")
    return tuple(map(_held, parts)) if isinstance(index, tuple) else _held(index)
