"""Statistics against definitions written out in plain Python, and at the ends of float64."""

from math import fsum, sqrt
from statistics import median

import numpy as np
import pytest

from tq_trace import Bfloat16, KvTrace, NormSummary, Peak, measure


def traced(keys, values=None):
    keys = np.asarray(keys)
    values = np.ones((*keys.shape[:2], 2)) if values is None else values
    queries = np.ones((keys.shape[0], 1, keys.shape[2]))
    return KvTrace(keys, values, queries, np.zeros((len(keys), 1), int), model="m", benchmark="b", layer=0)


def plain(array):
    """Norm summary, outlier channels, mean share, largest positions, first token, as the docstrings define them."""
    samples, tokens, dim = array.shape
    rows = [[float(x) for x in array[s, t]] for s in range(samples) for t in range(tokens)]
    norms = [sqrt(fsum(x * x for x in row)) for row in rows]
    loud = [sqrt(fsum(row[c] ** 2 for row in rows) / len(rows)) for c in range(dim)]
    middle = median(loud)
    outliers = sorted(((c, loud[c] / middle) for c in range(dim) if loud[c] > 3 * middle), key=lambda peak: -peak[1])
    mean = [fsum(row[c] for row in rows) / len(rows) for c in range(dim)]
    share = fsum(x * x for x in mean) / (fsum(norm**2 for norm in norms) / len(rows))
    at = [fsum(norms[s * tokens + t] for s in range(samples)) / samples for t in range(tokens)]
    largest = sorted(((t, at[t] / median(at)) for t in range(tokens)), key=lambda peak: -peak[1])[:4]
    return (min(norms), median(norms), max(norms)), outliers, share, largest, at[0] / median(at)


@pytest.mark.parametrize(("samples", "tokens", "dim"), [(1, 1, 1), (1, 6, 5), (3, 7, 16), (2, 30, 65)])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_statistics_are_what_their_definitions_say(samples, tokens, dim, dtype):
    random = np.random.default_rng(11)
    keys = random.standard_normal((samples, tokens, dim)) + random.standard_normal(dim)
    keys[..., dim // 2] *= 20
    keys[..., dim // 3] *= 9
    keys[:, tokens // 2] *= 3
    keys = keys.astype(dtype)
    found = measure(traced(keys)).keys
    norms, outliers, share, largest, first = plain(keys)
    assert (found.norms.minimum, found.norms.median, found.norms.maximum) == pytest.approx(norms)
    assert [peak.index for peak in found.outlier_channels] == [index for index, _ in outliers]
    assert [peak.ratio for peak in found.outlier_channels] == pytest.approx([ratio for _, ratio in outliers])
    assert found.mean_share == pytest.approx(share)
    assert [peak.index for peak in found.largest] == [index for index, _ in largest]
    assert [peak.ratio for peak in found.largest] == pytest.approx([ratio for _, ratio in largest])
    assert found.first_token == pytest.approx(first)


def test_the_mean_is_over_all_samples_and_tokens():
    keys = np.array([[[3.0, 4.0], [3.0, 4.0]], [[-3.0, -4.0], [-3.0, -4.0]]])
    assert measure(traced(keys)).keys.mean_share == 0
    assert measure(traced(np.abs(keys))).keys.mean_share == 1


def test_a_channel_at_three_times_the_median_is_no_outlier():
    keys = np.ones((1, 2, 5))
    keys[..., 1] = 3
    assert measure(traced(keys)).keys.outlier_channels == ()
    keys[..., 1] = 3.5
    assert measure(traced(keys)).keys.outlier_channels == (Peak(1, 3.5),)


def test_positions_that_tie_come_in_order():
    assert [peak.index for peak in measure(traced(np.ones((2, 9, 3)))).keys.largest] == [0, 1, 2, 3]


def test_norm_ratio_is_of_medians():
    keys, values = np.zeros((1, 3, 2)), np.zeros((1, 3, 4))
    keys[0, :, 0], values[0, :, 3] = [1, 6, 100], [2, 4, 50]
    found = measure(traced(keys, values))
    assert found.norm_ratio == 1.5
    assert found.keys.norms == NormSummary(1, 6, 100)


def test_bfloat16_is_measured_by_its_values():
    values = np.random.default_rng(2).standard_normal((2, 4, 8)).astype(np.float32)
    bits = (values.view(np.uint32) >> 16).astype(np.uint16)
    assert measure(traced(values)).keys != measure(traced(np.ones((2, 4, 8)))).keys
    narrow = KvTrace(
        Bfloat16(bits), np.ones((2, 4, 2)), np.ones((2, 1, 8)), np.zeros((2, 1), int), model="m", benchmark="b", layer=0
    )
    assert measure(narrow) == measure(traced(Bfloat16(bits).widen()))


def test_zeros_have_no_ratios():
    found = measure(traced(np.zeros((1, 3, 4)), np.zeros((1, 3, 4))))
    assert found.keys.norms == NormSummary(0, 0, 0)
    assert found.keys.outlier_channels == ()
    assert (found.keys.mean_share, found.keys.first_token, found.norm_ratio) == (None, None, None)
    assert found.keys.largest[0] == Peak(0, None)


def test_channels_among_silent_ones_are_outliers_without_a_ratio():
    keys = np.zeros((1, 3, 5))
    keys[..., 2] = 1
    assert measure(traced(keys)).keys.outlier_channels == (Peak(2, None),)


@pytest.mark.parametrize("exponent", [-1060, -600, 0, 600, 1020])
def test_the_ends_of_float64_are_measured_like_the_middle(exponent):
    keys = np.array([[[3.0, 4.0], [0.0, 2.0], [1.0, 0.0]]])
    found = measure(traced(np.ldexp(keys, exponent))).keys
    middle = measure(traced(keys)).keys
    assert found.norms == NormSummary(*(np.ldexp(norm, exponent) for norm in (1.0, 2.0, 5.0)))
    assert (found.mean_share, found.largest, found.first_token) == (
        middle.mean_share,
        middle.largest,
        middle.first_token,
    )


def test_a_norm_beyond_float64_is_unknown():
    keys = np.full((1, 2, 4), np.finfo(np.float64).max)
    found = measure(traced(keys))
    assert found.keys.norms == NormSummary(None, None, None)
    assert found.keys.mean_share == 1
    assert found.norm_ratio is None
    tiny = np.full((1, 2, 1), 1e-300)
    assert measure(traced(np.full((1, 2, 1), 1e300), tiny)).norm_ratio is None
