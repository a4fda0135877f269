"""A plan buffer is checked to the last number: every outcome is a typed error or a plan that can be used."""

import math
import struct

import calls
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tq_core.errors import CorruptData, InvalidDtype, ShapeMismatch
from tq_core.rotation import Rotation
from tq_core.trellis_plan import TrellisPlan
from tq_core.trellis_table import trellis
from tq_kernels_simd import _simd
from tq_kernels_simd.plan import HEADER, MIXED, plan_bytes

WORDS = (
    *("magic", "bytes", "dim", "rounds", "order", "bits", "rule", "strict", "candidates", "sketch", "projections"),
    *("signs", "permutations", "thresholds", "levels", "centroids", "magnitudes", "candidate"),
    *("matrix", "sketch_signs", "sketch_permutations", "window"),
    *("factor", "inverse_factor", "sketch_factor", "sketch_inverse", "constant"),
)
EXTREMES = (
    -1,
    0,
    1,
    2,
    4,
    7,
    8,
    9,
    64,
    65,
    216,
    1 << 20,
    1 << 31,
    1 << 32,
    1 << 61,
    1 << 62,
    (1 << 63) - 1,
    -(1 << 63),
)


def words_of(plan):
    return dict(zip(WORDS, HEADER.unpack_from(plan), strict=True))


def with_word(plan, name, value):
    """The plan with one word of its header replaced; a float is written as a double."""
    at = 8 * WORDS.index(name)
    return plan[:at] + struct.pack("=d" if isinstance(value, float) else "=q", value) + plan[at + 8 :]


def with_item(plan, name, index, value, kind):
    """The plan with one item of one of its arrays replaced."""
    at = words_of(plan)[name] + index * struct.calcsize(kind)
    return plan[:at] + struct.pack(f"={kind}", value) + plan[at + struct.calcsize(kind) :]


@pytest.fixture(scope="module")
def plans():
    """Good plan buffers: blocks with permutations, a power of two with a search, and both sketches."""
    return {
        "blocks": plan_bytes(calls.scalar_plan(100, 3)),
        "search": plan_bytes(calls.scalar_plan(64, 4, search=9)),
        "gaussian": plan_bytes(calls.scalar_plan(20, 3, sketch="gaussian")),
        "hadamard": plan_bytes(calls.scalar_plan(100, 2, sketch="hadamard")),
        "pairs": plan_bytes(calls.scalar_plan(64, 3.5)),
        "fours": plan_bytes(calls.scalar_plan(33, 2.25)),
    }


@pytest.mark.parametrize("kind", ["blocks", "search", "gaussian", "hadamard", "pairs", "fours"])
def test_a_good_plan_is_accepted_in_any_buffer(kind, plans):
    padded = bytearray(b"\0" + plans[kind])
    for buffer in (plans[kind], bytearray(plans[kind]), memoryview(plans[kind]), memoryview(padded)[1:]):
        assert "tq_kernels_simd.plan" in repr(_simd.plan(buffer))


