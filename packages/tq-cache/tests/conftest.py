"""Rows that caches are tested on."""

import numpy as np
import pytest


@pytest.fixture
def vectors():
    """A maker of float arrays: `vectors(shape, seed, dtype)`, norms spread over a decade."""

    def make(*shape, seed=0, dtype=np.float32):
        generator = np.random.default_rng(seed)
        x = generator.standard_normal(shape)
        return (x * np.exp(generator.uniform(-1, 1, (*shape[:-1], 1)))).astype(dtype)

    return make
