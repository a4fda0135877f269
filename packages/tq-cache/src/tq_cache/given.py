"""What the caller of a cache gives beside its policy: key means, and energies by which split stores choose channels."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tq_cache.basis import Needs
from tq_cache.checks import float_array
from tq_cache.floats import require_float32
from tq_cache.grammar import GIVEN
from tq_cache.plan import Given
from tq_core import InvalidSpec

Array = NDArray[np.floating]


def given(
    needs: Iterable[tuple[Needs, Needs]],
    lead: tuple[int, ...],
    full: tuple[int, int],
    dims: tuple[int, int],
    key_means: ArrayLike | None,
    key_energies: ArrayLike | None,
    value_energies: ArrayLike | None,
) -> Given:
    """The arrays, (*lead, dim) as they come, checked against what keys and values need; (*full, dim) as they go.

    InvalidSpec for what is missing or of no use, ShapeMismatch, InvalidDtype, NotFinite or ScaleRange for bad arrays.
    """
    wanted = {
        option
        for keys, values in needs
        for option, need in (("kmean", keys.mean), ("ksplit", keys.split), ("vsplit", values.split))
        if need == GIVEN
    }
    found: list[Array | None] = []
    for option, name, array, dim in (
        ("kmean", "key_means", key_means, dims[0]),
        ("ksplit", "key_energies", key_energies, dims[0]),
        ("vsplit", "value_energies", value_energies, dims[1]),
    ):
        if (option in wanted) != (array is not None):
            raise InvalidSpec(
                f"the policy says {option}={GIVEN}; pass {name}, an array {(*lead, dim)}"
                if array is None
                else f"{name} come with {option}={GIVEN} in the policy, which does not say so"
            )
        if array is None:
            found.append(None)
            continue
        checked = float_array(array, name, (*lead, dim))
        if name != "key_means" and (checked < 0).any():
            raise InvalidSpec(f"{name} are mean squares, 0 or more, got {checked[checked < 0][0]}")
        require_float32(checked, name)
        found.append(checked.reshape(*full, dim))
    return Given(*found)
