"""How sure a mean over seeds is: Student's 95 % interval."""

import math
import statistics
from collections.abc import Sequence
from typing import Final

# 97.5 % quantiles of Student's distribution with 1, 2, ... degrees of freedom.
QUANTILES: Final = (
    12.706205, 4.302653, 3.182446, 2.776445, 2.570582, 2.446912, 2.364624, 2.306004, 2.262157, 2.228139, 2.200985,
    2.178813, 2.160369, 2.144787, 2.131450, 2.119905, 2.109816, 2.100922, 2.093024, 2.085963, 2.079614, 2.073873,
    2.068658, 2.063899, 2.059539, 2.055529, 2.051831, 2.048407, 2.045230, 2.042272,
)  # fmt: skip
NORMAL: Final = 1.959964


def half_width(values: Sequence[float | None]) -> float | None:
    """Half the width of the 95 % interval of the mean, values taken as normal; None for fewer than two values."""
    present = [value for value in values if value is not None]
    if len(present) < max(2, len(values)):
        return None
    quantile = QUANTILES[len(present) - 2] if len(present) - 2 < len(QUANTILES) else NORMAL
    return quantile * statistics.stdev(present) / math.sqrt(len(present))
