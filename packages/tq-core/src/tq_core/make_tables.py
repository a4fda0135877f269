"""The only writer of `data/codebooks.json`: `python -m tq_core.make_tables` solves anew, `--check` compares.

The tables are shipped because the solver's last digit moves with the system's math library, and a centroid that moves
may move a threshold. Layout: `{"version": 2, "tables": {dim: {number of levels: [hex float, ...]}}}`, the halves
that are not negative, ascending.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Final

from tq_core._prim import book
from tq_core.radix import RADICES

VERSION: Final = 2
# Head dims of published decoders, and the embedding dims of the paper's experiments and common models.
DIMS: Final = (
    *(32, 64, 72, 80, 96, 100, 112, 120, 128, 160, 192, 200),
    *(256, 320, 384, 512, 576, 640, 768, 1024, 1536, 2048, 3072, 4096),
)
# Those of 1..8 bits, and those of the fractional widths.
LEVELS: Final = tuple(sorted({1 << bits for bits in range(1, 9)}.union(*RADICES.values())))
PATH: Final = Path(__file__).parent / "data" / "codebooks.json"
TOLERANCE: Final = 1e-12  # absolute, in units of 1/sqrt(dim): what two math libraries may differ by


def read(path: Path = PATH) -> dict[int, dict[int, list[float]]]:
    """The shipped tables as `tables[dim][levels]`, halves in float64."""
    document = json.loads(path.read_text("ascii"))
    if document["version"] != VERSION:
        raise ValueError(f"{path.name} has version {document['version']}, this release reads {VERSION}")
    return {
        int(dim): {int(levels): [float.fromhex(text) for text in half] for levels, half in table.items()}
        for dim, table in document["tables"].items()
    }


def render(tables: dict[int, dict[int, list[float]]]) -> str:
    """The text of the file: canonical, one line per codebook, so that a change of one is one line of a diff."""
    blocks = []
    for dim, table in tables.items():
        halves = {levels: ",".join(f'"{centroid.hex()}"' for centroid in half) for levels, half in table.items()}
        lines = [f'"{levels}":[{half}]' for levels, half in halves.items()]
        blocks.append(f'"{dim}":{{\n' + ",\n".join(lines) + "}")
    return f'{{"version":{VERSION},"tables":{{\n' + ",\n".join(blocks) + "}}\n"


def solve_all() -> dict[int, dict[int, list[float]]]:
    """All tables, solved from nothing."""
    return {dim: {levels: book.solve_levels(dim, levels) for levels in LEVELS} for dim in DIMS}


def largest_difference(shipped: dict[int, dict[int, list[float]]], solved: dict[int, dict[int, list[float]]]) -> float:
    """The largest absolute difference of two sets of tables; ValueError when they do not hold the same codebooks."""
    largest = 0.0
    if {d: {n: len(h) for n, h in t.items()} for d, t in shipped.items()} != {
        d: {n: len(h) for n, h in t.items()} for d, t in solved.items()
    }:
        raise ValueError(
            "the shipped tables do not hold the dims, numbers of levels and sizes that this release solves"
        )
    for dim, table in solved.items():
        for levels, half in table.items():
            largest = max(largest, *(abs(a - b) for a, b in zip(shipped[dim][levels], half, strict=True)))
    return largest


def main(arguments: list[str] | None = None) -> int:
    """Write the tables, or with `--check` return 1 when the shipped ones are not what the solver finds."""
    parser = argparse.ArgumentParser(prog="python -m tq_core.make_tables", description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare with the shipped tables; write nothing")
    options = parser.parse_args(arguments)
    solved = solve_all()
    if options.check:
        try:
            difference = largest_difference(read(), solved)
        except ValueError as error:
            print(error, file=sys.stderr)
            return 1
        print(f"largest difference {difference:.3g} (allowed {TOLERANCE:g})")
        return int(difference > TOLERANCE)
    PATH.write_text(render(solved), "ascii", newline="\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
