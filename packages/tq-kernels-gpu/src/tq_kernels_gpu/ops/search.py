"""The best rows of each query, straight from packed rows that lie on a device."""

from tq_core.registry import Plan
from tq_kernels_gpu.codes import scalar_plan
from tq_kernels_gpu.device import Array, Device
from tq_kernels_gpu.ops.best import MOST_KEPT, best_of, capacity_of, merge, nothing, stacked
from tq_kernels_gpu.ops.parts import parts_of_scores
from tq_kernels_gpu.ops.scan import Keeping, fits, scan_best
from tq_kernels_gpu.ops.scores import score_parts, turned_queries


def search(
    device: Device,
    plan: Plan,
    packed: Array,
    scales: Array,
    gammas: Array,
    queries: Array,
    k: int,
    mask: Array,
    accuracy: str,
) -> tuple[Array, Array]:
    """The k best rows of each query: `(scores, indices)`, (queries, k) float32 and int64, as VectorCodec.search states.

    Arrays and errors as `scores`; mask (rows,) bool or None. The scores are those of `scores` at the same accuracy, bit
    for bit, but for -0, which is 0. A few queries keep up to MOST_KEPT rows within the pass over all rows.
    """
    plan = scalar_plan(plan)
    stage, sketch = parts_of_scores(device, plan, packed, scales, gammas)
    rotated, projected = turned_queries(device, plan, queries)
    count, rows = len(queries), len(packed)
    keep = min(k, rows)
    if not keep or not count:
        return nothing(device, count, k)
    if keep <= MOST_KEPT and fits(device, stage, sketch, count, capacity_of(keep)):
        keeping = Keeping(mask, keep, capacity_of(keep))
        found = scan_best(device, stage, sketch, rotated, projected, keeping)
        return stacked(device, [merge(device, keys, keep, k) for keys in found])
    one_pass = fits(device, stage, sketch, count)

    def score(some: slice, tile: slice) -> Array:
        part = None if projected is None else projected[some]
        own = None if sketch is None else sketch.rows(tile)
        return score_parts(device, stage.rows(tile), own, rotated[some], part, one_pass=one_pass)

    return best_of(device, score, count, rows, k, mask)
