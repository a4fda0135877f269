"""The bench script: without a device it says so in one line; what it checks first holds, and would be seen if not."""

import sys
from pathlib import Path
from subprocess import run

import numpy as np
import pytest

from tq_kernels_gpu.attention import PackedAttention

ATTEND = PackedAttention.attend
BENCH = Path(__file__).parents[1] / "bench"


@pytest.fixture
def checks(monkeypatch):
    if not BENCH.exists():
        pytest.skip("the tests were copied away from the bench scripts")
    monkeypatch.syspath_prepend(str(BENCH))
    monkeypatch.delitem(sys.modules, "checks", raising=False)
    import checks

    yield checks
    del sys.modules["checks"]


def test_without_a_device_it_ends_with_two_and_one_line(checks):
    without = (
        "import sys; sys.modules['cupy'] = None; sys.path.insert(0, sys.argv[1]); import gpu; sys.exit(gpu.main([]))"
    )
    done = run([sys.executable, "-c", without, str(BENCH)], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("nothing was measured: backend 'gpu' cannot run: cupy is not installed")


def test_what_is_checked_before_timing_holds(checks, cpu):
    found = checks.check_all(cpu, rows=32, tokens=96)
    assert len(found) >= 16
    assert [one for one in found if not one.holds] == []


def test_wrong_results_would_be_seen(checks, cpu, monkeypatch):
    rng = np.random.default_rng(0)
    plan = checks.plan_of(64, 4)
    right = checks.encode

    def wrong(device, plan, x):
        packed, scales, gammas = right(device, plan, x)
        packed[-1, -1] ^= 1
        return packed, scales, gammas

    monkeypatch.setattr(checks, "encode", wrong)
    assert not checks.check_encode(cpu, plan, 16, "float32", rng).holds

    monkeypatch.setattr(checks.PackedAttention, "attend", _first_token_alone)
    assert checks.check_attention(cpu, (plan, plan), 40, 4, "integer", rng).error > 0.5
    assert not checks.Found("left out", float("nan"), 1.0).holds


def _first_token_alone(self, *arrays, scale):
    """Attention that leaves the other tokens out."""
    first = [array[:, :1] for array in arrays[:4]]
    return ATTEND(self, *first, arrays[4], scale=scale)
