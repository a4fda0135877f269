"""Memory of a cache tensor: two arrays in turn, prefixes as contiguous views, growth that keeps the past."""

import numpy as np

from tq_onnx.buffers import GrownInPlace, TurnBuffer
from tq_onnx.feeds import StepInputs


def test_views_are_contiguous_and_share_memory() -> None:
    buffer = TurnBuffer(2, 3, 4, "float16", 10)
    for view in (buffer.past(7), buffer.target(8)):
        assert view.flags.c_contiguous
        assert view.flags.writeable
        assert view.dtype == np.float16
    assert np.shares_memory(buffer.past(7), buffer.past(9))
    assert not np.shares_memory(buffer.past(10), buffer.target(10))


def test_target_becomes_the_past() -> None:
    buffer = TurnBuffer(1, 2, 4, "float32", 5)
    buffer.target(3)[...] = 7
    buffer.turn()
    np.testing.assert_array_equal(buffer.past(3), 7)
    assert buffer.nbytes == 2 * 5 * 8 * 4


def test_growth_keeps_the_past() -> None:
    buffer = TurnBuffer(1, 2, 4, "float32", 1)
    buffer.target(1)[...] = 5
    buffer.turn()
    assert buffer.target(100).shape == (1, 2, 100, 4)
    np.testing.assert_array_equal(buffer.past(1), 5)


def test_growth_is_geometric() -> None:
    buffer = TurnBuffer(1, 1, 1, "float32")
    sizes = set()
    for tokens in range(1, 2000):
        buffer.target(tokens)
        buffer.turn()
        sizes.add(buffer.nbytes)
    assert len(sizes) < 20


def test_memory_grown_in_place_keeps_its_rows_and_its_limit() -> None:
    buffer = GrownInPlace(2, 3, 4, "float32", 5, 100)
    assert buffer.past(0) is buffer.target(5)
    buffer.target(5)[...] = 7
    for tokens in (6, 60, 99, 100):
        grown = buffer.target(tokens)
        assert tokens <= grown.shape[2] <= 100
        np.testing.assert_array_equal(grown[:, :, :5], 7)
        np.testing.assert_array_equal(grown[:, :, 5:], 0)
    assert buffer.nbytes == 2 * 3 * 100 * 4 * 4
    assert GrownInPlace(1, 1, 1, "float16", 500, 100).nbytes == 200


def test_empty_past_has_rank_four() -> None:
    assert TurnBuffer(2, 3, 4, "float32").past(0).shape == (2, 3, 0, 4)


def test_mask_grows_and_stays_ones() -> None:
    inputs = StepInputs(3)
    for tokens in (1, 2, 50, 4):
        mask = inputs.attention_mask(tokens, "int64")
        assert mask.shape == (3, tokens)
        assert mask.dtype == np.int64
        np.testing.assert_array_equal(mask, 1)
    assert inputs.attention_mask(2, "int32").dtype == np.int32


def test_positions_go_on_where_the_past_ends() -> None:
    batched = StepInputs(2).positions(5, 8, "int64")
    assert batched.tolist() == [[5, 6, 7], [5, 6, 7]]
    assert batched.flags.c_contiguous