@pytest.mark.parametrize("kind", ["blocks", "search", "gaussian", "hadamard", "pairs", "fours"])
def test_a_truncated_plan_is_refused(kind, plans):
    plan = plans[kind]
    for length in {0, 1, 7, 8, 215, 216, 217, len(plan) // 2, len(plan) - 1}:
        with pytest.raises(CorruptData, match=r"too short|does not have the length that it states"):
            _simd.plan(plan[:length])
    with pytest.raises(CorruptData, match="does not have the length that it states"):
        _simd.plan(plan + b"\0")


@pytest.mark.parametrize(
    ("kind", "name", "index", "value", "item", "message"),
    [
        ("pairs", "magnitudes", 0, 3, "i", "neither 2 nor 4 places"),
        ("pairs", "magnitudes", 0, 1 << 30, "i", "neither 2 nor 4 places"),
        ("pairs", "magnitudes", 0, 4, "i", "a radix of the plan is out of range"),
        ("pairs", "magnitudes", 1, 12, "i", "a radix of the plan is out of range"),
        ("fours", "magnitudes", 4, 1, "i", "a radix of the plan is out of range"),
        ("fours", "magnitudes", 2, -5, "i", "a radix of the plan is out of range"),
        ("fours", "magnitudes", 2, 11, "i", "lies outside its buffer|more thresholds than levels"),
        ("fours", "magnitudes", 3, 4, "i", "more thresholds than levels"),
        ("fours", "thresholds", 5 * 16 - 1, 100, "h", "do not ascend from 0|more thresholds than levels"),
        ("fours", "thresholds", 7, -1, "h", "thresholds of the plan do not ascend from 0"),
        ("fours", "thresholds", 16, 5, "h", "thresholds of the plan do not ascend from 0"),
        ("pairs", "levels", 3, -1, "h", "levels of the plan do not ascend from 0"),
        ("pairs", "levels", 6 * 16 - 1, 5, "h", "levels of the plan do not ascend from 0"),
        ("pairs", "centroids", 255, float("nan"), "f", "no finite number"),
        ("fours", "centroids", 2 * (25 + 21) - 1, float("inf"), "f", "no finite number"),
    ],
)
def test_a_table_of_a_fractional_width_that_kernels_could_not_read(plans, kind, name, index, value, item, message):
    with pytest.raises(CorruptData, match=message):
        _simd.plan(with_item(plans[kind], name, index, value, item))


def test_a_fractional_width_has_no_sketch_and_its_words_fit(plans):
    plan = plans["gaussian"]
    with pytest.raises(CorruptData, match="a fractional width has no sketch"):
        _simd.plan(with_word(plan, "bits", 9))
    plan = plans["fours"]
    for place in range(1, 5):
        plan = with_item(plan, "magnitudes", place, 11, "i")
    with pytest.raises(CorruptData, match="more than 13 bits"):
        _simd.plan(plan)


@pytest.mark.parametrize("length", [217, 4096])
def test_a_truncated_plan_that_states_its_length_is_refused(length, plans):
    with pytest.raises(CorruptData, match="an array of the plan lies outside its buffer"):
        _simd.plan(with_word(plans["blocks"][:length], "bytes", length))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("magic", 1, "no plan of this version"),
        ("dim", 1, "dim, rounds or order"),
        ("dim", (1 << 20) + 1, "dim, rounds or order"),
        ("dim", 1 << 20, "lies outside its buffer"),
        ("dim", -100, "dim, rounds or order"),
        ("rounds", 9, "dim, rounds or order"),
        ("rounds", -1, "dim, rounds or order"),
        ("order", 1, "dim, rounds or order"),
        ("order", 3, "dim, rounds or order"),
        ("order", 12, "dim, rounds or order"),
        ("order", -1, "dim, rounds or order"),
        ("bits", 10, "bits, rule, strict or candidates"),
        ("bits", -1, "bits, rule, strict or candidates"),
        ("rule", 4, "bits, rule, strict or candidates"),
        ("strict", 2, "bits, rule, strict or candidates"),
        ("candidates", 66, "bits, rule, strict or candidates"),
        ("sketch", 3, "the sketch of the plan is out of range"),
        ("sketch", 1, "a sketch has projections"),
        ("projections", -1, "the sketch of the plan is out of range"),
        ("factor", float("nan"), "a factor of the plan is no finite float32"),
        ("inverse_factor", float("inf"), "a factor of the plan is no finite float32"),
        ("factor", 1e39, "a factor of the plan is no finite float32"),
        ("constant", float("-inf"), "a factor of the plan is no finite float32"),
    ],
)
def test_a_header_out_of_range_is_refused(name, value, message, plans):
    with pytest.raises(CorruptData, match=message):
        _simd.plan(with_word(plans["blocks"], name, value))


@pytest.mark.parametrize(
    "name", ["signs", "permutations", "thresholds", "levels", "centroids", "magnitudes", "candidate"]
)
def test_an_offset_outside_or_between_words_is_refused(name, plans):
    plan = plans["blocks"]
    for offset in (0, 8, 200, len(plan) + 8, 1 << 40, (1 << 63) - 8, -8, words_of(plan)[name] + 4):
        with pytest.raises(CorruptData, match="an array of the plan lies outside its buffer"):
            _simd.plan(with_word(plan, name, offset))


@pytest.mark.parametrize(("kind", "name"), [("gaussian", "matrix"), ("hadamard", "sketch_signs")])
def test_an_offset_of_a_sketch_outside_is_refused(kind, name, plans):
    for offset in (0, len(plans[kind]), -8):
        with pytest.raises(CorruptData, match="an array of the plan lies outside its buffer"):
            _simd.plan(with_word(plans[kind], name, offset))


def test_a_hadamard_sketch_with_other_projections_is_refused(plans):
    with pytest.raises(CorruptData, match="a hadamard sketch has dim projections"):
        _simd.plan(with_word(plans["hadamard"], "projections", 64))


