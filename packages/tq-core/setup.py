"""Compile the scalar primitives with mypyc when a wheel is built; editable installs and sdists stay interpreted."""

import os
import sys

from setuptools import setup

COMPILED = [
    "src/tq_core/_prim/bits.py",  # 64-bit integer loops: tens of times faster native
    "src/tq_core/_prim/book.py",  # float quadrature of the codebook solver
    "src/tq_core/_prim/orders.py",  # the butterflies, inner loop of every row
    "src/tq_core/_prim/hadamard.py",  # calls orders per row; calls across the boundary would be boxed
    "src/tq_core/_prim/pack.py",  # bit packing, a few operations a code
    "src/tq_core/_prim/sketch.py",  # dim * projections integer products a row
    "src/tq_core/_prim/encode.py",  # the one-vector path itself
    "src/tq_core/_prim/trellis.py",  # states * dim additions a row
    "src/tq_core/_prim/score.py",  # decoding and scoring, a few operations a code
]
# Metadata and sdist hooks run this file too; a mypyc pass there is wasted. A compiled editable install would leave
# shared libraries under src/ that win the import over edited sources.
BUILDS = {"bdist_wheel", "build_ext"}


def extensions() -> list[object]:
    """The extension modules of this run: none unless a compiled wheel is wanted."""
    if os.environ.get("TQ_CORE_PURE", "0") == "1" or not BUILDS & set(sys.argv):
        return []
    from mypyc.build import mypycify

    # errors of the interpreted siblings, which mypy reads on the way, are the type gate's business, not the build's
    options = ["--strict", "--follow-imports=silent", *COMPILED]
    built = list(mypycify(options, opt_level="3", debug_level="1", group_name="tq_core._prim._native"))
    if sys.platform != "win32":
        for extension in built:
            # no fused multiply-add (gcc fuses on arm64), and integers that wrap as the random stream needs
            extension.extra_compile_args = [*extension.extra_compile_args, "-ffp-contract=off", "-fwrapv"]
    return built


setup(ext_modules=extensions())
