"""The project's own random stream: fixed values, two implementations, any chunking."""

import numpy as np
import pytest

from tq_core import random_bits
from tq_core._prim import bits

SEEDS = (0, 1, 2**32, 2**63, 2**64 - 1)


def test_first_words_are_these():
    key = random_bits.stream_key(0, 16)
    assert key == 0x59AE167A9F4EEF28
    assert [hex(word) for word in random_bits.words(key, 0, 3).tolist()] == [
        "0x78cad37f955eda4",
        "0xb8e5aa18aadb8ed7",
        "0x7b3e05cf5705037b",
    ]


def test_the_finaliser_is_that_of_splitmix64():
    # the published generator's first outputs for state 0 are mix(G), mix(2 G), mix(3 G)
    golden, mask = random_bits.GOLDEN, random_bits.MASK
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert [random_bits.mix(i * golden & mask) for i in (1, 2, 3)] == published


def test_first_gaussians_are_these():
    found = random_bits.gaussians(random_bits.stream_key(1, 64), 4)
    assert [value.hex() for value in found.tolist()] == [
        "-0x1.a92b95289464dp-2",
        "0x1.0550e331d7e59p+0",
        "-0x1.bdea4a41329f0p-3",
        "0x1.1234ba655f3f6p+0",
    ]


def test_first_permutation_and_signs_are_these():
    assert random_bits.permutation(random_bits.stream_key(3, 32), 10).tolist() == [7, 2, 1, 4, 8, 5, 0, 9, 6, 3]
    assert random_bits.signs(random_bits.stream_key(3, 16), 10).tolist() == [-1, 1, 1, 1, 1, -1, -1, -1, 1, 1]


@pytest.mark.parametrize("seed", SEEDS)
def test_vectorised_and_scalar_streams_are_one(seed):
    for stream in (16, 17, 32, 48, 64, 80, 96):
        key = random_bits.stream_key(seed, stream)
        signed = key - (1 << 64) if key >> 63 else key
        assert bits.stream_key(seed, stream) & random_bits.MASK == key
        expected = [bits.word(signed, i) & random_bits.MASK for i in range(9)]
        assert random_bits.words(key, 0, 9).tolist() == expected
        for count in (1, 63, 64, 65, 130):
            assert random_bits.signs(key, count).tolist() == list(bits.signs(signed, count))
            assert random_bits.permutation(key, count).tolist() == list(bits.permutation(signed, count))
            assert random_bits.gaussians(key, count).tolist() == list(bits.gaussians(signed, count))


@pytest.mark.parametrize("seed", SEEDS)
def test_the_slow_stream_agrees(slow, seed):
    key = slow.key(seed, 64)
    assert key == random_bits.stream_key(seed, 64)
    assert tuple(random_bits.gaussians(key, 101).tolist()) == slow.gaussians(key, 101)
    assert tuple(random_bits.permutation(key, 77).tolist()) == slow.permutation(key, 77)
    assert (random_bits.signs(key, 77) < 0).tolist() == [slow.is_negated(key, j) for j in range(77)]


def test_words_are_independent_of_chunking():
    key = random_bits.stream_key(9, 48)
    whole = random_bits.words(key, 0, 1000)
    pieces = [random_bits.words(key, start, 100) for start in range(0, 1000, 100)]
    assert np.array_equal(np.concatenate(pieces), whole)
    assert random_bits.words(key, 997, 1)[0] == whole[997]


def test_a_longer_draw_begins_with_the_shorter_one():
    key = random_bits.stream_key(9, 48)
    longest = random_bits.gaussians(key, 5000)
    for count in (1, 2, 17, 999, 4999):
        assert np.array_equal(random_bits.gaussians(key, count), longest[:count])


def test_gaussians_have_the_moments_of_a_normal():
    drawn = random_bits.gaussians(random_bits.stream_key(5, 64), 200_000)
    assert abs(drawn.mean()) < 4 / 200_000**0.5
    assert abs(drawn.var() - 1) < 4 * (2 / 200_000) ** 0.5
    assert abs((drawn**4).mean() - 3) < 4 * (96 / 200_000) ** 0.5


def test_permutations_hit_every_place():
    counts = np.zeros((6, 6), int)
    for seed in range(6000):
        counts[np.arange(6), random_bits.permutation(random_bits.stream_key(seed, 32), 6)] += 1
    assert abs(counts - 1000).max() < 5 * (1000 * 5 / 6) ** 0.5


def test_streams_and_seeds_do_not_repeat_each_other():
    keys = {random_bits.stream_key(seed, stream) for seed in range(200) for stream in range(128)}
    assert len(keys) == 200 * 128


def test_no_library_generator_is_touched(monkeypatch):
    def refuse(*_args, **_kwargs):
        raise RuntimeError("a library generator was used")

    monkeypatch.setattr(np.random, "default_rng", refuse)
    monkeypatch.setattr(np.random, "RandomState", refuse)
    state = np.random.get_state()[1].tolist()
    random_bits.gaussians(random_bits.stream_key(1, 1), 100)
    assert np.random.get_state()[1].tolist() == state
