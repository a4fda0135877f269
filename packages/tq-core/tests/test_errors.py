"""The error tree: one root, a builtin beside it, and errors that travel between processes."""

import inspect
import pickle

import pytest

import tq_core
from tq_core import errors

PARENTS = {
    "InvalidDimension": ValueError,
    "InvalidBitWidth": ValueError,
    "InvalidDtype": TypeError,
    "NotUnitNorm": ValueError,
    "NotFinite": ValueError,
    "ZeroVector": ValueError,
    "ScaleRange": OverflowError,
    "ShapeMismatch": ValueError,
    "RowOutOfRange": IndexError,
    "SpecMismatch": ValueError,
    "CorruptData": ValueError,
    "FormatVersion": ValueError,
    "InvalidSpec": ValueError,
    "BackendUnavailable": RuntimeError,
    "WrongDevice": TypeError,
    "OutOfDeviceMemory": MemoryError,
}


def test_the_tree_is_exactly_this():
    found = {
        name
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, errors.TurboQuantError)
    }
    assert found == {*PARENTS, "TurboQuantError"}
    assert found <= set(tq_core.__all__)


@pytest.mark.parametrize("name", PARENTS)
def test_every_error_is_ours_and_a_builtin(name):
    error = getattr(tq_core, name)
    assert issubclass(error, tq_core.TurboQuantError)
    assert issubclass(error, PARENTS[name])
    assert error.__doc__


def test_a_scale_out_of_range_is_a_bad_value_too():
    assert issubclass(tq_core.ScaleRange, ValueError)


def test_the_root_is_no_builtin_that_would_catch_strangers():
    assert tq_core.TurboQuantError.__mro__[1] is Exception


@pytest.mark.parametrize("name", PARENTS)
def test_errors_survive_pickling(name):
    arguments = ("simd", "libfoo is missing", "install it") if name == "BackendUnavailable" else ("row 3 is bad",)
    error = getattr(tq_core, name)(*arguments)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)


def test_an_unavailable_backend_keeps_its_parts():
    error = pickle.loads(pickle.dumps(tq_core.BackendUnavailable("simd", "no AVX2")))
    assert (error.name, error.reason, error.hint) == ("simd", "no AVX2", "")
    assert str(error) == "backend 'simd' cannot run: no AVX2"