def test_a_hadamard_sketch_without_rounds_is_refused(plans):
    with pytest.raises(CorruptData, match="a hadamard sketch has rounds"):
        _simd.plan(with_word(plans["hadamard"], "rounds", 0))


NAN = float("nan")


@pytest.mark.parametrize(
    ("kind", "name", "index", "value", "item", "message"),
    [
        ("blocks", "permutations", 5, 100, "i", "a permutation of the plan points outside"),
        ("blocks", "permutations", 5, -1, "i", "a permutation of the plan points outside"),
        ("blocks", "permutations", 199, 1 << 30, "i", "a permutation of the plan points outside"),
        ("blocks", "signs", 99, 1, "I", "a sign of the plan is more than a sign"),
        ("blocks", "levels", 0, -1, "h", "the levels of the plan do not ascend from 0"),
        ("blocks", "levels", 3, 0, "h", "the levels of the plan do not ascend from 0"),
        ("blocks", "thresholds", 1, 0, "h", "the thresholds of the plan do not ascend from 0"),
        ("blocks", "thresholds", 0, -5, "h", "the thresholds of the plan do not ascend from 0"),
        ("blocks", "centroids", 7, NAN, "f", "a centroid of the plan is no finite number"),
        ("blocks", "magnitudes", 32767, 200, "B", "the magnitudes of the plan are not those of its thresholds"),
        ("blocks", "magnitudes", 0, 1, "B", "the magnitudes of the plan are not those of its thresholds"),
        ("search", "candidate", 0, 0.5, "f", "the candidates of the plan do not begin with 1"),
        ("search", "candidate", 8, NAN, "f", r"the candidates of the plan .* leave 0\.5\.\.2"),
        ("search", "candidate", 8, 0.4, "f", r"the candidates of the plan .* leave 0\.5\.\.2"),
        ("search", "candidate", 8, 2.5, "f", r"the candidates of the plan .* leave 0\.5\.\.2"),
        ("gaussian", "matrix", 399, -32768, "h", "a number of the sketch is below -32767"),
        ("hadamard", "sketch_signs", 0, 2, "I", "a sign of the plan is more than a sign"),
        ("hadamard", "sketch_permutations", 0, 500, "i", "a permutation of the plan points outside"),
    ],
)
def test_a_number_that_kernels_could_not_bear_is_refused(kind, name, index, value, item, message, plans):
    with pytest.raises(CorruptData, match=message):
        _simd.plan(with_item(plans[kind], name, index, value, item))


def test_a_permutation_with_an_index_twice_is_refused(plans):
    plan = plans["blocks"]
    (other,) = struct.unpack_from("=i", plan, words_of(plan)["permutations"] + 4 * 150)
    with pytest.raises(CorruptData, match="a permutation of the plan holds an index twice"):
        _simd.plan(with_item(plan, "permutations", 151, other, "i"))


def test_what_is_no_row_of_bytes_is_no_plan(plans):
    with pytest.raises(InvalidDtype, match="plan must be an array, got <class 'str'>"):
        _simd.plan("text")
    with pytest.raises(InvalidDtype, match="plan must have one of the formats 'B', got 'd'"):
        _simd.plan(np.zeros(100))
    with pytest.raises(ShapeMismatch, match=r"plan must be a C-contiguous array of shape \(n,\), got \(2, 300\)"):
        _simd.plan(np.zeros((2, 300), np.uint8))
    with pytest.raises(ShapeMismatch, match=r"plan must be a C-contiguous array of shape \(n,\), got \(300,\)"):
        _simd.plan(np.zeros(600, np.uint8)[::2])


