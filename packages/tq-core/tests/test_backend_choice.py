"""Which backend runs: an explicit name never falls back, auto may and says so, and nothing is loaded early."""

import importlib.metadata

import numpy as np
import pytest

import tq_core
from tq_core import BackendUnavailable, TurboQuantMSE, VectorCodec, registry
from tq_core.numpy_backend import NumpyBackend


class Point:
    """What importlib.metadata gives for one entry point."""

    def __init__(self, name, loader):
        self.name, self.loader, self.loads = name, loader, 0

    def load(self):
        self.loads += 1
        if isinstance(self.loader, Exception):
            raise self.loader
        return self.loader


def fake(name, **attributes):
    return type("Fake", (NumpyBackend,), {"name": name, **attributes})()


@pytest.fixture
def installed(monkeypatch):
    """installed(*points): exactly these entry points exist, caches empty before and after."""
    caches = (registry.loaders, registry._load)
    monkeypatch.delenv("TQ_BACKEND", raising=False)

    def install(*points):
        for cached in caches:
            cached.cache_clear()
        monkeypatch.setattr(
            importlib.metadata, "entry_points", lambda *, group: list(points) * (group == "tq.backends")
        )
        return points

    yield install
    monkeypatch.undo()
    for cached in caches:
        cached.cache_clear()


@pytest.fixture
def with_broken_simd(installed):
    return installed(Point("simd", ImportError("libfoo.so is missing")))


def test_auto_is_numpy_where_nothing_is_installed(installed):
    installed()
    assert registry.resolve("auto").name == "numpy"
    assert TurboQuantMSE(8, 2).backend.name == "numpy"


def test_auto_prefers_simd_where_it_runs(installed):
    installed(Point("simd", lambda: fake("simd")))
    assert TurboQuantMSE(8, 2).backend.name == "simd"
    assert TurboQuantMSE(8, 2, backend="numpy").backend.name == "numpy"


def test_auto_falls_back_and_says_so(with_broken_simd):
    with pytest.warns(RuntimeWarning, match=r"backend 'simd' cannot run: libfoo\.so is missing; trying the next one"):
        assert registry.resolve("auto").name == "numpy"


def test_explicit_name_never_falls_back(with_broken_simd):
    with pytest.raises(BackendUnavailable, match=r"backend 'simd' cannot run: libfoo\.so is missing") as caught:
        TurboQuantMSE(8, 2, backend="simd")
    assert isinstance(caught.value.__cause__, ImportError)


@pytest.mark.parametrize("name", ["gpu", "scalar", "other"])
def test_other_backends_are_never_automatic(installed, name):
    points = [] if name == "scalar" else [Point(name, lambda: fake(name))]
    installed(*points)
    assert registry.resolve("auto").name == "numpy"
    assert registry.resolve(name).name == name


@pytest.mark.parametrize("name", ["simd", "gpu"])
def test_a_missing_kernel_package_is_named(installed, name):
    installed()
    with pytest.raises(BackendUnavailable, match=f"no such backend is installed; pip install tq-kernels-{name}"):
        registry.load(name)


@pytest.mark.parametrize("error", [ImportError("no module"), OSError("bad library"), AttributeError("no such loader")])
def test_what_keeps_a_loader_from_loading_becomes_the_reason(installed, error):
    installed(Point("simd", error))
    with pytest.raises(BackendUnavailable, match=f"backend 'simd' cannot run: {error}"):
        registry.load("simd")


def test_a_reason_given_by_the_loader_is_kept(installed):
    def loader():
        raise BackendUnavailable("simd", "TQ_ISA=avx512 is more than this CPU has", "unset it")

    installed(Point("simd", loader))
    with pytest.raises(BackendUnavailable, match="TQ_ISA=avx512 is more than this CPU has; unset it"):
        registry.load("simd")


def test_another_api_version_is_refused(installed):
    installed(Point("simd", lambda: fake("simd", api_version=2)))
    with pytest.raises(BackendUnavailable, match="it speaks API version 2, this tq-core 1; upgrade both"):
        registry.load("simd")


def test_a_backend_without_all_operations_is_refused(installed):
    installed(Point("simd", lambda: type("Half", (), {"api_version": 1, "name": "simd"})()))
    with pytest.raises(BackendUnavailable, match="Half lacks operations of the Backend protocol"):
        registry.load("simd")


def test_a_backend_of_another_name_is_refused(installed):
    installed(Point("simd", lambda: fake("gpu")))
    with pytest.raises(BackendUnavailable, match="returned a backend that calls itself 'gpu'"):
        registry.load("simd")


@pytest.mark.parametrize("name", ["simd", "numpy", "scalar"])
def test_two_distributions_cannot_register_one_name(installed, name):
    points = [Point(name, lambda: fake(name))] * (2 if name == "simd" else 1)
    installed(*points)
    with pytest.raises(BackendUnavailable, match=f"backend '{name}' cannot run: two distributions register this name"):
        registry.resolve("auto")


def test_tq_backend_changes_what_auto_means(installed, monkeypatch):
    installed(Point("simd", lambda: fake("simd")))
    monkeypatch.setenv("TQ_BACKEND", "scalar")
    assert TurboQuantMSE(8, 2).backend.name == "scalar"
    assert TurboQuantMSE(8, 2, backend="numpy").backend.name == "numpy"
    monkeypatch.setenv("TQ_BACKEND", "")
    assert TurboQuantMSE(8, 2).backend.name == "simd"
    monkeypatch.setenv("TQ_BACKEND", "auto")
    assert TurboQuantMSE(8, 2).backend.name == "simd"


