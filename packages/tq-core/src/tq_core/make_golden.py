"""Writes the golden files: `python -m tq_core.make_golden fixtures/golden` (the only writer of that folder).

`--check` writes nothing and exits 1 when a file differs from what this code produces.
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path

from tq_core import golden
from tq_core.container import FORMAT_VERSION


def main() -> int:
    """Write or check; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tq_core.make_golden", description=__doc__)
    parser.add_argument("folder", type=Path, help="fixtures/golden of the checkout")
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    options = parser.parse_args()
    folder = options.folder / f"v{FORMAT_VERSION}"
    made = {name: golden.encode(spec) for name, spec in golden.cases().items()}
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in made.items()}
    if options.check:
        wrong = [name for name, data in made.items() if _read(folder / f"{name}.tq") != data]
        wrong += [name for name in digests if digests[name] != golden.digests().get(name)]
        print("\n".join(f"differs: {name}" for name in wrong) or f"{len(made)} golden files agree")
        return 1 if wrong else 0
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in made.items():
        (folder / f"{name}.tq").write_bytes(data)
    shipped = Path(__file__).with_name("data") / "golden.json"
    shipped.write_text(json.dumps(digests, indent=1) + "\n", "ascii")
    print(f"wrote {len(made)} files, {sum(map(len, made.values()))} bytes, to {folder} and their digests")
    return 0


def _read(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


if __name__ == "__main__":
    sys.exit(main())
