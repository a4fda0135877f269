"""Attention from packed codes against float64 attention over decoded rows, at every level that this machine runs."""

import json
import pickle
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from children import LEVELS, python

from tq_core import TurboQuantMSE, TurboQuantProd, VectorCodec
from tq_core.errors import InvalidDtype, InvalidSpec, NotFinite, ShapeMismatch, TurboQuantError
from tq_kernels_simd import SimdBackend, _simd
from tq_kernels_simd.attention import PackedAttention, Partial, attend_floats, merge

ORACLE = Path(__file__).with_name("attention_oracle.py")
BOUNDS = {"exact": 1e-4, "mixed": 2e-2, "integer": 2e-2}


def found_by(level, group, accuracy, **environment):
    """What attention_oracle.py finds for a group of cases at a level, in a child process."""
    found = json.loads(python(ORACLE, group, accuracy, TQ_ISA=level, **environment))
    assert found["level"] == level
    assert found["errors"]
    return found


def errors_of(level, group, accuracy):
    """The error of each case of a group at a level."""
    return found_by(level, group, accuracy)["errors"]


@pytest.mark.parametrize("accuracy", ["exact", "integer"])
@pytest.mark.parametrize("group", ["every_width", "every_dim", "sights", "spreads", "forms", "page_ends"])
@pytest.mark.parametrize("level", LEVELS)
def test_attention_stays_within_its_bound_of_float64(level, group, accuracy):
    bound = BOUNDS[accuracy] if group == "spreads" or accuracy == "exact" else 3e-2  # few tokens average less away
    errors = errors_of(level, group, accuracy)
    worst = max(errors, key=errors.get)
    assert errors[worst] <= bound, f"{worst}: {errors[worst]}"


@pytest.mark.parametrize(("accuracy", "bound"), [("exact", 1e-4), ("integer", 6e-2)])
@pytest.mark.parametrize("level", LEVELS)
def test_peaked_attention_stays_within_its_wider_bound(level, accuracy, bound):
    errors = errors_of(level, "peaks", accuracy)
    assert max(errors.values()) <= bound, errors


@pytest.mark.parametrize("accuracy", ["exact", "mixed"])
@pytest.mark.parametrize("level", LEVELS)
def test_every_length_stays_within_its_bound_of_float64(level, accuracy):
    errors = errors_of(level, "every_length", accuracy)
    assert max(errors.values()) <= BOUNDS[accuracy], errors


@pytest.mark.parametrize("accuracy", ["exact", "integer"])
@pytest.mark.parametrize("level", LEVELS)
def test_threads_move_the_result_by_rounding_only(level, accuracy):
    errors = errors_of(level, "segments", accuracy)
    assert max(errors.values()) <= 2e-6, errors


@pytest.mark.parametrize("group", ["every_dim", "sights"])
@pytest.mark.parametrize("level", LEVELS)
def test_results_do_not_depend_on_what_memory_held(level, group):
    # glibc fills what it hands out, here with bytes that make great floats: reading before writing would show
    filled = {"PYTHONMALLOC": "malloc", "MALLOC_PERTURB_": "128"}
    first, second = found_by(level, group, "exact"), found_by(level, group, "exact", **filled)
    if "7f" * 1024 not in second["stale"]:
        pytest.skip("this C library or allocator fills no memory")
    assert second["bits"] == first["bits"]


@pytest.mark.parametrize("level", LEVELS)
def test_exp_is_within_its_bound_over_the_whole_range(level):
    assert errors_of(level, "exponentials", "exact")["relative"] <= 2e-7


@pytest.mark.parametrize("accuracy", ["exact", "mixed", "integer"])
def test_levels_agree_beyond_the_bound_of_either(accuracy):
    # integer sums are exact, so that levels differ by float32 rounding and by weights that round to the neighbour
    for group in ("spreads", "every_width"):
        cases = [errors_of(level, group, accuracy) for level in LEVELS]
        for case in cases[1:]:
            assert case == pytest.approx(cases[0], rel=0.02, abs=2e-6)


