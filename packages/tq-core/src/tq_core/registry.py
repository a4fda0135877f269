"""Backends: the protocol, lazy discovery through entry points, and who runs what.

An explicit name never falls back; `auto` may, and warns. Resolved once, in a quantizer's constructor.
"""

import os
import warnings
from collections.abc import Callable
from functools import cache, lru_cache, partial
from typing import TYPE_CHECKING, Any, Final, Protocol, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from tq_core.device import Device, is_on_device
from tq_core.errors import BackendUnavailable, InvalidSpec, WrongDevice
from tq_core.plan import ScalarPlan
from tq_core.rotation import Rotation
from tq_core.sketch import Sketch
from tq_core.trellis_plan import TrellisPlan

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP: Final = "tq.backends"
API_VERSION: Final = 1
AUTO_ORDER: Final = ("simd", "numpy")  # `gpu` follows the data, `scalar` is the oracle and never automatic

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]
Plan = ScalarPlan | TrellisPlan


@runtime_checkable
class Backend(Protocol):
    """What a kernel package implements; `tq_core.testing.check_backend` is this contract as a test.

    Arrays come validated, C-contiguous and aligned, and are never written to; rows may be none. A result is a new
    C-contiguous array. Operations are called from several threads at once. `rotate`, `unrotate` (hadamard), `encode`
    and `sketch` equal those of `numpy` bit for bit; `decode`, `scores`, `combine`, `unsketch` and `sketch_scores`
    within rounding.
    """

    name: str  # the entry point's name
    api_version: int  # API_VERSION of the tq-core it was written for

    def rotate(self, rotation: Rotation, x: F32) -> F32:
        """z = sqrt(dim) P x, (rows, dim)."""

    def unrotate(self, rotation: Rotation, z: F32) -> F32:
        """P^T z / sqrt(dim), (rows, dim)."""

    def encode(self, plan: Plan, x: NDArray[np.floating]) -> tuple[U8, F32, F32 | None]:
        """Packed rows (rows, plan.row_bytes), scales (rows,), residual norms (rows,) or None without a sketch.

        x is float16, float32 or float64 as the user gave it: norms are taken before any narrowing. A scale or norm
        beyond float32 comes out infinite or NaN, and the caller refuses the row.
        """

    def decode(self, plan: Plan, packed: U8, scales: F32, gammas: F32 | None) -> F32:
        """Reconstructed rows, (rows, dim); scales and gammas (rows,) as the caller stored them."""

    def scores(
        self, plan: Plan, packed: U8, scales: F32, gammas: F32 | None, queries: F32, *, accuracy: str = "exact"
    ) -> F32:
        """Estimated inner products, (queries, rows); at "int16" or "int8" with the error that VectorCodec states."""

    def combine(self, plan: Plan, packed: U8, scales: F32, gammas: F32 | None, weights: F32) -> F32:
        """Weighted sums of decoded rows: weights (sums, rows) times `decode`, (sums, dim)."""

    def sketch(self, sketch: Sketch, residuals: NDArray[np.int64]) -> U8:
        """Sign bits of integer rows, (rows, ceil(projections / 8)), unused bits 0."""

    def unsketch(self, sketch: Sketch, bits: U8) -> F32:
        """Reconstruction of unit residuals, (rows, dim)."""

    def sketch_scores(self, sketch: Sketch, bits: U8, queries: F32) -> F32:
        """Estimated inner products with unit residuals, (queries, rows)."""


class SearchingBackend(Backend, Protocol):
    """A backend with its own top-k search, which VectorCodec.search then uses; others search tile by tile."""

    def search(
        self,
        plan: Plan,
        packed: U8,
        scales: NDArray[np.floating],
        gammas: NDArray[np.floating] | None,
        queries: F32,
        k: int,
        mask: NDArray[np.bool_] | None,
        accuracy: str,
    ) -> tuple[F32, NDArray[np.int64]]:
        """Scores and indices, (queries, k), as VectorCodec.search states; scales and gammas in float16 or float32."""


class DeviceBackend(SearchingBackend, Protocol):
    """A backend of a device. Its operations take arrays of the host, those of `on_device` arrays of the device.

    `encode` takes the bits of bfloat16, uint16, too.
    """

    device: Device

    @property
    def on_device(self) -> SearchingBackend:
        """The same operations for arrays of the device, whose results lie there, too."""


