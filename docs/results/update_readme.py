"""Copies the committed table into the READMEs that show it: the last step of `nox -s results`."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
MARKS = {
    "README.md": "<!-- figures: docs/results/stdlib-llama.json -->\n\n",
    "packages/tq-onnx/README.md": "<!-- table of docs/results/stdlib-llama.json -->\n",
}


def main() -> None:
    """Replace the table behind each mark by that of stdlib-llama.md."""
    table = (ROOT / "docs/results/stdlib-llama.md").read_text()
    rows = "\n".join(line for line in table.splitlines() if line.startswith("|"))
    for name, mark in MARKS.items():
        before, after = (ROOT / name).read_text().split(mark)
        (ROOT / name).write_text(before + mark + rows + after[after.index("\n\n") :])


if __name__ == "__main__":
    main()
