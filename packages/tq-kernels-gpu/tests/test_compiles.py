"""Every kernel compiles for every architecture, without spills and within bounds. Label: "compiles".

None of this ran on a GPU: it says that the assembler takes the code, and what a thread of it costs.
"""

import pytest

from tq_kernels_gpu import sources

ARCHITECTURES = ("sm_80", "sm_90", "sm_100")
REGISTERS = 128  # two blocks of 256 threads a processor at the least
SHARED = 16 * 1024  # static; dynamic shared memory is bounded where kernels are launched
MORE_SHARED = {
    "tq_products": 18 * 1024,  # a tile of 64 rows and one of 64 queries, 32 coordinates deep
    "tq_products_trellis": 18 * 1024,  # the same
    "tq_sketch": 25 * 1024,  # 64 residuals of 64 bits and 64 rows of the matrix, as deep
}
MORE_REGISTERS = {  # kernel -> its own bound, with the reason beside it
    "tq_attend_halves_16": 232,  # sums of 16 query rows in registers; one block of 256 threads a processor
}


@pytest.mark.cubins
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("module", sources.modules())
def test_cubin_without_spills_and_within_bounds(compilers, compiler, record_property, module, architecture):
    _, log = compiler.cubin(module, architecture)
    found = compilers.usages(log)
    assert {usage.kernel for usage in found} == set(sources.kernels(module))
    for usage in found:
        record_property(
            "compiled",
            f"{usage.kernel:28} {architecture:7} {usage.registers:4} registers {usage.spills:4} bytes spilled "
            f"{usage.stack:4} bytes stack {usage.shared:6} bytes static shared memory  ({compiler.name})",
        )
    for usage in found:
        assert usage.spills == 0, usage
        assert usage.registers <= MORE_REGISTERS.get(usage.kernel, REGISTERS), usage
        assert usage.shared <= MORE_SHARED.get(usage.kernel, SHARED), usage


@pytest.mark.cubins
@pytest.mark.parametrize("module", sources.modules())
def test_ptx_for_the_oldest_processors(compiler, module):
    ptx = compiler.ptx(module, "compute_75").decode()
    assert ".target sm_75" in ptx
    # small float32 numbers stay what they are; CUDA's own expf and tanhf scale theirs before these instructions
    assert ".ftz" not in ptx.replace("ex2.approx.ftz", "").replace("rcp.approx.ftz", "")
    assert "fma.rn.f32" not in ptx or "fmaf" in sources.source(module)  # contracted only where it is written
    for kernel in sources.kernels(module):
        assert f".entry {kernel}(" in ptx


def test_spills_would_be_seen(compilers):
    log = (
        "ptxas info    : Compiling entry function 'tq_some' for 'sm_80'\n"
        "ptxas info    : Function properties for tq_some\n"
        "    16 bytes stack frame, 24 bytes spill stores, 40 bytes spill loads\n"
        "ptxas info    : Used 255 registers, used 1 barriers, 16 bytes cumulative stack size, 512 bytes smem\n"
    )
    assert compilers.usages(log) == [("tq_some", 255, 64, 16, 512)]


def test_an_error_in_a_source_is_reported_with_its_line(compiler, monkeypatch):
    broken = '#line 1 "broken.cu"\nextern "C" __global__ void tq_broken(int* x) {\n    *x = missing;\n}\n'
    monkeypatch.setattr(sources, "source", lambda module: broken)
    with pytest.raises(AssertionError, match=r"broken\.cu\(2\).*missing"):
        compiler.cubin("broken", "sm_80")
