"""Whatever is wrong with an argument, the error is typed, names the argument, and comes before anything is written."""

import datetime

import numpy as np
import pytest

from tq_core import TurboQuantError
from tq_core.errors import InvalidDtype, InvalidSpec, ShapeMismatch
from tq_kernels_simd import _simd

ARRAYS = {
    "rotate": ["x", "out"],
    "encode": ["x", "packed", "scales", "gammas"],
    "decode": ["packed", "scales", "out"],
    "scores": ["packed", "scales", "queries", "out"],
}
OUTPUTS = {"rotate": ["out"], "encode": ["packed", "scales", "gammas"], "decode": ["out"], "scores": ["out"]}
PLACES = [(method, name) for method, names in ARRAYS.items() for name in names]
OUTPUT_PLACES = [(method, name) for method, names in OUTPUTS.items() for name in names]
METHODS = sorted(ARRAYS)


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


FAULTS = {
    "complex": (
        lambda a: a.astype(np.complex64),
        InvalidDtype,
        "{} must have one of the formats '[a-zA-Z]+', got 'Zf'",
    ),
    "int64": (lambda a: a.astype(np.int64), InvalidDtype, "{} must have one of the formats '[a-zA-Z]+', got 'l'"),
    "big-endian": (lambda a: a.astype(">f4"), InvalidDtype, "{} must have one of the formats '[a-zA-Z]+', got '>f'"),
    "structured": (
        lambda a: np.zeros(a.shape, [("a", "f4")]),
        InvalidDtype,
        "{} must have one of the formats '[a-zA-Z]+', got 'T",
    ),
    "no dimension": (lambda a: np.zeros((), a.dtype), ShapeMismatch, r"{} must be a C-contiguous array .*, got \(\)"),
    "one dimension more": (lambda a: a[None], ShapeMismatch, r"{} must be a C-contiguous array of shape .*, got \(1, "),
    "one value more": (
        lambda a: np.zeros((*a.shape[:-1], a.shape[-1] + 1), a.dtype),
        ShapeMismatch,
        "{} must be a C-contiguous array of shape",
    ),
    "one value less": (lambda a: a[..., :-1].copy(), ShapeMismatch, "{} must be a C-contiguous array of shape"),
    "strided": (strided, ShapeMismatch, "{} must be a C-contiguous array of shape"),
    "backwards": (lambda a: a[..., ::-1], ShapeMismatch, "{} must be a C-contiguous array of shape"),
    "None": (lambda a: None, InvalidDtype, "{} must be an? .*array, got <class 'NoneType'>"),
    "a list": (lambda a: a.tolist(), InvalidDtype, "{} must be an? .*array, got <class 'list'>"),
    "text": (lambda a: "text", InvalidDtype, "{} must be an? .*array, got <class 'str'>"),
    "a number": (lambda a: 1.0, InvalidDtype, "{} must be an? .*array, got <class 'float'>"),
}


def refused(calls, method, name, value, error, match):
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
def test_the_good_call_is_good(method, calls):
    call = calls.good_call(method)
    assert getattr(_simd, method)(*call.values()) is None
    for output in OUTPUTS[method]:
        assert not (call[output] == 7).all()


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(("method", "name"), PLACES)
def test_a_bad_array_is_refused(method, name, fault, calls):
    spoil, error, message = FAULTS[fault]
    refused(calls, method, name, spoil, error, f"^{message.format(name)}")


@pytest.mark.parametrize(("method", "name"), [p for p in PLACES if p not in [("encode", "x"), ("rotate", "x")]])
def test_a_row_more_or_less_is_refused(method, name, calls):
    for change in (lambda a: a[:-1].copy(), lambda a: np.concatenate([a, a[:1]])):
        call = calls.good_call(method)
        call[name] = change(call[name])
        with pytest.raises(ShapeMismatch, match="must be a C-contiguous array of shape"):
            getattr(_simd, method)(*call.values())


@pytest.mark.parametrize(("method", "name"), [p for p in PLACES if p[1] not in ("scales", "gammas")])
def test_fortran_order_is_refused(method, name, calls):
    refused(calls, method, name, np.asfortranarray, ShapeMismatch, f"^{name} must be a C-contiguous array of shape")


@pytest.mark.parametrize(("method", "name"), OUTPUT_PLACES)
def test_a_read_only_output_is_refused(method, name, calls):
    refused(calls, method, name, read_only, InvalidDtype, f"^{name} must be a writable array, got")


