"""The yardsticks are what they are called: KIVI as published, faiss as installed."""

import numpy as np
import pytest

from tq_core import BackendUnavailable, InvalidSpec
from tq_trace import Workload, catalogue, peers, replay, synthetic
from tq_trace.kivi import GROUP, Kivi
from tq_trace.task import tasks

SHAPE = Workload(layers=1, kv_heads=2, head_dim=64, tokens=150, query_count=6, outlier_channels=2, norm_ratio=4.0)


@pytest.fixture(scope="module")
def task():
    return next(tasks(synthetic(SHAPE)))


def min_max(rows, bits):
    """Plain min-max quantization of the last axis with float16 scalars."""
    low = rows.min(axis=-1, keepdims=True).astype(np.float16).astype(np.float64)
    step = ((rows.max(axis=-1, keepdims=True) - low) / (2**bits - 1)).astype(np.float16).astype(np.float64)
    return low + step * np.clip(np.rint((rows - low) / np.where(step > 0, step, 1)), 0, 2**bits - 1)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_kivi_groups_keys_by_channel_and_values_by_token(task, bits):
    packed = Kivi(bits).pack(task)
    keys, values = task.keys[0].astype(np.float64), task.values[0].astype(np.float64)
    for start in range(0, 128, GROUP):
        for channel in (0, 17, 63):
            np.testing.assert_allclose(
                packed.keys[0, start : start + GROUP, channel],
                min_max(keys[start : start + GROUP, channel], bits),
                rtol=1e-4,
                atol=1e-4,
            )
        np.testing.assert_allclose(
            packed.values[0, start, 32:], min_max(values[start, 32:], bits), rtol=1e-4, atol=1e-4
        )


def test_kivi_keeps_the_group_that_is_not_full_exact_and_counts_it(task):
    packed = Kivi(4).pack(task)
    np.testing.assert_array_equal(packed.keys[:, 128:], task.keys[:, 128:].astype(np.float32))
    assert packed.bytes["window"] == 2 * 2 * 22 * 64 * 2
    assert packed.bytes["codes"] == 2 * 2 * 128 * 64 // 2
    assert packed.bytes["norms"] == 2 * 2 * (128 * 64 // GROUP) * 4
    assert list(packed.exact_from(np.array([0, 30, 31, 32, 95]))) == [0, 0, 32, 32, 96]


def test_a_query_sees_the_last_tokens_of_kivi_as_they_came(task):
    found = replay(synthetic(SHAPE), ["kivi2"], baselines=(), times=False).row("kivi2")
    assert found.along[0]["from"] < GROUP
    assert found.along[0]["kl_mean"] < 1e-9
    assert found.along[-1]["kl_mean"] > 1e-3


@pytest.mark.parametrize("dim", [20, 7, 80])
def test_kivi_takes_any_dim(dim):
    own = Workload(layers=1, kv_heads=1, head_dim=dim, tokens=70, query_count=3)
    assert replay(synthetic(own), ["kivi8"], baselines=(), times=False).row("kivi8")["value_error"] < 1e-3


def test_faiss_is_asked_for_by_name_and_missed_by_name(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(BackendUnavailable, match="pip install faiss-cpu"):
        peers.FaissMethod("sq", 4)


def test_rows_that_are_not_shown_are_named(monkeypatch):
    monkeypatch.setattr(catalogue, "yardsticks", lambda: catalogue.BASELINES)
    assert replay(synthetic(SHAPE), ["k=mse4,v=mse4"], times=False).skipped == (
        "faiss rows: faiss-cpu is not installed",
    )


@pytest.mark.parametrize(
    ("name", "low", "high"), [("faiss-sq8", 0, 1e-3), ("faiss-sq4", 1e-3, 0.1), ("faiss-rabitq4", 1e-4, 0.1)]
)
def test_faiss_rows_have_errors_of_their_bits(name, low, high):
    pytest.importorskip("faiss", reason="faiss-cpu is not installed (dependency group peers)")
    found = replay(synthetic(SHAPE), [name], baselines=(), times=False).row(name)
    assert found.kind == "peer"
    assert low < found["kl_mean"] < high
    assert found.cache_bytes > 0
    assert abs(found["score_bias"]) < 0.02


def test_a_key_mean_does_not_cost_rabitq_its_accuracy():
    pytest.importorskip("faiss", reason="faiss-cpu is not installed (dependency group peers)")
    shape = {"layers": 1, "kv_heads": 1, "head_dim": 64, "tokens": 300, "query_count": 8}
    found = [
        replay(synthetic("isotropic", key_mean=mean, **shape), ["faiss-rabitq4"], baselines=(), times=False).rows[1]
        for mean in (0.0, 6.0)
    ]
    assert found[1]["kl_mean"] < 1.5 * found[0]["kl_mean"]


def test_faiss_has_no_other_widths():
    pytest.importorskip("faiss", reason="faiss-cpu is not installed (dependency group peers)")
    with pytest.raises(InvalidSpec, match="faiss-sq has 4, 6, 8 bits, got 5"):
        peers.FaissMethod("sq", 5)