BACKEND = SimdBackend()
RNG = np.random.default_rng(5)


@pytest.fixture(scope="module")
def store():
    """Two lanes of 300 tokens: a door, its packed arrays, decoded keys and values, queries (2, 2, 3, 64)."""
    plans, arrays, decoded = [], {}, []
    for name, dim, bits in (("key", 64, 4), ("value", 32, 3)):
        codec = VectorCodec(TurboQuantMSE(dim, bits, backend="simd"))
        encoded = codec.encode(RNG.standard_normal((600, dim), np.float32))
        plans.append(codec.plan)
        arrays[f"{name}_packed"] = encoded.arrays["packed"].reshape(2, 300, -1)
        arrays[f"{name}_scales"] = encoded.arrays["scales"].astype(np.float32).reshape(2, 300)
        decoded.append(codec.decode(encoded).reshape(2, 300, dim))
    queries = RNG.standard_normal((2, 2, 3, 64), np.float32)
    return PackedAttention(*plans, BACKEND, accuracy="exact"), arrays, decoded, queries


def cut(arrays, first, last):
    return {name: array[:, first:last] for name, array in arrays.items()}


def close(got, expected, tolerance=1e-5):
    for name, a, b in zip(Partial._fields, got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance, err_msg=name)


def test_attend_floats_finds_what_the_kernel_finds(store):
    door, arrays, (keys, values), queries = store
    limits = np.array([[0, 300], [10, 20], [7, 7]])
    mask = RNG.random((3, 300)) < 0.5
    options = {"scale": 0.2, "softcap": 3.0, "limits": limits, "mask": mask}
    got = door.attend(**arrays, queries=queries, **options)
    close(got, attend_floats(keys, values, queries, **options), 1e-4)


def test_merged_segments_equal_one_segment(store):
    door, arrays, (keys, values), queries = store
    limits = np.array([[0, 300], [90, 150], [0, 40]])
    whole = door.attend(**arrays, queries=queries, scale=0.2, limits=limits)
    ends = (0, 100, 100, 163, 300)
    parts = [
        door.attend(**cut(arrays, first, last), queries=queries, scale=0.2, limits=limits - first)
        for first, last in pairwise(ends)
    ]
    parts[0] = attend_floats(keys[:, :100], values[:, :100], queries, scale=0.2, limits=limits)  # sinks, say
    merged = merge(parts)
    close(merged, whole, 1e-4)
    np.testing.assert_allclose(merged.finished(), whole.finished(), atol=1e-5)


def test_merge_keeps_a_single_part(store):
    door, arrays, _, queries = store
    part = door.attend(**arrays, queries=queries, scale=0.2)
    close(merge([part]), part, 0)


def test_merge_refuses_no_parts():
    with pytest.raises(ShapeMismatch, match="at least one part"):
        merge([])


def test_merge_refuses_parts_of_two_shapes(store):
    door, arrays, _, queries = store
    parts = [door.attend(**arrays, queries=queries[:, :rows], scale=0.2) for rows in (1, 2)]
    with pytest.raises(ShapeMismatch, match="one shape"):
        merge(parts)


@pytest.mark.parametrize("name", ["maxima", "sums"])
def test_merge_refuses_a_part_whose_numbers_do_not_fit_its_values(store, name):
    door, arrays, _, queries = store
    part = door.attend(**arrays, queries=queries, scale=0.2)
    with pytest.raises(ShapeMismatch, match=r"maxima and sums of shape \(2, 2, 3\), got"):
        merge([part, part._replace(**{name: getattr(part, name)[..., :1]})])


def test_queries_that_see_nothing_have_sum_zero_and_output_zero(store):
    door, arrays, _, queries = store
    for options in ({"limits": np.array([[5, 5]] * 3)}, {"mask": np.zeros((3, 300), np.bool_)}):
        part = door.attend(**arrays, queries=queries, scale=0.2, **options)
        assert not part.values.any()
        assert not part.sums.any()
        assert np.isneginf(part.maxima).all()
        assert not part.finished().any()
        assert not merge([part, part]).finished().any()


