"""What a head learns from its first tokens: when it is known, that it stays, what it is worth and what is refused."""

from functools import partial

import numpy as np
import pytest

from tq_cache import DecoderCache, MultiHeadKVCache, PolicyMismatch, QuantizedKVCache
from tq_core import InvalidDtype, InvalidSpec, NotFinite, ScaleRange, ShapeMismatch

DIM = 32


@pytest.fixture
def leaning(vectors):
    """Rows around a mean that is several times longer than what differs between them."""

    def make(*shape, seed=0):
        return vectors(*shape, seed=seed) + 20 * vectors(*shape[:-2], 1, shape[-1], seed=99)

    return make


def _exact(cache, x):
    return np.flatnonzero((cache.keys() == x).all(axis=-1)).tolist()


def test_tokens_wait_for_the_last_of_the_first_and_are_quantized_together(vectors):
    cache = QuantizedKVCache(DIM, "k=mse4,v=mse4,kmean=4,sinks=1,window=2")
    x = vectors(9, DIM)
    assert cache.append(x[:6], x[:6]) == range(1, 1)  # a sink, three that wait, a window of two
    assert _exact(cache, x[:6]) == [0, 1, 2, 3, 4, 5]
    assert (cache.values() == x[:6]).all()  # keys and values always hold the same tokens
    assert cache.ledger().window == 2 * 5 * DIM * 4
    assert cache.ledger().means == 0
    assert cache.append(x[6:7], x[6:7]) == range(1, 5)
    assert _exact(cache, x[:7]) == [0, 5, 6]
    assert cache.ledger().means == DIM * 4
    assert cache.append(x[7:], x[7:]) == range(5, 7)


