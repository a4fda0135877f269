"""The shim does what CUDA does: barriers, shuffles, votes, atomics; and reports kernels that would hang or overrun."""

from types import SimpleNamespace

import numpy as np
import pytest

from tq_kernels_gpu import sources

PROBES = """
#line 1 "probes.cu"
extern "C" __global__ void tq_shuffles(const int* in, int* out) {
    const int value = in[threadIdx.x], lane = threadIdx.x & 31;
    int* to = out + 8 * threadIdx.x;
    to[0] = __shfl_xor_sync(0xffffffffu, value, 5);
    to[1] = __shfl_down_sync(0xffffffffu, value, 3);
    to[2] = __shfl_up_sync(0xffffffffu, value, 3);
    to[3] = __shfl_sync(0xffffffffu, value, 7);
    to[4] = __shfl_xor_sync(0xffffffffu, value, 1, 8);
    to[5] = __shfl_sync(0xffffffffu, value, 9, 8);
    to[6] = (int)__ballot_sync(0xffffffffu, value & 1);
    to[7] = 0;
    if (lane < 16) to[7] = __shfl_xor_sync(0x0000ffffu, value, 8);
}
extern "C" __global__ void tq_reversed(const double* in, double* out) {
    TQ_DYNAMIC_SHARED(memory);
    double* held = (double*)memory;
    held[threadIdx.x] = in[blockIdx.x * blockDim.x + threadIdx.x];
    __syncthreads();
    out[blockIdx.x * blockDim.x + threadIdx.x] = held[blockDim.x - 1 - threadIdx.x];
}
extern "C" __global__ void tq_counts(int* total, int* greatest, int limit) {
    if ((int)threadIdx.x < limit) atomicAdd(total, 1);
    atomicMax(greatest, (int)(blockIdx.x * 100 + threadIdx.x));
    const int count = __syncthreads_count((int)threadIdx.x < limit);
    if (threadIdx.x == 0 && count != limit) atomicAdd(total, 1000);
}
extern "C" __global__ void tq_hangs(int* out) {
    if (threadIdx.x == 33) __syncthreads();
    else __syncwarp();
    out[0] = 1;
}
extern "C" __global__ void tq_races(int* out, int barrier) {
    TQ_DYNAMIC_SHARED(memory);
    int* held = (int*)memory;
    held[threadIdx.x] = threadIdx.x;
    if (barrier) __syncthreads();
    out[threadIdx.x] = held[(threadIdx.x + 1) % blockDim.x];
}
extern "C" __global__ void tq_overruns(int* out) {
    TQ_DYNAMIC_SHARED(memory);
    memory[64] = 1;
    out[0] = memory[0];
}
extern "C" __global__ void tq_halves(const unsigned short* in, float* out, unsigned short* back) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    out[i] = tq_from_half(in[i]);
    back[i] = tq_to_half(out[i]);
}
extern "C" __global__ void tq_narrow(const float* in, unsigned short* out) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    out[i] = tq_to_half(in[i]);
}
"""


@pytest.fixture(scope="module")
def probes(shim, tmp_path_factory):
    """A module of small kernels that try the shim itself."""
    text = sources._expand("types.cuh", set()) + PROBES
    names = tuple(sources._KERNEL.findall(text))
    patch = pytest.MonkeyPatch()
    patch.setattr(sources, "source", lambda module: text)
    patch.setattr(sources, "kernels", lambda module: names)
    try:
        library = shim.build("probes", tmp_path_factory.mktemp("probes"))
        return SimpleNamespace(
            launch=shim.ShimModule(library, names).launch,
            launch_backwards=shim.ShimModule(library, names, backwards=True).launch,
        )
    finally:
        patch.undo()


def test_lanes_exchange_as_on_a_device(probes):
    given, out = np.arange(64, dtype=np.int32) * 3 + 1, np.full((64, 8), -1, np.int32)
    probes.launch("tq_shuffles", 1, 64, (given, out))
    lanes = np.arange(64) & 31
    warps = np.arange(64) & 32
    sources_of = [
        lanes ^ 5,
        np.where(lanes + 3 < 32, lanes + 3, lanes),
        np.where(lanes >= 3, lanes - 3, lanes),
        np.full(64, 7),
        lanes ^ 1,
        (lanes & 24) + 1,
    ]
    for column, source in enumerate(sources_of):
        np.testing.assert_array_equal(out[:, column], given[warps + source], err_msg=f"column {column}")
    for warp in (0, 32):
        expected = sum(1 << lane for lane in range(32) if given[warp + lane] & 1)
        assert (out[warp : warp + 32, 6].view(np.uint32) == expected).all()
    np.testing.assert_array_equal(out[:, 7], np.where(lanes < 16, given[warps + (lanes ^ 8)], 0))


