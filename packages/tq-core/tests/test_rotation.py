"""Rotations: orthogonal at every dimension, undone by their inverse, decided by (dim, kind, seed) alone."""

import numpy as np
import pytest

from tq_core import InvalidSpec, hadamard
from tq_core.rotation import Rotation, binary_blocks, kronecker_order
from tq_core.sketch import Sketch


def matrix_of(rotation):
    """P of z = sqrt(dim) P u, (dim, dim) float64."""
    identity = np.eye(rotation.dim, dtype=np.float32)
    return hadamard.forward(rotation, identity).T.astype(np.float64) / np.sqrt(rotation.dim)


@pytest.mark.parametrize("start", range(2, 261, 37))
def test_every_dimension_is_orthogonal(start):
    for dim in range(start, min(start + 37, 261)):
        p = matrix_of(Rotation(dim, "hadamard", dim))
        assert np.abs(p @ p.T - np.eye(dim)).max() < 1e-5, dim


@pytest.mark.parametrize("dim", [576, 768, 1536])
def test_large_dimensions_keep_inner_products(gaussian_rows, dim):
    x = gaussian_rows(20, dim)
    z = hadamard.forward(Rotation(dim, "hadamard", 1), x).astype(np.float64) / np.sqrt(dim)
    expected = x.astype(np.float64) @ x.T.astype(np.float64)
    assert np.abs(z @ z.T - expected).max() < 1e-5 * dim


@pytest.mark.parametrize("start", range(2, 261, 37))
def test_every_dimension_is_undone_by_its_inverse(gaussian_rows, start):
    for dim in range(start, min(start + 37, 261)):
        rotation = Rotation(dim, "hadamard", 3)
        x = gaussian_rows(4, dim)
        back = hadamard.inverse(rotation, hadamard.forward(rotation, x))
        assert np.abs(back - x).max() < 1e-5, dim


@pytest.mark.parametrize("kind", ["hadamard", "dense"])
@pytest.mark.parametrize("dim", [2, 12, 33, 64, 96])
def test_the_same_seed_gives_the_same_rotation_and_another_seed_another(dim, kind):
    first, again, other = (matrix_of(Rotation(dim, kind, seed)) for seed in (7, 7, 2**64 - 1))
    assert np.array_equal(first, again)
    assert np.abs(first - other).max() > 0.1


@pytest.mark.parametrize("dim", [2, 3, 16, 100])
def test_dense_rotations_are_orthonormal(dim):
    matrix = Rotation(dim, "dense", 5).matrix.astype(np.float64)
    assert np.abs(matrix @ matrix.T - np.eye(dim)).max() < 1e-6
    assert np.abs(matrix.T @ matrix - np.eye(dim)).max() < 1e-6


def test_dense_rotations_are_haar():
    # first entry of a Haar matrix: mean 0, variance 1/dim, fourth moment 3/(dim (dim + 2))
    entries = np.array([Rotation(8, "dense", seed).matrix[[0, 7], [0, 7]] for seed in range(1500)], np.float64)
    assert abs(entries.mean()) < 4 * (1 / 8 / 3000) ** 0.5
    assert abs((entries**2).mean() * 8 - 1) < 4 * (1.4 / 3000) ** 0.5
    assert abs((entries**4).mean() * 80 / 3 - 1) < 0.25


def test_dense_determinants_come_with_both_signs():
    found = {round(float(np.linalg.det(Rotation(4, "dense", seed).matrix))) for seed in range(30)}
    assert found == {-1, 1}


@pytest.mark.parametrize("order", [12, 20])
@pytest.mark.parametrize("transpose", [False, True])
def test_small_orders_are_hadamard_matrices(order, transpose):
    rotation = Rotation(order, "hadamard", 0)
    matrix = hadamard._transform(rotation, np.eye(order, dtype=np.float32), transpose=transpose)
    assert set(np.unique(matrix)) == {-1.0, 1.0}
    assert np.array_equal(matrix @ matrix.T, order * np.eye(order))


@pytest.mark.parametrize("order", [12, 20])
def test_small_orders_are_not_symmetric_so_the_inverse_needs_the_transpose(order):
    rotation = Rotation(order, "hadamard", 0)
    forward, backward = (
        hadamard._transform(rotation, np.eye(order, dtype=np.float32), transpose=flag) for flag in (False, True)
    )
    assert np.array_equal(forward.T, backward)
    assert not np.array_equal(forward, backward)


def test_dimensions_are_split_as_written():
    assert [kronecker_order(dim) for dim in (2, 64, 12, 96, 20, 80, 3, 100, 192, 1536)] == [
        *(1, 1, 12, 12, 20, 20, 0, 0, 12, 12),
    ]
    assert binary_blocks(100) == (64, 32, 4)
    assert binary_blocks(7) == (4, 2, 1)
    for dim in range(2, 300):
        assert sum(binary_blocks(dim)) == dim


@pytest.mark.parametrize(("dim", "rounds"), [(2, 8), (31, 8), (32, 5), (63, 5), (64, 3), (1536, 3)])
def test_small_dimensions_get_more_rounds(dim, rounds):
    rotation = Rotation(dim, "hadamard", 0)
    assert rotation.rounds == rounds
    assert rotation.signs.shape == (rounds, dim)


@pytest.mark.parametrize("dim", [64, 100])
def test_rounds_and_sketch_draw_from_streams_of_their_own(dim):
    rotation = Rotation(dim, "hadamard", 1)
    sketch = Rotation(dim, "hadamard", 1, sign_stream=80, permutation_stream=96)
    rows = np.concatenate([rotation.signs, sketch.signs])
    agreement = np.abs(rows @ rows.T - dim * np.eye(len(rows)))
    assert agreement.max() < 5 * np.sqrt(dim)
    if rotation.permutations is not None:
        orders = [tuple(order) for order in (*rotation.permutations, *sketch.permutations)]
        assert len(set(orders)) == len(orders)


@pytest.mark.parametrize("dim", [3, 33, 100])
def test_permutations_are_permutations(dim):
    for order in Rotation(dim, "hadamard", 2).permutations:
        assert sorted(order.tolist()) == list(range(dim))


@pytest.mark.parametrize("dim", [24, 64, 100, 128])
def test_one_hot_rows_are_spread_over_all_coordinates(dim):
    peaks = []
    for seed in range(40):
        z = hadamard.forward(Rotation(dim, "hadamard", seed), np.eye(dim, dtype=np.float32)[:1])
        peaks.append(np.abs(z).max())
    assert max(peaks) < 6  # unit variance; sqrt(dim) where nothing mixes
    assert np.median(peaks) < 4


def test_unknown_kinds_of_tables():
    with pytest.raises(InvalidSpec, match="rotation must be 'hadamard' or 'dense', got 'haar'"):
        Rotation(8, "haar", 0)
    with pytest.raises(InvalidSpec, match="sketch must be 'gaussian' or 'hadamard', got 'dense'"):
        Sketch(8, 8, "dense", 0)
    with pytest.raises(InvalidSpec, match="as many projections as dimensions, 8, got 4"):
        Sketch(8, 4, "hadamard", 0)


def test_arrays_of_a_rotation_cannot_be_written():
    for rotation in (Rotation(100, "hadamard", 1), Rotation(8, "dense", 1)):
        for table in rotation.tables:
            with pytest.raises(ValueError, match="read-only"):
                table[0] = 0
