"""What a cache of a policy surely holds, checked before any layer takes a token."""

import math

import numpy as np
import pytest

from tq_cache import CachePolicy, DecoderCache
from tq_core import NotFinite, ScaleRange
from tq_onnx.admission import LARGEST_NORM, check_rows, largest_norm

STORES = ["mse1", "mse2", "mse8", "prod2", "prod8", "int2", "int8", "absmax2", "absmax8", "float16"]


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("shape", ["even", "spike"])
def test_rows_of_the_largest_norm_fit_every_store(store: str, shape: str) -> None:
    rows = np.ones(64) if shape == "even" else np.eye(64)[5]
    rows = (rows / np.linalg.norm(rows) * LARGEST_NORM).astype(np.float32).reshape(1, 1, 1, 64)
    cache = DecoderCache(1, 1, 64, f"k={store},v={store}")
    assert largest_norm(cache.policy) == LARGEST_NORM
    check_rows(rows, LARGEST_NORM * (1 + 1e-6), "key")
    cache.append(rows, -rows, 0)
    assert np.isfinite(cache.keys(0)).all()


def test_rows_of_the_largest_norm_fit_while_a_mean_is_not_known() -> None:
    cache = DecoderCache(1, 1, 64, "k=mse4,v=mse4,kmean=3")
    rows = (np.eye(64)[:1] * largest_norm(cache.policy)).astype(np.float32).reshape(1, 1, 1, 64)
    for row in (rows, rows, -rows, rows, -rows):
        cache.append(row, row, 0)
    assert np.isfinite(cache.keys(0)).all()


@pytest.mark.parametrize(
    ("policy", "limit"),
    [
        ("k=float32,v=float32", math.inf),
        ("k=mse4,v=int4,norms=float32", math.inf),
        ("k=mse4,v=float16,norms=float32", LARGEST_NORM),
        ("k=float32,v=mse4", LARGEST_NORM),
        ("k=mse4,v=mse4,kmean=8", LARGEST_NORM / 2),
        ("k=mse4x4+mse2,v=mse4,ksplit=given", LARGEST_NORM),
        ("k=float16x4+mse2,v=mse4,norms=float32,ksplit=given", LARGEST_NORM),
        ("k=mse4x4+mse2,v=mse4", LARGEST_NORM / 2),
    ],
)
def test_limit_follows_from_what_is_stored(policy: str, limit: float) -> None:
    assert largest_norm(CachePolicy.parse(policy)) == limit


def test_float16_rows_are_measured_without_overflow() -> None:
    rows = np.full((1, 1, 1, 64), 2000, np.float16)  # its square is beyond float16
    check_rows(rows, LARGEST_NORM, "key")
    with pytest.raises(ScaleRange, match="key of new token 0, head 0, sequence 0 has norm 40000"):
        check_rows(rows * np.float16(2.5), LARGEST_NORM, "key")


def test_first_offender_is_named() -> None:
    rows = np.zeros((2, 3, 4, 8), np.float32)
    rows[1, 2, 3, 4] = np.nan
    with pytest.raises(NotFinite, match="value of new token 3, head 2, sequence 1 has NaN or infinity"):
        check_rows(rows, math.inf, "value")


def test_no_limit_takes_all_that_is_finite() -> None:
    check_rows(np.full((1, 1, 1, 8), 3e38, np.float32), math.inf, "key")