def test_a_barrier_of_the_block_waits_for_every_warp(probes):
    given = np.arange(300, dtype=np.float64)
    out = np.zeros(300)
    probes.launch("tq_reversed", 3, 100, (given, out), shared=800)
    np.testing.assert_array_equal(out, given.reshape(3, 100)[:, ::-1].reshape(-1))


def test_atomics_and_counts(probes):
    total, greatest = np.zeros(1, np.int32), np.zeros(1, np.int32)
    probes.launch("tq_counts", 4, 96, (total, greatest, np.int32(70)))
    assert total[0] == 280
    assert greatest[0] == 395


def test_a_missing_barrier_shows_where_threads_run_backwards(probes):
    def both(barrier):
        found = []
        for launch in (probes.launch, probes.launch_backwards):
            out = np.zeros(64, np.int32)
            launch("tq_races", 1, 64, (out, np.int32(barrier)), shared=256)
            found.append(out)
        return found

    forwards, backwards = both(barrier=True)
    np.testing.assert_array_equal(forwards, np.roll(np.arange(64), -1))
    np.testing.assert_array_equal(backwards, forwards)
    forwards, backwards = both(barrier=False)
    assert (forwards != backwards).any()


def test_threads_at_different_barriers_are_reported(probes):
    with pytest.raises(AssertionError, match="wait for each other at different barriers"):
        probes.launch("tq_hangs", 1, 64, (np.zeros(1, np.int32),))


def test_writing_behind_shared_memory_is_reported(probes):
    out = np.zeros(1, np.int32)
    with pytest.raises(AssertionError, match="wrote behind the shared memory"):
        probes.launch("tq_overruns", 1, 32, (out,), shared=64)
    probes.launch("tq_overruns", 1, 32, (out,), shared=128)
    assert out[0] == 255, "shared memory is not zero before it is written"


def test_arguments_of_another_size_are_reported(probes):
    with pytest.raises(AssertionError, match=r"takes parameters of \(8, 8, 4\) bytes, got \(8, 8, 8\)"):
        probes.launch("tq_counts", 1, 32, (np.zeros(1, np.int32), np.zeros(1, np.int32), np.int64(1)))


@pytest.mark.parametrize("grid", [0, (1, 0), (2**31, 1), (1, 65536), (1, 1, 65536)])
def test_grids_that_no_device_launches_are_reported(probes, grid):
    with pytest.raises(AssertionError, match="no device launches a grid of"):
        probes.launch("tq_overruns", grid, 32, (np.zeros(1, np.int32),), shared=128)


def test_float16_converts_as_numpys(probes):
    halves, wide, back = (
        np.arange(1 << 16, dtype=np.uint16),
        np.zeros(1 << 16, np.float32),
        np.zeros(1 << 16, np.uint16),
    )
    probes.launch("tq_halves", 256, 256, (halves, wide, back))
    expected = halves.view(np.float16)
    numbers = ~np.isnan(expected)
    np.testing.assert_array_equal(wide[numbers], expected[numbers].astype(np.float32))
    assert np.isnan(wide[~numbers]).all()
    np.testing.assert_array_equal(back[numbers], halves[numbers])


def test_float32_narrows_to_the_nearest_float16(probes):
    edges = np.array([65504, 65519.9, 65520, 1e9, np.inf, 6e-8, 2.98e-8, 2.99e-8, 6.1e-5, 0.0, 1e-30], np.float32)
    near = (np.arange(1 << 15, dtype=np.uint32) * 65537 % (0x48000000 - 0x32000000) + 0x32000000).view(np.float32)
    given = np.concatenate([edges, -edges, near])
    given = np.concatenate([given, np.zeros(-len(given) % 256, np.float32)])
    out = np.zeros(len(given), np.uint16)
    probes.launch("tq_narrow", len(given) // 256, 256, (given, out))
    with np.errstate(over="ignore", under="ignore"):
        np.testing.assert_array_equal(out, given.astype(np.float16).view(np.uint16))
