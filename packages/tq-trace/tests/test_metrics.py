"""The figures are what their definitions say, computed a second time in the plainest way."""

from math import sqrt

import numpy as np
import pytest

from tq_trace.figures import Gathered, along_positions, figures_of
from tq_trace.metrics import FEW, exact, measure

HEADS, QUERIES, TOKENS, DIM = 2, 3, 40, 8
SCALE = 1 / sqrt(DIM)


@pytest.fixture
def case():
    """Queries, keys, values and rising positions of two heads."""
    random = np.random.default_rng(5)
    return (
        random.standard_normal((HEADS, QUERIES, DIM)),
        random.standard_normal((HEADS, TOKENS, DIM)),
        random.standard_normal((HEADS, TOKENS, DIM)).astype(np.float32),
        np.array([0, 17, 39]),
    )


def softmax(logits):
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def answers(queries, keys, values, positions, scores=None):
    """Weights and outputs of each head and query over the tokens that it sees."""
    for head in range(HEADS):
        for query, position in enumerate(positions):
            seen = slice(0, position + 1)
            own = keys[head, seen] @ queries[head, query] if scores is None else scores[head, query, seen]
            products = own.astype(np.float64)
            weights = softmax(SCALE * products)
            yield head, query, SCALE * products, weights, weights @ values[head, seen].astype(np.float64)


def disturbed(queries, keys, size, seed=9):
    random = np.random.default_rng(seed)
    return ((queries @ keys.swapaxes(1, 2)) + size * random.standard_normal((HEADS, QUERIES, TOKENS))).astype(
        np.float32
    )


@pytest.mark.parametrize("top_k", [1, 5, FEW + 4])
def test_every_figure_of_a_query_is_its_definition(case, top_k):
    queries, keys, values, positions = case
    scores = disturbed(queries, keys, 0.8)
    outputs = np.random.default_rng(2).standard_normal((HEADS, QUERIES, DIM)).astype(np.float32)
    found = measure(exact(queries, keys, values, positions, SCALE, top_k), scores, outputs, SCALE)
    truth = list(answers(queries, keys, values, positions))
    for (head, query, logits, weights, output), (_, _, own, measured, through) in zip(
        truth, answers(queries, keys, values, positions, scores), strict=True
    ):
        error = own - logits
        centred, signal = error - error.mean(), logits - logits.mean()
        at = head, query
        assert found.kl[at] == pytest.approx((weights * np.log(weights / measured)).sum(), abs=1e-12)
        assert found.square[at] == pytest.approx((centred**2).sum(), abs=1e-9)
        assert found.cross[at] == pytest.approx((centred * signal).sum(), abs=1e-9)
        assert found.signal[at] == pytest.approx((signal**2).sum(), abs=1e-9)
        assert found.shift[at] == pytest.approx(error.mean(), abs=1e-9)
        assert found.tokens[at] == len(logits)
        assert found.same_best[at] == (weights.argmax() == measured.argmax())
        if top_k <= len(logits):
            best = [set(np.argsort(-w, kind="stable")[:top_k]) for w in (weights, measured)]
            assert found.top[at] == pytest.approx(len(best[0] & best[1]) / top_k)
        assert found.output[at] == pytest.approx(((outputs[at] - output) ** 2).sum(), rel=1e-6)
        assert found.output_keys[at] == pytest.approx(((through - output) ** 2).sum(), rel=1e-4, abs=1e-9)
        assert found.output_values[at] == pytest.approx(((outputs[at] - through) ** 2).sum(), rel=1e-4)
        assert found.power[at] == pytest.approx((output**2).sum(), rel=1e-6)


def test_a_query_that_sees_one_token_can_lose_nothing_but_its_value(case):
    queries, keys, values, positions = case
    found = measure(
        exact(queries, keys, values, positions, SCALE, 5), disturbed(queries, keys, 3.0), values[:, :3], SCALE
    )
    assert (found.kl[:, 0] == 0).all()
    assert (found.top[:, 0] == 1).all()
    assert found.same_best[:, 0].all()


def test_a_shift_of_all_logits_of_a_query_is_no_error(case):
    queries, keys, values, positions = case
    truth = exact(queries, keys, values, positions, SCALE, 5)
    shifts = np.array([[3.0, -700.0, 40.0]] * HEADS)[:, :, None]
    scores = (queries @ keys.swapaxes(1, 2) + shifts).astype(np.float32)
    outputs = truth.outputs.astype(np.float32)
    found = figures(measure(truth, scores, outputs, SCALE), positions)
    assert found.kl_mean < 1e-8
    assert found.score_rmse < 1e-3
    assert found.score_shift == pytest.approx(SCALE * shifts.mean(), rel=1e-4)
    assert found.output_error < 1e-4


def figures(errors, positions):
    gathered = Gathered()
    for head in range(HEADS):
        gathered.add(errors, head, positions)
    return figures_of([gathered])


def test_shrunken_scores_have_their_factor_as_bias_and_perfect_correlation(case):
    queries, keys, values, positions = case
    truth = exact(queries, keys, values, positions, SCALE, 5)
    scores = (0.9 * (queries @ keys.swapaxes(1, 2))).astype(np.float32)
    found = figures(measure(truth, scores, truth.outputs.astype(np.float32), SCALE), positions)
    assert found.score_bias == pytest.approx(-0.1, abs=1e-6)
    assert found.score_correlation == pytest.approx(1.0, abs=1e-6)
    assert found.top_k == 1
    assert found.first_divergence is None


def test_the_first_divergence_is_the_lowest_position_that_differs(case):
    queries, keys, values, positions = case
    scores = (queries @ keys.swapaxes(1, 2)).astype(np.float32)
    truth = exact(queries, keys, values, positions, SCALE, 5)
    scores[1, 1, truth.top[1, 1, 1]] = 1e3
    found = figures(measure(truth, scores, truth.outputs.astype(np.float32), SCALE), positions)
    assert found.first_divergence == 17
    assert found.top_1 == pytest.approx(5 / 6)


def test_no_query_that_differs_in_nothing_has_a_ratio_of_nothing():
    zeros = np.zeros((1, 1, 2))
    errors = measure(
        exact(zeros, np.zeros((1, 4, 2)), np.zeros((1, 4, 2), np.float32), np.array([3]), 1.0, 2),
        np.zeros((1, 1, 4), np.float32),
        np.zeros((1, 1, 2), np.float32),
        1.0,
    )
    gathered = Gathered()
    gathered.add(errors, 0, np.array([3]))
    found = figures_of([gathered])
    assert found.kl_mean == 0
    assert (found.score_bias, found.score_correlation, found.output_error, found.key_error) == (None,) * 4


def test_stretches_along_positions_cover_every_query_once(case):
    queries, keys, values, positions = case
    errors = measure(
        exact(queries, keys, values, positions, SCALE, 5), disturbed(queries, keys, 1.0), values[:, :3], SCALE
    )
    gathered = Gathered()
    for head in range(HEADS):
        gathered.add(errors, head, positions)
    found = along_positions([gathered], TOKENS)
    assert [stretch["queries"] for stretch in found] == [2, 2, 2]
    assert [stretch["from"] for stretch in found] == [0, 17, 39]
    assert found[1]["kl_mean"] == pytest.approx(errors.kl[:, 1].mean())
