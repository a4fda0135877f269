"""Top-k search: what brute force finds, with ties, masks, padding and tiles decided as written."""

import numpy as np
import pytest

from tq_core import TurboQuantMSE, VectorCodec, topk


@pytest.fixture(scope="module")
def stored(gaussian_rows):
    codec = VectorCodec(TurboQuantMSE(64, 4, seed=2, backend="numpy"), search=3)
    return codec, codec.encode(gaussian_rows(300, 64)), gaussian_rows(7, 64, seed=3)


def brute_force(scores, k, eligible=None):
    """(scores, indices) by sorting everything: descending, ties to the lower index, padded."""
    allowed = np.arange(scores.shape[1]) if eligible is None else np.flatnonzero(eligible)
    best = np.full((len(scores), k), -np.inf, np.float32)
    index = np.full((len(scores), k), -1)
    for query, row in enumerate(scores):
        order = sorted(allowed.tolist(), key=lambda i: (-row[i], i))[:k]
        best[query, : len(order)], index[query, : len(order)] = row[order], order
    return best, index


@pytest.mark.parametrize("k", [1, 2, 10, 299, 300])
def test_the_k_best_of_all(stored, k):
    codec, encoded, queries = stored
    scores, rows = codec.search(encoded, queries, k)
    expected_scores, expected_rows = brute_force(codec.scores(encoded, queries), k)
    assert np.array_equal(rows, expected_rows)
    assert np.array_equal(scores, expected_scores)
    assert scores.dtype == np.float32
    assert rows.dtype == np.int64


@pytest.mark.parametrize("mask", [np.arange(300) % 7 == 0, np.arange(300) > 250, np.zeros(300, bool), [True] * 300])
def test_masked_rows_are_never_found(stored, mask):
    codec, encoded, queries = stored
    scores, rows = codec.search(encoded, queries, 5, mask)
    expected_scores, expected_rows = brute_force(codec.scores(encoded, queries), 5, mask)
    assert np.array_equal(rows, expected_rows)
    assert np.array_equal(scores, expected_scores)


def test_what_is_missing_is_padded(stored):
    codec, encoded, queries = stored
    scores, rows = codec.search(encoded[:3], queries, 5)
    assert (rows[:, 3:] == -1).all()
    assert np.isneginf(scores[:, 3:]).all()
    assert (np.sort(rows[:, :3]) == [0, 1, 2]).all()


def test_a_single_query_gives_one_row_of_results(stored):
    codec, encoded, queries = stored
    scores, rows = codec.search(encoded, queries[2], 4)
    assert scores.shape == rows.shape == (1, 4)
    assert np.array_equal(rows[0], codec.search(encoded, queries, 4)[1][2])


def test_a_stored_row_finds_itself(stored, gaussian_rows):
    codec, _, _ = stored
    x = gaussian_rows(300, 64)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    norms = codec.encode(unit)
    assert (codec.search(norms, unit, 1)[1][:, 0] == np.arange(300)).all()


def test_numpy_integers_are_legal_k(stored):
    codec, encoded, queries = stored
    assert codec.search(encoded, queries, np.int16(2))[1].shape == (7, 2)


@pytest.mark.parametrize("tile_rows", [1, 7, 64, 1 << 16])
@pytest.mark.parametrize("tile_queries", [1, 3, 256])
def test_ties_go_to_the_lower_index_whatever_the_tiles(monkeypatch, tile_rows, tile_queries):
    monkeypatch.setattr(topk, "TILE_ROWS", tile_rows)
    monkeypatch.setattr(topk, "TILE_QUERIES", tile_queries)
    table = np.random.default_rng(3).integers(-2, 3, (10, 150)).astype(np.float32)
    queries = np.arange(10, dtype=np.float32)[:, None]  # each query names its row of the table

    def score(rows, some):
        return table[some[:, 0].astype(int), rows]

    for eligible in (None, np.arange(150) % 3 != 1, np.zeros(150, bool)):
        for k in (1, 5, 40, 200):
            found = topk.best_rows(score, queries, 150, k, eligible)
            expected = brute_force(table, k, eligible)
            assert np.array_equal(found[1], expected[1])
            assert np.array_equal(found[0], expected[0])


def test_tiles_do_not_change_what_is_found(stored, monkeypatch):
    codec, encoded, queries = stored
    expected = codec.search(encoded, queries, 10)
    monkeypatch.setattr(topk, "TILE_ROWS", 41)
    monkeypatch.setattr(topk, "TILE_QUERIES", 2)
    scores, rows = codec.search(encoded, queries, 10)
    assert np.array_equal(rows, expected[1])
    assert np.allclose(scores, expected[0], rtol=1e-5, atol=1e-5)


def test_scores_of_all_rows_at_once_are_never_held(stored, monkeypatch):
    codec, encoded, queries = stored
    sizes = []
    inner = VectorCodec.scores

    def watched(self, rows, some, **options):
        found = inner(self, rows, some, **options)
        sizes.append(found.shape)
        return found

    monkeypatch.setattr(topk, "TILE_ROWS", 100)
    monkeypatch.setattr(topk, "TILE_QUERIES", 4)
    monkeypatch.setattr(VectorCodec, "scores", watched)
    codec.search(encoded, queries, 10)
    assert sizes == [(4, 100)] * 3 + [(3, 100)] * 3