def _numpy() -> Any:
    from tq_core import numpy_backend

    return numpy_backend.load()


def _scalar() -> Any:
    from tq_core import scalar

    return scalar.load()


_BUILT_IN: Final[dict[str, Callable[[], Any]]] = {"numpy": _numpy, "scalar": _scalar}


@lru_cache(maxsize=1)
def loaders() -> dict[str, Callable[[], Any]]:
    """Loader of every backend by name: the built-in ones and those installed under `tq.backends`."""
    from importlib.metadata import entry_points  # costs tens of milliseconds: not at import

    found = dict(_BUILT_IN)
    for point in entry_points(group=GROUP):
        if point.name in found:
            raise BackendUnavailable(point.name, "two distributions register this name", "uninstall one of them")
        found[point.name] = partial(_run_loader, point)
    return found


def _run_loader(point: "EntryPoint") -> Any:
    """Import what an entry point names, a loader without arguments, and call it."""
    return point.load()()


def load(name: str) -> Backend:
    """The backend of that name, or BackendUnavailable with the reason; InvalidSpec for what is no name."""
    if not isinstance(name, str):
        raise InvalidSpec(f"backend must be a name such as 'auto' or 'numpy', got {name!r:.80}")
    return _load(name)


@cache
def _load(name: str) -> Backend:
    loader = _BUILT_IN.get(name) or loaders().get(name)
    if loader is None:
        hint = f"pip install tq-kernels-{name}" if name in ("simd", "gpu") else f"known: {', '.join(sorted(loaders()))}"
        raise BackendUnavailable(name, "no such backend is installed", hint)
    try:
        backend = loader()
    except BackendUnavailable:
        raise
    except (ImportError, OSError, AttributeError) as error:  # the last: an entry point that names nothing
        raise BackendUnavailable(name, str(error)) from error
    if getattr(backend, "api_version", None) != API_VERSION:
        version = getattr(backend, "api_version", None)
        raise BackendUnavailable(name, f"it speaks API version {version}, this tq-core {API_VERSION}", "upgrade both")
    if not isinstance(backend, Backend):
        raise BackendUnavailable(name, f"{type(backend).__name__} lacks operations of the Backend protocol")
    if backend.name != name:
        raise BackendUnavailable(name, f"its loader returned a backend that calls itself {backend.name!r}")
    return backend


def resolve(name: str = "auto") -> Backend:
    """Turn `backend=` into a backend. `auto` means what TQ_BACKEND names, else simd if it can run, else numpy."""
    if name == "auto":
        name = os.environ.get("TQ_BACKEND") or "auto"
    if name != "auto":
        return load(name)
    known = loaders()
    for candidate in AUTO_ORDER:
        if candidate in known:
            try:
                return load(candidate)
            except BackendUnavailable as error:
                warnings.warn(f"{error}; trying the next one", RuntimeWarning, stacklevel=3)
    raise AssertionError("numpy is always loadable")


def follows_data(name: str) -> bool:
    """Whether `backend=name` leaves the choice to us, so that data on a device is computed with where it lies."""
    return name == "auto" and (os.environ.get("TQ_BACKEND") or "auto") == "auto"


def device_of(backend: Backend) -> Device | None:
    """The device of a backend; None for one that computes on the host."""
    device: Device | None = getattr(backend, "device", None)
    return device


def door(backend: Backend, follows: bool, x: object, name: str) -> tuple[Any, Device | None]:
    """Which operations take x, and the device it lies on; None is the host.

    `follows`: the backend was not asked for by name and gives way to `gpu` for data on a device. WrongDevice for such
    data and a backend of the host, BackendUnavailable where `gpu` cannot run.
    """
    if type(x) is np.ndarray or not is_on_device(x):
        return backend, None
    chosen = load("gpu") if follows else backend
    device = device_of(chosen)
    if device is None:
        raise WrongDevice(
            f"{name} lies on a device and backend {backend.name!r} computes on the host; "
            "copy it to the host, or ask for backend='gpu' (or 'auto', which follows the data)"
        )
    return cast(DeviceBackend, chosen).on_device, device


def backends() -> dict[str, str]:
    """Every known backend and whether it can run here: 'ok', or the reason why not."""
    state = {}
    for name in sorted(loaders()):
        try:
            load(name)
            state[name] = "ok"
        except BackendUnavailable as error:
            state[name] = error.reason
    return state
