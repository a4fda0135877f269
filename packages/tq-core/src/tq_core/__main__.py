"""`python -m tq_core selftest`: golden vectors and backend agreement on the user's own machine."""

import argparse
import sys
import time

import tq_core
from tq_core import golden
from tq_core.registry import load
from tq_core.testing import check_backend

SHORT_DIMS = (2, 3, 33, 64, 96, 100, 128, 200)


def main() -> int:
    """Run a subcommand; 0 when all is well, 1 when a check fails, 2 for bad arguments."""
    parser = argparse.ArgumentParser(prog="python -m tq_core", description="TurboQuant on this machine.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("selftest", help="compare golden vectors and all backends that run here")
    commands.add_parser("report", help="print which backend runs each operation, and why")
    options = parser.parse_args()
    if options.command == "report":
        print(tq_core.report())
        return 0
    return _selftest()


def _selftest() -> int:
    from importlib.metadata import version

    compiled = "compiled" if tq_core.COMPILED else "interpreted"
    print(f"tq-core {version('tq-core')}, scalar primitives {compiled}, format {tq_core.FORMAT_VERSION}")
    failed = False
    for name, state in tq_core.backends().items():
        started = time.perf_counter()
        verdict = state if state != "ok" else _check(name)
        failed |= state == "ok" and verdict != "ok"
        print(f"  {name:<8} {verdict}  ({time.perf_counter() - started:.1f} s)")
    print("FAILED" if failed else "all checks passed")
    return 1 if failed else 0


def _check(name: str) -> str:
    if name != "scalar":  # the oracle computes rotations in float64 and may differ at a bin edge
        wrong = golden.mismatches(name)
        if wrong:
            return f"golden codes differ: {', '.join(wrong)}"
    try:
        check_backend(load(name), exact=name != "scalar", dims=SHORT_DIMS)
    except AssertionError as error:
        return f"disagrees with the reference: {error}"
    return "ok"


if __name__ == "__main__":
    sys.exit(main())