def test_no_tokens_no_lanes_and_no_queries_are_legal(store):
    door, arrays, _, queries = store
    nothing = door.attend(**cut(arrays, 0, 0), queries=queries, scale=0.2)
    assert not nothing.sums.any()
    close(
        merge([nothing, door.attend(**arrays, queries=queries, scale=0.2)]),
        door.attend(**arrays, queries=queries, scale=0.2),
    )
    assert door.attend(**arrays, queries=queries[:, :0], scale=0.2).sums.shape == (2, 0, 3)
    assert door.attend(**arrays, queries=queries[:, :, :0], scale=0.2).sums.shape == (2, 2, 0)
    none = {name: array[:0] for name, array in arrays.items()}
    assert door.attend(**none, queries=queries[:0], scale=0.2).values.shape == (0, 2, 3, 32)


def test_lanes_may_lie_apart_and_backwards(store):
    door, arrays, _, queries = store
    expected = door.attend(**cut(arrays, 0, 77), queries=queries, scale=0.2)
    roomy = {name: np.empty((2, 500, *array.shape[2:]), array.dtype) for name, array in arrays.items()}
    for name, array in arrays.items():
        roomy[name][:, :300] = array[::-1]
    got = door.attend(**{name: array[::-1, :77] for name, array in roomy.items()}, queries=queries, scale=0.2)
    close(got, expected, 0)


def test_logits_too_great_for_exp_do_not_overflow(store):
    door, arrays, _, queries = store
    part = door.attend(**arrays, queries=queries, scale=1e6)
    assert np.isfinite(part.finished()).all()
    np.testing.assert_allclose(part.sums, 1, atol=0.01)  # the greatest logit alone


def test_the_workspace_is_tiles_and_does_not_grow_with_tokens(store):
    door = store[0]
    one = door.workspace_bytes(8, 4, 1, 1000)
    assert one == door.workspace_bytes(8, 4, 1, 1_000_000)
    # two kinds of scratch, 4 queries, their bytes, sums and logits, and scales of a tile
    rest = 16 * 64 + 4 * (64 * 4 + 64) + (4 * (64 + 64) + 2 * 64) * 4
    looks_up = _simd.level().startswith("avx")  # codes where they are multiplied; others make a float tile of 32 tokens
    assert one == rest + (0 if looks_up else 32 * 64 * 4)
    threads = PackedAttention(door.keys, door.values, BACKEND, accuracy="integer", threads=2)
    partials = 4 * (32 + 2) * 4  # one lane on two threads: the second segment's sums
    assert threads.workspace_bytes(1, 4, 1, 10_000) - partials == 2 * threads.workspace_bytes(1, 4, 1, 64)


def damaged(store, **changes):
    door, arrays, _, queries = store
    return door.attend(**{**arrays, "queries": queries, "scale": 0.2, **changes})


def test_an_error_is_ours_and_pickles(store):
    with pytest.raises(TurboQuantError) as caught:
        damaged(store, scale=np.nan)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


