"""Whatever is wrong with an argument, the error is typed, names the argument, and comes before anything is written."""

import datetime

import calls
import numpy as np
import pytest

from tq_core import TurboQuantError
from tq_core.errors import CorruptData, InvalidDtype, InvalidSpec, ShapeMismatch
from tq_core.rotation import Rotation
from tq_kernels_simd import _simd
from tq_kernels_simd.plan import pack_plan, pack_rotation, pack_sketch

METHODS, OUTPUTS, INTEGERS = calls.METHODS, calls.OUTPUTS, calls.INTEGERS
PLACES = [(method, name) for method in METHODS for name in calls.ARRAYS[method]]
OUTPUT_PLACES = [(method, name) for method in METHODS for name in OUTPUTS[method]]
ANY_LENGTH = [("probe_read", "buffer"), ("plan", "plan")]
GOOD = {method: calls.good_call(method) for method in METHODS}
ITEMSIZE = {(method, name): GOOD[method][name].itemsize for method, name in PLACES}
SHAPE = "must (be a C-contiguous array of|have the) shape|must have a multiple of 8 numbers"


def strided(array):
    return np.repeat(array, 2, axis=-1)[..., ::2]


def misaligned(array):
    memory = np.zeros(array.nbytes + 1, np.uint8)
    view = np.frombuffer(memory, array.dtype, array.size, 1).reshape(array.shape)
    view[...] = array
    assert not view.flags.aligned
    return view


def read_only(array):
    array = array.copy()
    array.setflags(write=False)
    return array


def format_fault(spoil, got):
    return spoil, InvalidDtype, "{} must have one of the formats '[a-zA-Z?]+', got '" + got


def shape_fault(spoil):
    return spoil, ShapeMismatch, f"{{}} ({SHAPE})"


FAULTS = {
    "complex": format_fault(lambda a: np.zeros(a.shape, np.complex64), "Zf'"),
    "integers or floats": format_fault(lambda a: np.zeros(a.shape, "d" if a.dtype == np.int64 else "q"), "[ldq]'"),
    "int8": format_fault(lambda a: np.zeros(a.shape, np.int8), "b'"),
    "big-endian": format_fault(lambda a: np.zeros(a.shape, ">f4"), ">f'"),
    "structured": format_fault(lambda a: np.zeros(a.shape, [("a", "f4")]), "T"),
    "no dimension": shape_fault(lambda a: np.zeros((), a.dtype)),
    "one dimension more": shape_fault(lambda a: a[None]),
    "strided": shape_fault(strided),
    "backwards": shape_fault(lambda a: a[..., ::-1]),
    "None": (lambda a: None, InvalidDtype, "{} must be an? .*array, got <class 'NoneType'>"),
    "a list": (lambda a: a.tolist(), InvalidDtype, "{} must be an? .*array, got <class 'list'>"),
    "text": (lambda a: "text", InvalidDtype, "{} must be an? .*array, got <class 'str'>"),
    "a number": (lambda a: 1.0, InvalidDtype, "{} must be an? .*array, got <class 'float'>"),
}


def refused(method, name, value, error, match):
    """The call with that argument raises, and no output has changed."""
    call = calls.good_call(method)
    before = {output: call[output].copy() for output in OUTPUTS[method]}
    call_with = {**call, name: value(call[name]) if callable(value) else value}
    with pytest.raises(error, match=match) as caught:
        getattr(_simd, method)(*call_with.values())
    assert isinstance(caught.value, TurboQuantError)
    for output, held in before.items():
        assert np.array_equal(call[output], held), f"{output} was written to"


@pytest.mark.parametrize("method", METHODS)
def test_the_good_call_is_good(method):
    call = calls.good_call(method)
    before = {output: call[output].copy() for output in OUTPUTS[method]}
    result = getattr(_simd, method)(*call.values())
    assert (result is not None) == (method in calls.RETURNING)
    for output, held in before.items():
        assert not np.array_equal(call[output], held)