def use(buffer):
    """Make the plan and, where it is accepted, run what it allows; any error must be a typed one."""
    try:
        plan = _simd.plan(buffer)
    except CorruptData:
        return False
    words = words_of(buffer)
    dim = words["dim"]
    x, out = np.ones((2, dim), np.float32), np.zeros((2, dim), np.float32)
    if words["rounds"]:
        _simd.rotate(plan, x, out, 0, 1)
        _simd.rotate(plan, out, x, 1, 1)
    if words["rounds"] and words["bits"] and words["candidates"]:
        if words["bits"] == MIXED:
            places, *radices = struct.unpack_from("=5i", buffer, words["magnitudes"])
            word, tail = (math.prod(radices[:digits]) for digits in (places, dim % places))
            row_bytes = (dim // places * (word - 1).bit_length() + (tail - 1).bit_length() + 7) // 8
            rows = np.random.default_rng(dim).integers(0, 256, (2, row_bytes), np.uint8)
            _simd.decode(plan, rows, np.ones(2, np.float32), out, 1)
        else:
            planes = [width for width in (1, 2, 4, 8) if words["bits"] & width]
            row_bytes = sum((dim * width + 7) // 8 for width in planes)
        row_bytes += (words["projections"] + 7) // 8 if words["sketch"] else 0
        scales, gammas = np.zeros(2, np.float32), np.zeros(2, np.float32)
        _simd.encode(plan, x, np.zeros((2, row_bytes), np.uint8), scales, gammas, 1)
    return True


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_fuzzed_plan_is_refused_or_can_be_used(data, plans):
    buffer = bytearray(plans[data.draw(st.sampled_from(sorted(plans)))])
    for _ in range(data.draw(st.integers(1, 4))):
        if data.draw(st.booleans()):
            at = 8 * data.draw(st.integers(0, len(WORDS) - 1))
            value = data.draw(st.sampled_from(EXTREMES) | st.integers(0, 300) | st.integers(-(1 << 63), (1 << 63) - 1))
            buffer[at : at + 8] = struct.pack("=q", value)
        else:
            at = data.draw(st.integers(0, len(buffer) - 1))
            buffer[at] = data.draw(st.integers(0, 255))
    use(bytes(buffer))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=600))
def test_random_bytes_are_no_plan(data):
    assert not use(data)


def test_the_fuzzed_plans_begin_as_usable_ones(plans):
    assert all(use(plan) for plan in plans.values())


@pytest.fixture(scope="module")
def trellis_plan():
    """A good plan of a trellis, 64 coordinates of 3 bits, 256 states."""
    plan = TrellisPlan(Rotation(64, "hadamard", 7), trellis(3, 256), "unbiased", (1.0,), strict=False)
    return plan_bytes(plan)


@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        ("window", 5, "the trellis of the plan is out of range"),
        ("window", 13, "the trellis of the plan is out of range"),
        ("window", -1, "the trellis of the plan is out of range"),
        ("window", 1 << 62, "the trellis of the plan is out of range"),
        ("bits", 5, "the trellis of the plan is out of range"),
        ("bits", 0, "the trellis of the plan is out of range"),
        ("dim", 8, "the trellis of the plan is out of range"),
        ("dim", 16384, "the trellis of the plan is out of range"),
        ("window", 12, "outside its buffer|a level of the trellis"),
        ("levels", 1 << 40, "outside its buffer"),
        ("centroids", -8, "outside its buffer"),
    ],
)
def test_a_trellis_that_cannot_be_is_refused(trellis_plan, name, value, match):
    assert _simd.plan(trellis_plan)
    with pytest.raises(CorruptData, match=match):
        _simd.plan(with_word(trellis_plan, name, value))


@pytest.mark.parametrize(
    ("name", "index", "value", "kind"),
    [
        ("levels", 0, 0, "h"),
        ("levels", 255, 3, "h"),
        ("levels", 100, -32768, "h"),
        ("centroids", 0, float("nan"), "f"),
        ("centroids", 255, float("inf"), "f"),
    ],
)
def test_numbers_that_no_trellis_holds_are_refused(trellis_plan, name, index, value, kind):
    with pytest.raises(CorruptData, match="a level of the trellis is 0, odd or no number"):
        _simd.plan(with_item(trellis_plan, name, index, value, kind))


@pytest.mark.parametrize(
    ("name", "index", "value", "kind"),
    [("centroids", 0, 0.5, "f"), ("centroids", 255, 0.0, "f"), ("levels", 9, 2, "h")],
)
def test_centroids_that_are_not_their_levels_are_refused(trellis_plan, name, index, value, kind):
    with pytest.raises(CorruptData, match="a centroid of the trellis is not its level"):
        _simd.plan(with_item(trellis_plan, name, index, value, kind))


@pytest.mark.parametrize(("index", "value"), [(0, 9.0), (1, float("nan")), (4095, 0.0), (2048, float("inf"))])
def test_pairs_that_are_not_those_of_their_windows_are_refused(trellis_plan, index, value):
    with pytest.raises(CorruptData, match="a pair of the trellis is not what its windows say"):
        _simd.plan(with_item(trellis_plan, "thresholds", index, value, "f"))
