"""The only writer of `data/trellis.json`: `python -m tq_core.make_trellis` trains anew, `--check` compares.

Training is that of QTIP-type codes (docs/decisions/0014-trellis.md): start from the quantiles of a Gaussian, cut into
2**bits strata of which every set of windows that continue one node gets one value each; then alternate the best path
through fresh Gaussian numbers with the mean of what each window was chosen for. Numbers come from the project's own
stream, sums are of integers, so every machine trains the same tables. All tables take about half an hour;
`--states 8 --bits 4` names a part.

Layout: `{"version": 1, "tables": {states: {bits: {"distortion", "levels"}}}}`, levels as base64 of little-endian int16.
"""

import argparse
import base64
import json
from pathlib import Path
from statistics import NormalDist
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tq_core import random_bits, trellis_path
from tq_core.trellis_table import BITS, STATES, Trellis, window_bits

VERSION: Final = 1
STREAM: Final = 1 << 22  # far from the streams of the format
SHRINK: Final = 0.97  # of the initial quantiles, as in the code's literature
LENGTH: Final = 1024  # numbers of one sequence
ROUNDS: Final = (*(256,) * 24, *(1024,) * 4)  # sequences of each iteration; the last ones decide, so they see more
PATH: Final = Path(__file__).parent / "data" / "trellis.json"


def initial(bits: int, states: int) -> NDArray[np.int16]:
    """The table that training starts from."""
    seed = 16 * states + bits
    branches, size = 1 << bits, 1 << window_bits(bits, states)
    nodes = size // branches
    normal = NormalDist()
    quantiles = [round(4096 * SHRINK * normal.inv_cdf((i + 0.5) / size)) for i in range(size)]
    strata = np.array(quantiles, np.int16).reshape(branches, nodes)
    for i, stratum in enumerate(strata):
        stratum[:] = stratum[random_bits.permutation(random_bits.stream_key(seed, STREAM + 1 + i), nodes)]
    levels = np.empty((nodes, branches), np.int16)
    for node in range(nodes):
        order = random_bits.permutation(random_bits.stream_key(seed, STREAM + 64 + node), branches)
        levels[node] = strata[order, node]
    return _legal(levels.ravel())


def train(bits: int, states: int) -> Trellis:
    """The trained code with the distortion that the last iteration met."""
    seed = 16 * states + bits
    levels, distortion = initial(bits, states), 0.0
    for number, rows in enumerate(ROUNDS):
        code = Trellis(bits, states, levels.copy(), 0.0)
        key = random_bits.stream_key(seed, STREAM + (1 << 16) + number)
        numbers = random_bits.gaussians(key, rows * LENGTH).reshape(rows, LENGTH)
        v = np.rint(4096 * numbers).astype(np.int16)
        chosen = walk(code, v).ravel()
        # bincount adds in float64, in which sums of integers this small are exact
        sums = np.bincount(chosen, v.ravel(), len(levels))
        visits = np.bincount(chosen, minlength=len(levels))
        errors = v.ravel().astype(np.int64) - levels[chosen]
        distortion = float((errors * errors).sum()) / errors.size / 4096**2
        levels = _legal(np.rint((2 * sums + levels) / (2 * visits + 1)).astype(np.int16))
    return Trellis(bits, states, levels, float(f"{distortion:.6g}"))


def walk(code: Trellis, v: NDArray[np.int16]) -> NDArray[np.int32]:
    """The windows of the best open path through each row of v."""
    found = np.empty(v.shape, np.int32)
    together = max(8, min(256, (1 << 13) // code.nodes))  # rows; more of them for small codes, whose steps are short
    for start in range(0, len(v), together):
        x = trellis_path.doubled(v[start : start + together])
        history = trellis_path.forward(code, x, None)
        symbols, before = trellis_path.backward(code, x, history, history[-1].argmin(axis=1), 0)
        window = before
        for step in range(v.shape[1]):
            window = (window << code.bits | symbols[:, step]) & ((1 << code.window) - 1)
            found[start : start + together, step] = window
    return found


def _legal(levels: NDArray[np.int16]) -> NDArray[np.int16]:
    """No level is 0, so that every scale is defined, and twice a level fits int16."""
    return np.clip(np.where(levels == 0, 1, levels), -16383, 16383).astype(np.int16)


def entry(code: Trellis) -> dict[str, Any]:
    """What the file holds of a code."""
    return {
        "distortion": code.distortion,
        "levels": base64.b64encode(code.levels.astype("<i2").tobytes()).decode("ascii"),
    }


def render(tables: dict[str, dict[str, dict[str, Any]]]) -> str:
    """The text of the file: canonical, one line per table."""
    blocks = []
    for states, table in tables.items():
        lines = [f'"{bits}":{json.dumps(held)}' for bits, held in table.items()]
        blocks.append(f'"{states}":{{\n' + ",\n".join(lines) + "}")
    return f'{{"version":{VERSION},"tables":{{\n' + ",\n".join(blocks) + "}}\n"


def main(arguments: list[str] | None = None) -> int:
    """Write the tables asked for, or with `--check` return 1 when a shipped one is not what training finds."""
    parser = argparse.ArgumentParser(prog="python -m tq_core.make_trellis", description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare with the shipped tables; write nothing")
    parser.add_argument("--states", type=int, choices=STATES, action="append", help="only these (repeatable)")
    parser.add_argument("--bits", type=int, choices=BITS, action="append", help="only these (repeatable)")
    options = parser.parse_args(arguments)
    held = json.loads(PATH.read_text("ascii"))["tables"] if PATH.exists() else {}
    wrong = 0
    for states in options.states or STATES:
        for bits in options.bits or BITS:
            found = entry(train(bits, states))
            if options.check:
                same = held.get(str(states), {}).get(str(bits)) == found
                wrong += not same
                print(f"{states} states, {bits} bits: {'agrees' if same else 'DIFFERS'}")
            else:
                held.setdefault(str(states), {})[str(bits)] = found
                PATH.write_text(render(held), "ascii", newline="\n")
    return int(wrong > 0)


if __name__ == "__main__":
    raise SystemExit(main())