BAD = {
    "queries of another dim": ({"queries": np.zeros((2, 2, 3, 63), np.float32)}, ShapeMismatch, "queries must be"),
    "queries of another rank": ({"queries": np.zeros((2, 3, 64), np.float32)}, ShapeMismatch, "queries must be"),
    "queries of other lanes": (
        {"queries": np.zeros((3, 2, 3, 64), np.float32)},
        ShapeMismatch,
        "queries must have the shape",
    ),
    "queries with NaN": (
        {"queries": np.full((2, 2, 3, 64), np.nan, np.float32)},
        NotFinite,
        "queries must be finite, got nan",
    ),
    "queries that are no array": ({"queries": [1.0]}, InvalidDtype, "queries must be an array, got <class 'list'>"),
    "float64 queries": ({"queries": np.zeros((2, 2, 3, 64))}, InvalidDtype, "queries must be float32"),
    "rows of another width": ({"key_packed": np.zeros((2, 300, 31), np.uint8)}, ShapeMismatch, "key_packed"),
    "rows apart": ({"key_packed": np.zeros((2, 600, 32), np.uint8)[:, ::2]}, ShapeMismatch, "contiguous"),
    "rows that are no bytes": ({"value_packed": np.zeros((2, 300, 12), np.int8)}, InvalidDtype, "value_packed"),
    "no array": ({"value_packed": "x"}, InvalidDtype, "value_packed must be an array"),
    "fewer values": ({"value_packed": np.zeros((2, 299, 12), np.uint8)}, ShapeMismatch, "value_packed"),
    "fewer scales": ({"key_scales": np.zeros((2, 299), np.float32)}, ShapeMismatch, "key_scales"),
    "scales of float64": ({"value_scales": np.zeros((2, 300))}, InvalidDtype, "value_scales"),
    "scales apart": ({"key_scales": np.zeros((2, 600), np.float32)[:, ::2]}, ShapeMismatch, "contiguous"),
    "limits of int32": ({"limits": np.zeros((3, 2), np.int32)}, InvalidDtype, "limits"),
    "limits of other queries": ({"limits": np.zeros((4, 2), np.int64)}, ShapeMismatch, "limits"),
    "a mask of bytes": ({"mask": np.zeros((3, 300), np.uint8)}, InvalidDtype, "mask"),
    "a mask of other tokens": ({"mask": np.zeros((3, 301), np.bool_)}, ShapeMismatch, "mask"),
    "a negative cap": ({"softcap": -1.0}, InvalidSpec, "softcap must be a finite number >= 0"),
    "an infinite scale": ({"scale": np.inf}, InvalidSpec, "scale must be a finite number"),
    "a scale that is none": ({"scale": "x"}, InvalidSpec, "scale must be a finite number"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_a_typed_error(store, case):
    changes, error, message = BAD[case]
    with pytest.raises(error, match=message):
        damaged(store, **changes)


def test_an_unaligned_array_of_scales_is_refused(store):
    raw = np.zeros(2 * 300 * 4 + 1, np.uint8)[1:].view(np.float32).reshape(2, 300)
    with pytest.raises(InvalidDtype, match="key_scales must be aligned to its items of 4 bytes"):
        damaged(store, key_scales=raw)


def test_a_readonly_result_is_refused_before_anything_is_written(store):
    door, arrays, _, queries = store
    results = [np.full(shape, 7, np.float32) for shape in ((2, 2, 3, 32), (2, 2, 3), (2, 2, 3))]
    results[2].setflags(write=False)
    with pytest.raises(InvalidDtype, match="sums must be a writable array"):
        _simd.attend(
            door._packed_keys, door._packed_values, *arrays.values(), queries, *results, None, None, 0.2, 0.0, 0, 1
        )
    assert all((array == 7).all() for array in results)


def test_a_plan_with_a_sketch_is_refused(store):
    sketched = VectorCodec(TurboQuantProd(64, 4)).plan
    with pytest.raises(InvalidSpec, match="keys with a sketch"):
        PackedAttention(sketched, store[0].values, BACKEND)
    with pytest.raises(InvalidSpec, match="values with a sketch"):
        PackedAttention(store[0].keys, sketched, BACKEND)


def test_an_unknown_accuracy_is_refused(store):
    with pytest.raises(InvalidSpec, match="accuracy must be one of"):
        PackedAttention(store[0].keys, store[0].values, BACKEND, accuracy="fast")


@pytest.mark.parametrize("threads", [0, 257, 1.0, True])
def test_a_number_of_threads_out_of_range_is_refused(store, threads):
    with pytest.raises(InvalidSpec, match="threads must be an integer"):
        PackedAttention(store[0].keys, store[0].values, BACKEND, threads=threads)
