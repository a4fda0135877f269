"""Rotations follow the written operation order to the last bit, against a slow float32 loop."""

import numpy as np
import pytest

from tq_core import hadamard
from tq_core.rotation import Rotation

# each kind of transform: powers of two, 12 and 20 times them, blocks; both numbers of rounds
DIMS = (2, 3, 4, 7, 8, 9, 12, 15, 17, 20, 24, 31, 33, 40, 48, 63, 64, 65, 80, 96, 100, 127, 128, 129, 160, 192)


@pytest.mark.parametrize("dim", DIMS)
def test_forward_is_bit_equal_to_the_written_order(slow, awkward_rows, dim):
    x = awkward_rows(dim)[[0, 3, 8, 10, 12]]
    fast = hadamard.forward(Rotation(dim, "hadamard", 77), x)
    slowly = np.array([slow.rotate(row, 77) for row in x], np.float32)
    assert fast.tobytes() == slowly.tobytes()


@pytest.mark.parametrize("dim", DIMS)
def test_inverse_is_bit_equal_to_the_written_order(slow, awkward_rows, dim):
    z = awkward_rows(dim)[[1, 5, 7, 10, 11]]
    fast = hadamard.inverse(Rotation(dim, "hadamard", 78), z)
    slowly = np.array([slow.unrotate(row, 78) for row in z], np.float32)
    assert fast.tobytes() == slowly.tobytes()


def test_rows_do_not_depend_on_the_batch_they_come_in(gaussian_rows):
    for dim in (96, 100, 128):
        rotation = Rotation(dim, "hadamard", 3)
        x = gaussian_rows(1500, dim)  # more than one tile
        together = hadamard.forward(rotation, x)
        for row in (0, 1, 511, 700, 1499):
            assert hadamard.forward(rotation, x[row : row + 1]).tobytes() == together[row].tobytes()
