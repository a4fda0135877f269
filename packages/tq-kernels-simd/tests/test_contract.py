"""The backend keeps tq-core's contract at every level, and is chosen as the documentation says."""

import pytest
from children import LEVELS, in_child

from tq_core.codebook import Codebook
from tq_core.numpy_backend import NumpyBackend
from tq_core.plan import ScalarPlan
from tq_core.rotation import Rotation
from tq_core.testing import samples
from tq_kernels_simd import SimdBackend


@pytest.mark.parametrize("level", LEVELS)
def test_every_level_passes_the_contract_suite_and_the_golden_vectors(level):
    code = """
import sys
from tq_core import registry
from tq_core.golden import cases, mismatches
from tq_core.testing import check_backend
backend = registry.load("simd")
assert backend.levels["encode"] == sys.argv[1]
check_backend(backend)
wrong = mismatches("simd")
assert not wrong, wrong
print(len(cases()))
"""
    assert int(in_child(code, level, TQ_ISA=level)) >= 30


def test_codebooks_of_one_dim_and_width_are_kept_apart():
    backend, rotation, x = SimdBackend(), Rotation(64, "hadamard", 7), samples(64)
    for half in ((0.3, 1.2), (0.5, 1.5), (0.3, 1.2)):
        plan = ScalarPlan(rotation, Codebook(64, 2, half), "unbiased", (1.0,), None, False)
        for mine, expected in zip(backend.encode(plan, x), NumpyBackend().encode(plan, x), strict=True):
            assert (mine is expected is None) or mine.tobytes() == expected.tobytes(), half


@pytest.mark.parametrize("threads", [2, 5])
def test_several_threads_pass_the_contract_suite(threads):
    code = """
from tq_core import registry
from tq_core.testing import check_backend
check_backend(registry.load("simd"), dims=(3, 64, 100, 1536))
"""
    in_child(code, TQ_THREADS=str(threads))


CHOICE = """
from tq_core import TurboQuantMSE
print(TurboQuantMSE(64, 4{}).backend.name)
"""


def test_auto_picks_simd():
    assert in_child(CHOICE.format("")).strip() == "simd"


def test_simd_can_be_named():
    assert in_child(CHOICE.format(", backend='simd'")).strip() == "simd"


def test_tq_backend_turns_it_off():
    assert in_child(CHOICE.format(""), TQ_BACKEND="numpy").strip() == "numpy"


def test_an_explicit_name_is_stronger_than_tq_backend():
    assert in_child(CHOICE.format(", backend='simd'"), TQ_BACKEND="numpy").strip() == "simd"


@pytest.mark.parametrize("text", ["0", "257", "-1", "1.5", "two", "\u00b2", "9" * 5000, "1 ", "+1"])
def test_a_bad_tq_threads_is_refused(text):
    code = """
from tq_core import registry, InvalidSpec
try:
    registry.load("simd")
except InvalidSpec as error:
    print(error)
"""
    assert in_child(code, TQ_THREADS=text, PYTHONIOENCODING="utf-8").startswith("TQ_THREADS must be a number in 1..256")


@pytest.mark.parametrize(("text", "threads"), [("1", 1), ("256", 256), ("", 1), (None, 1)])
def test_tq_threads_says_how_many(text, threads):
    code = "from tq_core import registry; print(registry.load('simd').threads)"
    assert int(in_child(code, TQ_THREADS=text)) == threads
