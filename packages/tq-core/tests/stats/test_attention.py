"""Acceptance row 21: what the scale rule does to attention weights.

| row | quantity, b=4, logits of spread 1.5 and 3 | value | tolerance | N |
| --- | --- | --- | --- | --- |
| 21 | mean KL(p | p_hat) of rule unbiased / plain | .72 | at most | 3 trials x 256 queries |
| 21 | the same of prod / plain | 3 | at least | 3 trials x 256 queries |
| 21 | KL of plain, nats | .00247 / .0113 | 15 % | 3 trials x 256 queries |

Synthetic, d = 128: 2048 keys and the queries are (N(0, 1) * i^(-1/2)) B with B a random orthogonal matrix; logits are
scaled to the given standard deviation; the rotations are dense. Values play no part in a KL of weights.
"""

import numpy as np
import pytest

from tq_core import TurboQuantMSE, TurboQuantProd, VectorCodec

pytestmark = pytest.mark.stats

DIM, KEYS, QUERIES, TRIALS = 128, 2048, 256, 3
PLAIN = {1.5: 0.00247, 3.0: 0.0113}


def log_softmax(logits):
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def divergences(spread):
    """Mean KL of plain, unbiased and prod at 4 bits, averaged over trials, from scores on packed codes."""
    totals = dict.fromkeys(("plain", "unbiased", "prod"), 0.0)
    for trial in range(TRIALS):
        random = np.random.default_rng(2100 + trial)
        basis, _ = np.linalg.qr(random.standard_normal((DIM, DIM)))
        sigma = np.arange(1, DIM + 1) ** -0.5
        keys = (random.standard_normal((KEYS, DIM)) * sigma) @ basis
        queries = (random.standard_normal((QUERIES, DIM)) * sigma) @ basis
        queries *= spread / (queries @ keys.T).std()
        exact = log_softmax(queries @ keys.T)
        mse = TurboQuantMSE(DIM, 4, seed=trial, rotation="dense")
        prod = TurboQuantProd(DIM, 4, seed=trial, rotation="dense")
        for name, codec in {
            "plain": VectorCodec(mse, scale="plain"),
            "unbiased": VectorCodec(mse),
            "prod": VectorCodec(prod, scale="plain"),
        }.items():
            found = log_softmax(codec.scores(codec.encode(keys), queries).astype(np.float64))
            totals[name] += (np.exp(exact) * (exact - found)).sum(axis=1).mean() / TRIALS
    return totals


@pytest.mark.parametrize("spread", [1.5, 3.0])
def test_row_21_unbiased_scales_keep_attention(spread, accept):
    found = divergences(spread)
    count = TRIALS * QUERIES
    accept.within("21", f"attention KL of plain, b=4, spread {spread}", PLAIN[spread], found["plain"], 0.15, count)
    ratio = found["unbiased"] / found["plain"]
    accept.at_most("21", f"attention KL, unbiased / plain, b=4, spread {spread}", 0.72, ratio, count)
    accept.at_least(
        "21", f"attention KL, prod / plain, b=4, spread {spread}", 3.0, found["prod"] / found["plain"], count
    )
