"""Instructions of the scan of int8 levels on 64-bit Arm: those of the inner loops of scan8, for every 32 codes.

    python tests/isa/instructions.py

Counted in the objects that aarch64-linux-gnu-gcc makes with the flags of a release. The codes of a loop follow from its
multiplications (SDOT 16, a widening one of bytes 8, a scalar one 1), the width from the codes in 32 bytes of four
rows, and for 3 bits from what joins the planes. A count is not a speed.
"""

import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from emulate import ARM, COMMON, CSRC

PREFIX = "aarch64-linux-gnu-"
CODES = {"sdot": 16, "smull": 8, "smull2": 8, "smlal": 8, "smlal2": 8, "madd": 1}
WIDTHS = {1024: "1 bit", 512: "2 bits", 256: "4 bits", 1: "1, 2 and 4 bits"}


def function(level: str, folder: Path, name: str = "scan8") -> list[tuple[int, str]]:
    """Addresses and texts of the instructions of a slot of csrc/score at a level."""
    out = folder / f"{level}.o"
    flags = [flag for flag in COMMON if flag != "-O2"] + ["-O3", *ARM.get(level, ())]
    subprocess.run([PREFIX + "gcc", *flags, "-c", CSRC / "score" / f"{level}.c", "-o", out], check=True)
    text = subprocess.run(
        [PREFIX + "objdump", "-d", "--no-show-raw-insn", out], check=True, capture_output=True, text=True
    )
    body = text.stdout.split(f"<{name}>:\n")[1].split("\n\n")[0]
    found = [re.match(r"\s*([0-9a-f]+):\t(.*)", line) for line in body.splitlines()]
    return [(int(match[1], 16), match[2]) for match in found if match]


def inner_loops(instructions: list[tuple[int, str]]) -> list[Counter[str]]:
    """The names of the instructions of every loop that holds no other."""
    at = {address: i for i, (address, _) in enumerate(instructions)}
    spans = []
    for i, (address, text) in enumerate(instructions):
        target = re.match(r"(?:b|b\.\w+|cbn?z|tbn?z)\s.*?([0-9a-f]+) <", text)
        if target and int(target[1], 16) <= address and int(target[1], 16) in at:
            spans.append((at[int(target[1], 16)], i))
    innermost = [s for s in spans if not any(o != s and s[0] <= o[0] and o[1] <= s[1] for o in spans)]
    return [Counter(text.split()[0] for _, text in instructions[a : b + 1]) for a, b in innermost]


def main() -> None:
    """Write a line for each loop that multiplies."""
    with tempfile.TemporaryDirectory() as folder:
        for level in ("baseline", *ARM):
            for names in inner_loops(function(level, Path(folder))):
                codes = sum(CODES.get(name, 0) * count for name, count in names.items())
                if codes:
                    is_three = names["zip1"] or names["asr"]
                    width = "3 bits" if is_three else WIDTHS.get(codes, f"{codes} codes")
                    sys.stdout.write(f"{level}, {width}: {32 * names.total() / codes:.1f}\n")


if __name__ == "__main__":
    main()