def test_every_function_and_argument_is_tested_here():
    assert set(METHODS) == {name for name, value in vars(_simd).items() if callable(value)} - {"level", "levels"}
    for method, call in GOOD.items():
        kinds = [*calls.ARRAYS[method], *calls.PLANS.get(method, [])]
        kinds += [name for owner, name in [*INTEGERS, *calls.FLOATS] if owner == method]
        assert sorted(kinds) == sorted(call), method


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(("method", "name"), PLACES)
def test_a_bad_array_is_refused(method, name, fault):
    if fault == "None" and (method, name) in calls.OPTIONAL:
        call = calls.good_call(method)
        assert getattr(_simd, method)(*{**call, name: None}.values()) is None
        return
    spoil, error, message = FAULTS[fault]
    refused(method, name, spoil, error, f"^{message.format(name)}")


@pytest.mark.parametrize(("method", "name"), [place for place in PLACES if place not in ANY_LENGTH])
def test_one_more_or_less_along_any_axis_is_refused(method, name):
    for axis in range(GOOD[method][name].ndim):
        for spoil in (
            lambda a, axis=axis: np.take(a, range(a.shape[axis] - 1), axis),
            lambda a, axis=axis: np.concatenate([a, np.take(a, [0], axis)], axis),
        ):
            refused(method, name, spoil, ShapeMismatch, SHAPE)


def test_a_plan_of_another_length_is_refused():
    for spoil in (lambda a: a[:-1].copy(), lambda a: np.concatenate([a, a[:1]]), lambda a: a[:0].copy()):
        refused("plan", "plan", spoil, CorruptData, "does not have the length that it states|is too short")


@pytest.mark.parametrize(("method", "name"), [p for p in PLACES if GOOD[p[0]][p[1]].ndim > 1])
def test_fortran_order_is_refused(method, name):
    refused(method, name, np.asfortranarray, ShapeMismatch, f"^{name} ({SHAPE})")


@pytest.mark.parametrize(("method", "name"), OUTPUT_PLACES)
def test_a_read_only_output_is_refused(method, name):
    refused(method, name, read_only, InvalidDtype, f"^{name} must be a writable array, got")


@pytest.mark.parametrize(
    ("method", "name"),
    [p for p in PLACES if ITEMSIZE[p] > 1 and (p in OUTPUT_PLACES or p[0] == "attend")],
)
def test_an_output_or_a_store_between_items_is_refused(method, name):
    size = ITEMSIZE[method, name]
    refused(method, name, misaligned, InvalidDtype, f"^{name} must be aligned to its items of {size} bytes; make a new")


@pytest.mark.parametrize(
    ("method", "name"), [p for p in PLACES if ITEMSIZE[p] > 1 and p not in OUTPUT_PLACES and p[0] != "attend"]
)
def test_an_input_between_items_is_read_all_the_same(method, name):
    call, other = calls.good_call(method), calls.good_call(method)
    getattr(_simd, method)(*call.values())
    getattr(_simd, method)(*{**other, name: misaligned(other[name])}.values())
    for output in OUTPUTS[method]:
        assert np.array_equal(call[output], other[output])


@pytest.mark.parametrize("dtype", ["e", "f", "d"])
def test_rows_between_items_encode_to_the_same_codes(dtype):
    call, other = calls.good_call("encode"), calls.good_call("encode")
    x = call["x"].astype(dtype)
    _simd.encode(*{**call, "x": x}.values())
    _simd.encode(*{**other, "x": misaligned(x)}.values())
    for output in OUTPUTS["encode"]:
        assert np.array_equal(call[output], other[output])


@pytest.mark.parametrize(("method", "name"), [(method, name) for method in calls.PLANS for name in calls.PLANS[method]])
@pytest.mark.parametrize(
    "plan",
    [None, b"bytes", 3, datetime.datetime_CAPI],
    ids=["None", "bytes", "number", "another capsule"],
)
def test_what_is_no_plan_is_refused(method, name, plan):
    refused(method, name, plan, InvalidDtype, f"^{name} must come from _simd.plan, got <class")


@pytest.mark.parametrize("value", ["below", "above", 1 << 70, -(1 << 70), 1.5, "1", None])
@pytest.mark.parametrize(("method", "name"), INTEGERS)
def test_an_integer_out_of_range_is_refused(method, name, value):
    low, high = INTEGERS[method, name]
    value = low - 1 if value == "below" else high + 1 if value == "above" else value
    refused(method, name, value, InvalidSpec, rf"^{name} must be an integer in {low}\.\.{high}, got ")


