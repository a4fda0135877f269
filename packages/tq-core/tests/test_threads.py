"""One quantizer shared by threads gives what it gives alone."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tq_core import TurboQuantMSE, TurboQuantProd, VectorCodec, registry
from tq_core.codebook import codebook_of_levels

THREADS = 4


def together(work):
    """Results of work(i) of THREADS threads that start at the same moment."""
    barrier = threading.Barrier(THREADS)

    def started(i):
        barrier.wait()
        return work(i)

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(started, range(THREADS)))


def test_a_shared_quantizer_gives_identical_results(encoder, unit_rows):
    x = unit_rows(400, encoder.dim)
    queries = unit_rows(5, encoder.dim, seed=4)
    made = encoder.encode(x)
    decoded, scores = encoder.decode(made), encoder.scores(made, queries)
    for found in together(lambda _: [(m := encoder.encode(x)), encoder.decode(m), encoder.scores(m, queries)]):
        assert found[0] == made
        assert np.array_equal(found[1], decoded)
        assert np.array_equal(found[2], scores)


@pytest.mark.parametrize("backend", ["numpy", "scalar"])
def test_threads_with_different_rows_do_not_mix_them(unit_rows, backend):
    codec = VectorCodec(TurboQuantProd(33, 3, backend=backend), search=3)
    batches = [unit_rows(20, 33, seed=seed) for seed in range(THREADS)]
    alone = [codec.encode(batch) for batch in batches]
    for _ in range(3):
        assert together(lambda i: codec.encode(batches[i])) == alone


def test_quantizers_built_at_once_are_the_same(unit_rows):
    x = unit_rows(10, 48)
    for cached in (codebook_of_levels, registry._load, registry.loaders):
        cached.cache_clear()
    built = together(lambda _: TurboQuantMSE(48, 3, seed=9))
    assert len({quantizer.quantize(x).to_bytes() for quantizer in built}) == 1


def test_a_shared_oracle_converts_its_tables_safely(unit_rows):
    backend = registry.load("scalar")
    quantizers = [TurboQuantProd(16, 3, seed=seed, backend="scalar") for seed in range(8)]
    x = unit_rows(2, 16)
    expected = [quantizer.quantize(x).to_bytes() for quantizer in quantizers]
    backend._transforms.clear()
    backend._sketches.clear()
    for found in together(lambda _: [quantizer.quantize(x).to_bytes() for quantizer in quantizers]):
        assert found == expected