def test_tq_backend_is_an_explicit_name_too(with_broken_simd, monkeypatch):
    monkeypatch.setenv("TQ_BACKEND", "simd")
    with pytest.raises(BackendUnavailable, match=r"libfoo\.so is missing"):
        TurboQuantMSE(8, 2)
    monkeypatch.setenv("TQ_BACKEND", "fortran")
    with pytest.raises(BackendUnavailable, match="backend 'fortran' cannot run: no such backend is installed"):
        TurboQuantMSE(8, 2)


def test_a_quantizer_keeps_the_backend_it_was_built_with(installed, monkeypatch):
    installed()
    quantizer = TurboQuantMSE(8, 2)
    codec = VectorCodec(quantizer)
    monkeypatch.setenv("TQ_BACKEND", "scalar")
    assert quantizer.backend.name == codec.quantizer.backend.name == "numpy"
    assert "backend='numpy'" in repr(codec)


class Watching(NumpyBackend):
    """Refuses every array that a kernel written in C could not read."""

    name = "simd"

    def look(self, *arrays):
        for array in arrays:
            if array is not None:
                assert array.flags.c_contiguous
                assert array.flags.aligned
                assert array.dtype.isnative

    def encode(self, plan, x):
        self.look(x)
        return super().encode(plan, x)

    def decode(self, plan, packed, scales, gammas):
        self.look(packed, scales, gammas)
        return super().decode(plan, packed, scales, gammas)

    def scores(self, plan, packed, scales, gammas, queries, *, accuracy="exact"):
        self.look(packed, scales, gammas, queries)
        return super().scores(plan, packed, scales, gammas, queries, accuracy=accuracy)


def misaligned(array):
    return np.frombuffer(b"\0" + array.tobytes(), np.uint8)[1:].view(array.dtype).reshape(array.shape)


@pytest.mark.parametrize(
    "form",
    [
        misaligned,
        np.asfortranarray,
        lambda x: x[::-1],
        lambda x: x.astype(x.dtype.newbyteorder()),
        lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    ],
)
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_backends_are_given_contiguous_aligned_native_arrays(installed, gaussian_rows, form, dtype):
    installed(Point("simd", Watching))
    codec = VectorCodec(tq_core.TurboQuantProd(16, 3, backend="simd"))
    x = gaussian_rows(6, 16).astype(dtype)
    encoded = codec.encode(form(x))
    assert encoded == codec.encode(x if form(x)[0, 0] == x[0, 0] else x[::-1])
    for rows in (encoded[::2], encoded[[3, 1]], encoded[1:4], encoded[np.arange(6) % 2 == 0]):
        codec.decode(rows)
        codec.scores(rows, form(x))
    buffers = {name: misaligned(array) for name, array in encoded.arrays.items()}
    assert np.array_equal(codec.decode(codec.wrap(buffers)), codec.decode(encoded))
    spread = {name: np.repeat(array, 2, axis=0)[::2] for name, array in encoded.arrays.items()}
    assert np.array_equal(codec.scores(codec.wrap(spread), x), codec.scores(encoded, x))


def test_loaders_run_when_they_are_asked_for_and_once(installed):
    (point,) = installed(Point("simd", lambda: fake("simd")))
    registry.load("numpy")
    registry.load("scalar")
    registry.loaders()
    assert point.loads == 0
    assert registry.load("simd") is registry.load("simd")
    assert point.loads == 1


def test_built_in_names_need_no_discovery(installed, monkeypatch):
    installed()
    monkeypatch.setattr(importlib.metadata, "entry_points", None)
    assert TurboQuantMSE(8, 2, backend="numpy").backend.name == "numpy"
    assert TurboQuantMSE(8, 2, backend="scalar").backend.name == "scalar"


def test_backends_lists_all_with_reasons(with_broken_simd):
    assert tq_core.backends() == {"numpy": "ok", "scalar": "ok", "simd": "libfoo.so is missing"}


def test_report_is_a_dict_and_a_table(installed):
    installed()
    report = tq_core.report()
    assert report["auto"] == "numpy"
    assert report["why"] == "tq-kernels-simd is not installed"
    assert report["backends"] == {"numpy": "ok", "scalar": "ok"}
    assert set(report["operations"]) == {
        *("rotate", "unrotate", "encode", "decode", "scores", "combine", "sketch", "unsketch", "sketch_scores")
    }
    assert set(report["operations"].values()) == {"numpy"}
    lines = str(report).splitlines()
    assert lines[0] == "auto resolves to 'numpy': tq-kernels-simd is not installed"
    assert "  scalar   ok" in lines
    assert "  sketch_scores  numpy" in lines


def test_report_names_the_level_of_each_operation(installed):
    installed(Point("simd", lambda: fake("simd", levels={"encode": "avx2"})))
    report = tq_core.report()
    assert report["why"] == "the simd kernels are installed and run here"
    assert report["operations"]["encode"] == "simd avx2"
    assert report["operations"]["decode"] == "simd"


def test_report_says_why_simd_is_not_used(with_broken_simd):
    with pytest.warns(RuntimeWarning, match="trying the next one"):
        report = tq_core.report()
    assert report["auto"] == "numpy"
    assert report["why"] == "simd cannot run: libfoo.so is missing"


def test_report_says_that_the_environment_decided(installed, monkeypatch):
    installed()
    monkeypatch.setenv("TQ_BACKEND", "scalar")
    assert tq_core.report()["why"] == "TQ_BACKEND=scalar says so"
    monkeypatch.setenv("TQ_BACKEND", "fortran")
    report = tq_core.report()
    assert report["auto"] == "none"
    assert "'fortran' cannot run" in str(report)