@pytest.mark.parametrize("window", [0, 3])
def test_the_room_of_tokens_that_waited_is_given_back(window, vectors):
    cache = QuantizedKVCache(DIM, f"k=mse4,v=mse4,kmean=100,window={window}", capacity=110)
    for token in vectors(100 + window, 1, DIM):
        cache.append(token, token)
    ledger = cache.ledger()
    assert ledger.window == window * 2 * DIM * 4
    assert ledger.padding == 10 * 2 * (DIM // 2 + 2)  # that of the codes alone


def test_nothing_is_fixed_before_and_all_of_it_stays_until_clear(vectors):
    policy = "k=mse4,v=mse4x4+mse2,kmean=4,vsplit=3"
    x, others = vectors(20, DIM), vectors(20, DIM, seed=5)
    cache, plain = QuantizedKVCache(DIM, policy), QuantizedKVCache(DIM, policy)
    cache.append(others[:3], others[:3])
    cache.crop(0)
    for held in (cache, plain):
        held.append(x, x)
    assert np.array_equal(cache.keys(), plain.keys())
    cache.crop(0)
    for held in (cache, plain):
        held.append(others[:1], others[:1])  # quantized at once, in the basis of what is gone
    assert np.array_equal(cache.keys(), plain.keys()[20:])
    cache.clear()
    assert cache.ledger().total == cache.ledger().tables
    cache.append(others[:3], others[:3])
    assert np.array_equal(cache.keys(), others[:3])


def test_rows_learn_each_from_its_own_tokens(vectors):
    cache = DecoderCache(1, 2, DIM, "k=mse4,v=mse4,kmean=4", batch=2)
    x = vectors(2, 2, 8, DIM)
    cache.append(x[:, :, :3], x[:, :, :3], 0)
    cache.crop([3, 1])
    cache.append(x[:, :, 3:5], x[:, :, 3:5], 0)
    assert np.array_equal(cache.split()[1].keys(0)[0], x[1][:, [0, 3, 4]])  # still waits for one
    assert not np.array_equal(cache.split()[0].keys(0)[0], x[0][:, :5])
    first, second = (part.fork() for part in cache.split())
    again = DecoderCache.merge([second, first])
    again.append(x[::-1, :, 5:], x[::-1, :, 5:], 0)
    cache.append(x[:, :, 5:], x[:, :, 5:], 0)
    for ours, theirs in zip(again.split(), cache.split()[::-1], strict=True):
        assert np.array_equal(ours.keys(0), theirs.keys(0))


def test_pruning_leaves_waiting_tokens_waiting(vectors):
    cache = QuantizedKVCache(DIM, "k=mse4,v=mse4,kmean=6,sinks=1")
    x = vectors(9, DIM)
    cache.append(x[:6], x[:6])
    cache.reorder([0, 5, 3])
    assert np.array_equal(cache.keys(), x[[0, 5, 3]])
    assert cache.append(x[5:8], x[5:8]) == range(1, 1)
    assert cache.append(x[8:], x[8:]) == range(1, 7)


@pytest.mark.parametrize("backend", ["numpy", "auto"])
@pytest.mark.parametrize("options", [{}, {"causal": True}, {"softcap": 5.0}, {"accuracy": "integer"}], ids=str)
def test_a_mean_changes_no_attention_but_the_error(backend, options, leaning, vectors):
    keys, values = leaning(2, 300, DIM), vectors(2, 300, DIM, seed=1)
    queries = vectors(4, 6, DIM, seed=2)
    exact = MultiHeadKVCache(2, DIM, "k=float32,v=float32")
    exact.append(keys, values)
    expected = exact.attend(queries, **options)
    errors = []
    for policy in ("k=mse4,v=float32,sinks=2,window=30", "k=mse4,v=float32,sinks=2,window=30,kmean=64"):
        cache = MultiHeadKVCache(2, DIM, policy, backend=backend)
        cache.append(keys, values)
        errors.append(float(np.linalg.norm(cache.attend(queries, **options) - expected)))
    assert errors[1] < errors[0] / 2


@pytest.mark.parametrize("policy", ["k=mse3x8+mse2,v=mse4", "k=mse4,v=mse3x8+mse2"])
def test_outlier_channels_take_their_bits_and_spare_the_others(policy, vectors):
    keys = vectors(1, 400, 64)
    loud = [3, 17, 18, 30, 31, 40, 55, 63]
    keys[..., loud] *= 12
    cache, plain = MultiHeadKVCache(1, 64, policy), MultiHeadKVCache(1, 64, policy.replace("mse3x8+mse2", "mse2"))
    for held in (cache, plain):
        held.append(keys, keys)
    side = cache._layer.groups[0].keys if policy.startswith("k=mse3x") else cache._layer.groups[0].values
    assert side.basis.order[0, :8].tolist() == loud
    assert side.basis.order[0, 8:].tolist() == [channel for channel in range(64) if channel not in loud]
    read = "keys" if policy.startswith("k=mse3x") else "values"
    quiet = np.setdiff1d(np.arange(64), loud)
    error = {held: (getattr(held, read)() - keys)[:, 64:, quiet] for held in (cache, plain)}
    assert np.linalg.norm(error[cache]) < np.linalg.norm(error[plain]) / 4


def test_bits_of_the_papers_policies_are_what_it_says_once_scales_are_counted(vectors):
    for name, bits in (("paper-2.5", 2.5), ("paper-3.5", 3.5)):
        cache = MultiHeadKVCache(2, 128, name)
        cache.append(vectors(2, 500, 128), vectors(2, 500, 128))
        ledger = cache.ledger()
        assert ledger.bits_per_value == bits
        assert ledger.codes == 2 * 2 * 500 * (bits - 0.25) * 16
        assert ledger.norms == 2 * 2 * 500 * 2 * 2
        assert ledger.channels == 2 * 2 * 128 * 8


def test_given_means_and_channels_are_known_at_once_and_survive_clear(vectors):
    means, energies = vectors(2, 3, DIM), np.abs(vectors(2, 3, DIM, seed=1))
    policy = "k=mse4x4+mse2,v=mse4x4+mse2,kmean=given,ksplit=given,vsplit=given"
    cache = DecoderCache(2, 3, DIM, policy, key_means=means, key_energies=energies, value_energies=energies)
    x = vectors(1, 3, 5, DIM, seed=2)
    for _ in range(2):
        assert cache.append(x, x, 1) == [range(5)]
        side = cache._rows[0][1].groups[0].keys
        assert np.array_equal(side.basis.mean, means[1])
        assert all(
            set(order[:4]) == set(np.argsort(own)[-4:])
            for order, own in zip(side.basis.order, energies[1], strict=True)
        )
        cache.clear()
    one = QuantizedKVCache(DIM, "k=mse4,v=mse4,kmean=given", key_means=means[0, 0].astype(np.float64))
    layer = MultiHeadKVCache(3, DIM, "k=mse4,v=mse4,kmean=given", key_means=means[0])
    one.append(x[0, 0], x[0, 0]), layer.append(x[0], x[0])
    assert np.array_equal(one.keys(), layer.keys()[0])


def test_a_given_mean_of_zero_changes_nothing(vectors):
    cache = QuantizedKVCache(DIM, "k=mse4,v=mse4,kmean=given", key_means=np.zeros(DIM))
    plain = QuantizedKVCache(DIM, "k=mse4,v=mse4")
    for held in (cache, plain):
        held.append(vectors(9, DIM), vectors(9, DIM))
    assert np.array_equal(cache.keys(), plain.keys())


@pytest.mark.parametrize(
    ("policy", "arrays", "error", "says"),
    [
        ("kmean=given", {}, InvalidSpec, r"says kmean=given; pass key_means, an array \(2, 32\)"),
        ("kmean=8", {"key_means": np.ones((2, DIM))}, InvalidSpec, "key_means come with kmean=given"),
        (
            "kmean=given",
            {"key_means": np.ones(DIM)},
            ShapeMismatch,
            r"key_means must have shape \(2, 32\), got \(32,\)",
        ),
        ("kmean=given", {"key_means": np.ones((2, DIM), int)}, InvalidDtype, "key_means must be float16"),
        ("kmean=given", {"key_means": np.full((2, DIM), np.nan)}, NotFinite, r"key_means\[0, 0\] is nan"),
        ("kmean=given", {"key_means": np.full((2, DIM), 1e39)}, ScaleRange, "key_means are beyond float32"),
        ("ksplit=given", {"key_energies": -np.ones((2, DIM))}, InvalidSpec, "key_energies are mean squares, 0 or more"),
        ("ksplit=given", {}, InvalidSpec, "says ksplit=given; pass key_energies"),
        ("vsplit=given", {}, InvalidSpec, r"says vsplit=given; pass value_energies, an array \(2, 16\)"),
        ("ksplit=8", {"value_energies": np.ones((2, 16))}, InvalidSpec, "value_energies come with vsplit=given"),
    ],
)
def test_what_is_given_must_be_what_the_policy_asks_for(policy, arrays, error, says):
    with pytest.raises(error, match=says):
        MultiHeadKVCache(2, DIM, f"k=mse4x4+mse2,v=mse4x4+mse2,{policy}", value_dim=16, **arrays)


@pytest.mark.parametrize(("limit", "fits"), [(9, False), (10, True)])
def test_tokens_are_not_evicted_before_anything_is_learned_from_them(limit, fits, vectors):
    make = partial(QuantizedKVCache, DIM, "k=mse4,v=mse4x4+mse2,kmean=3,vsplit=7,window=3", max_tokens=limit)
    if fits:
        cache = make()
        cache.append(vectors(40, DIM), vectors(40, DIM))
        assert len(cache) == limit
    else:
        with pytest.raises(InvalidSpec, match=r"max_tokens=9 evicts tokens before .* takes 10 at least"):
            make()


def test_a_waiting_token_that_no_mean_could_make_fit_is_refused_when_it_comes(vectors):
    cache = QuantizedKVCache(DIM, "k=mse4,v=mse4,kmean=3")
    cache.append(vectors(1, DIM), vectors(1, DIM))
    before = cache.keys().tobytes(), cache.ledger()
    large = np.zeros((1, DIM))
    large[0, 3] = 9000.0
    with pytest.raises(ScaleRange, match=r"norm 9000 waits for .* first 3 tokens; norms up to 8188 surely fit"):
        cache.append(large, vectors(1, DIM))
    assert (cache.keys().tobytes(), cache.ledger()) == before
    large *= 8000 / 9000
    for sign in (1, -1, -1, 1):  # as far as can be from their mean
        cache.append(sign * large, vectors(1, DIM))
    assert np.isfinite(cache.keys()).all()


@pytest.mark.parametrize("far", [1e39, 1e300])
def test_a_key_beyond_float32_is_refused_with_a_mean_known_or_not(far, vectors):
    cache = QuantizedKVCache(DIM, "k=mse4,v=mse4,kmean=2,norms=float32")
    huge = np.full((2, DIM), far)
    with pytest.raises(ScaleRange, match="a key less the mean of its head is beyond float32"):
        cache.append(huge, vectors(2, DIM))
    assert len(cache) == 0
    cache.append(vectors(2, DIM), vectors(2, DIM))
    with pytest.raises(ScaleRange, match="beyond float32"):
        cache.append(huge, vectors(2, DIM))
    assert len(cache) == 2


def test_a_layer_that_nothing_is_given_for_cannot_be_added():
    cache = DecoderCache(1, 2, DIM, "k=mse4,v=mse4,kmean=given", key_means=np.zeros((1, 2, DIM)))
    with pytest.raises(PolicyMismatch, match="nothing is given for one more layer"):
        cache.add_layer()
    learning = DecoderCache(1, 2, DIM, "k=mse4,v=mse4,kmean=2")
    x = np.ones((1, 2, 3, DIM))
    learning.append(x, x, 0)
    learning.add_layer()
    assert learning.append(x[:, :, :1], x[:, :, :1], 1) == [range(0)]  # learns for itself
