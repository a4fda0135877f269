"""A baseline after KIVI (arXiv 2402.02750): keys min-max by channel over groups of tokens, values by token.

Written here in numpy, without its kernels: its errors and bytes are shown, its speed is not.
"""

from math import gcd
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tq_cache.affine import AffineCodec
from tq_trace.dense import DenseRun, Packed
from tq_trace.methods import Run, Stages
from tq_trace.task import Task

F32 = NDArray[np.float32]

GROUP: Final = 32  # tokens of a key group and channels of a value group, as published
LEAST_GROUP: Final = 8  # below that scalars outweigh codes; such dims take all their channels as one group


class Kivi:
    """`kivi4`: groups of 32; the tokens of the group that is not yet full stay exact."""

    def __init__(self, bits: int) -> None:
        self.bits, self.name, self.kind, self.backend = bits, f"kivi{bits}", "baseline", "numpy"

    def start(self, task: Task) -> Run:
        """As Method."""
        return DenseRun(task, self.pack(task))

    def stages(self, task: Task) -> Stages | None:
        """As Method: none."""
        return None

    def pack(self, task: Task) -> Packed:
        """All full groups as codes, what is left over as it came."""
        heads, tokens, dim = task.keys.shape
        full = tokens // GROUP * GROUP
        blocks = task.keys[:, :full].reshape(heads, full // GROUP, GROUP, dim).swapaxes(2, 3)
        keys, key_bytes = _through(blocks.reshape(-1, GROUP), self.bits)
        keys = keys.reshape(heads, full // GROUP, dim, GROUP).swapaxes(2, 3).reshape(heads, full, dim)
        value_dim = task.values.shape[2]
        group = gcd(value_dim, GROUP)
        group = group if group >= LEAST_GROUP else value_dim
        values, value_bytes = _through(task.values[:, :full].reshape(-1, group), self.bits)
        values = values.reshape(heads, full, value_dim)
        exact = [side[:, full:] for side in (task.keys, task.values)]
        return Packed(
            np.concatenate([keys, exact[0].astype(np.float32)], axis=1),
            np.concatenate([values, exact[1].astype(np.float32)], axis=1),
            {
                "codes": key_bytes["packed"] + value_bytes["packed"],
                "norms": sum(one[name] for one in (key_bytes, value_bytes) for name in ("scales", "zeros")),
                "window": sum(side.nbytes for side in exact),
                "tables": 0,
            },
            exact_from=lambda positions: (positions + 1) // GROUP * GROUP,
        )


def _through(rows: NDArray[np.floating], bits: int) -> tuple[F32, dict[str, int]]:
    """Rows after coding, and the bytes of each array that holds them."""
    codec = AffineCodec(rows.shape[1], bits, symmetric=False)
    held = codec.encode(np.ascontiguousarray(rows))
    return codec.decode(held), {name: array.nbytes for name, array in held.items()}
