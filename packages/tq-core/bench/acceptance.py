"""Run the statistical acceptance tests and print every figure they record: value, measured, tolerance, N, verdict.

Example:  uv run --all-packages python packages/tq-core/bench/acceptance.py
          uv run --all-packages python packages/tq-core/bench/acceptance.py -k "row_7 or row_8" --json rows.json
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from machine import describe

HERE = Path(__file__).resolve().parent
TESTS = HERE.parent / "tests" / "stats"


class Collector:
    """A pytest plugin: keeps what tests record under the property "acceptance", and tests that recorded nothing."""

    def __init__(self) -> None:
        self.figures: list[dict[str, Any]] = []
        self.failed: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Called by pytest for setup, call and teardown of each test."""
        if report.when == "call":
            found = [value for key, value in report.user_properties if key == "acceptance"]
            self.figures += [{**figure, "test": report.nodeid.rpartition("/")[2]} for figure in found]
        if report.failed:
            self.failed.append(report.nodeid)


def table(figures: list[dict[str, Any]]) -> str:
    """The figures as aligned columns, ordered by row of the acceptance table."""
    head = ("row", "what", "value", "measured", "tolerance", "N", "verdict")
    lines = [head, *(cells(figure) for figure in sorted(figures, key=row_order))]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def cells(figure: dict[str, Any]) -> tuple[str, ...]:
    """One line of the table."""
    value, measured = f"{figure['value']:.6g}", f"{figure['measured']:.6g}"
    return figure["row"], figure["what"], value, measured, figure["tolerance"], str(figure["n"]), figure["verdict"]


def row_order(figure: dict[str, Any]) -> tuple[int, str]:
    """Numbered rows ascend, named ones follow; stable within a row."""
    number = figure["row"].split()[0]
    return (int(number), "") if number.isdigit() else (1000, number)


def main() -> int:
    """0 when every test passed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-k", metavar="EXPRESSION", help="only tests that match (pytest's -k)")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="where to write the figures (default: bench/results/acceptance.json)"
    )
    options = parser.parse_args()
    arguments = [str(TESTS), "-m", "stats", "-q", "--no-header", "--tb=line", "-p", "no:cacheprovider"]
    if options.k:
        arguments += ["-k", options.k]
    collector = Collector()
    started = time.process_time()
    code = pytest.main(arguments, plugins=[collector])
    seconds = time.process_time() - started
    print(table(collector.figures))
    print(f"{len(collector.figures)} figures, {len(collector.failed)} failed tests, {seconds:.0f} s of CPU")
    target = options.json
    if target is None and not options.k:
        target = HERE / "results" / "acceptance.json"
    if target is not None:
        outcome = {"cpu_seconds": round(seconds), "failed": collector.failed, "figures": collector.figures}
        document = {**describe(), **outcome}
        target.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
        print(f"written to {target}")
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