@pytest.mark.parametrize(("method", "name"), [p for p in OUTPUT_PLACES if p[1] != "packed"])
def test_an_output_between_items_is_refused(method, name, calls):
    refused(calls, method, name, misaligned, InvalidDtype, f"^{name} must be aligned to its items of 4 bytes")


@pytest.mark.parametrize(("method", "name"), [p for p in PLACES if p not in OUTPUT_PLACES and p[1] != "packed"])
def test_an_input_between_items_is_read_all_the_same(method, name, calls):
    call, other = calls.good_call(method), calls.good_call(method)
    getattr(_simd, method)(*call.values())
    getattr(_simd, method)(*{**other, name: misaligned(other[name])}.values())
    for output in OUTPUTS[method]:
        assert np.array_equal(call[output], other[output])


@pytest.mark.parametrize("dtype", ["e", "f", "d"])
def test_rows_between_items_encode_to_the_same_codes(dtype, calls):
    call, other = calls.good_call("encode"), calls.good_call("encode")
    x = call["x"].astype(dtype)
    _simd.encode(*{**call, "x": x}.values())
    _simd.encode(*{**other, "x": misaligned(x)}.values())
    for output in OUTPUTS["encode"]:
        assert np.array_equal(call[output], other[output])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "plan",
    [None, b"bytes", 3, datetime.datetime_CAPI],
    ids=["None", "bytes", "number", "another capsule"],
)
def test_what_is_no_plan_is_refused(method, plan, calls):
    refused(calls, method, "plan", plan, InvalidDtype, "^plan must come from _simd.plan, got <class")


@pytest.mark.parametrize("value", [0, -1, 257, 1 << 40, 1 << 70, -(1 << 70), 1.5, "1", None])
@pytest.mark.parametrize("method", METHODS)
def test_threads_out_of_range_are_refused(method, value, calls):
    refused(calls, method, "threads", value, InvalidSpec, r"^threads must be an integer in 1\.\.256, got ")


@pytest.mark.parametrize("value", [-1, 2, 1 << 70, 0.0, None])
def test_an_inverse_that_is_no_flag_is_refused(value, calls):
    refused(calls, "rotate", "inverse", value, InvalidSpec, r"^inverse must be an integer in 0\.\.1, got ")


@pytest.mark.parametrize("method", [*METHODS, "plan"])
def test_a_wrong_number_of_arguments_is_refused(method, calls):
    arguments = list(calls.good_call(method).values()) if method != "plan" else [b""]
    for given in (arguments[:-1], [*arguments, None], []):
        with pytest.raises(TypeError, match=f"{method} takes {len(arguments)} arguments, got {len(given)}"):
            getattr(_simd, method)(*given)


def test_a_plan_of_another_purpose_is_refused(calls):
    from tq_kernels_simd.plan import pack_rotation

    bare = pack_rotation(calls.scalar_plan().rotation)
    refused(calls, "encode", "plan", bare, InvalidSpec, "encode takes a plan with a codebook, candidates and rounds")
    refused(calls, "decode", "plan", bare, InvalidSpec, "decode takes a plan with a codebook and rounds")
    refused(calls, "scores", "plan", bare, InvalidSpec, "scores takes a plan with a codebook")


def test_a_plan_without_rounds_is_refused(calls):
    from tq_core.rotation import Rotation
    from tq_kernels_simd.plan import pack_plan

    dense = pack_plan(calls.scalar_plan()._replace(rotation=Rotation(64, "dense", 1)))
    refused(calls, "rotate", "plan", dense, InvalidSpec, "this plan has no rounds to rotate with")
    refused(calls, "encode", "plan", dense, InvalidSpec, "encode takes a plan with .* rounds")
    refused(calls, "decode", "plan", dense, InvalidSpec, "decode takes a plan with .* rounds")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, np.float32(3e38)])
@pytest.mark.parametrize("bits", [1, 4, 5, 8])
@pytest.mark.parametrize("search", [0, 3])
def test_rows_that_the_front_door_refuses_still_give_codes(value, bits, search, calls):
    """NaN and infinity never reach the module through tq_core; if they do, nothing outside its tables is read."""
    from tq_kernels_simd.plan import pack_plan

    plan = calls.scalar_plan(100, bits, search=search)
    x = np.ones((3, 100), np.float32)
    x[1, 7], x[2] = value, value
    packed, scales = np.zeros((3, plan.row_bytes), np.uint8), np.zeros(3, np.float32)
    _simd.encode(pack_plan(plan), x, packed, scales, None, 1)
    alone = np.zeros((1, plan.row_bytes), np.uint8)
    _simd.encode(pack_plan(plan), x[:1], alone, scales[:1], None, 1)
    assert np.array_equal(packed[:1], alone)