@pytest.mark.parametrize(
    "value", [np.nan, np.inf, -np.inf, 1e39, 1 << 2000, "1", None, [1.0]], ids=lambda x: repr(x)[:9]
)
@pytest.mark.parametrize(("method", "name"), sorted(calls.FLOATS))
def test_a_number_that_is_not_finite_is_refused(method, name, value):
    refused(method, name, value, InvalidSpec, f"^{name} must be a finite number")


def test_a_negative_cap_is_refused():
    refused("attend", "softcap", -0.1, InvalidSpec, r"^softcap must be a finite number >= 0, got -0\.1")


@pytest.mark.parametrize("method", METHODS)
def test_a_wrong_number_of_arguments_is_refused(method):
    arguments = list(GOOD[method].values())
    for given in (arguments[:-1], [*arguments, None], []):
        with pytest.raises(TypeError, match=f"{method} takes {len(arguments)} arguments, got {len(given)}"):
            getattr(_simd, method)(*given)


BARE = "a bare rotation", pack_rotation(calls.scalar_plan().rotation)
DENSE = "a dense rotation", pack_plan(calls.scalar_plan()._replace(rotation=Rotation(64, "dense", 1)))
PROD = "a plan with a sketch", pack_plan(calls.scalar_plan(sketch="gaussian"))
SKETCH = "a bare sketch", pack_sketch(calls.scalar_plan(sketch="hadamard").sketch)
STAGE = "a plan without a sketch", pack_plan(calls.scalar_plan())
NO_STAGE = "must be a plan with a codebook and without a sketch"
PURPOSES = [
    ("rotate", "plan", DENSE, "this plan has no rounds to rotate with"),
    ("encode", "plan", BARE, "encode takes a plan with a codebook, candidates and rounds"),
    ("encode", "plan", DENSE, "encode takes a plan with .* rounds"),
    ("encode", "plan", SKETCH, "encode takes a plan with a codebook"),
    ("decode", "plan", BARE, "decode takes a plan with a codebook and rounds"),
    ("decode", "plan", DENSE, "decode takes a plan with .* rounds"),
    ("decode", "plan", PROD, "decode takes a plan with .*, and without a sketch"),
    ("scores", "plan", BARE, "plan must have a codebook or a sketch to score with, got a bare rotation"),
    ("search", "plan", BARE, "plan must have a codebook or a sketch to score with, got a bare rotation"),
    ("sketch", "plan", BARE, "plan must have a sketch, got one without"),
    ("sketch", "plan", STAGE, "plan must have a sketch, got one without"),
    *[
        (method, name, plan, f"^{name} {NO_STAGE}")
        for method in ("attend", "attend_workspace")
        for name in calls.PLANS[method]
        for plan in (BARE, PROD, SKETCH)
    ],
]


@pytest.mark.parametrize(("method", "name", "plan", "message"), PURPOSES, ids=lambda value: str(value)[:30])
def test_a_plan_of_another_purpose_is_refused(method, name, plan, message):
    refused(method, name, plan[1], InvalidSpec, message)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, np.float32(3e38)])
@pytest.mark.parametrize("bits", [1, 4, 5, 8])
@pytest.mark.parametrize("search", [0, 3])
def test_rows_that_the_front_door_refuses_still_give_codes(value, bits, search):
    """NaN and infinity never reach the module through tq_core; if they do, nothing outside its tables is read."""
    plan = calls.scalar_plan(100, bits, search=search)
    x = np.ones((3, 100), np.float32)
    x[1, 7], x[2] = value, value
    packed, scales = np.zeros((3, plan.row_bytes), np.uint8), np.zeros(3, np.float32)
    _simd.encode(pack_plan(plan), x, packed, scales, None, 1)
    alone = np.zeros((1, plan.row_bytes), np.uint8)
    _simd.encode(pack_plan(plan), x[:1], alone, scales[:1], None, 1)
    assert np.array_equal(packed[:1], alone)
