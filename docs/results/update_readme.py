"""Copies the committed table into README.md: the last step of `nox -s results`."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
MARK = "<!-- figures: docs/results/stdlib-llama.json -->\n\n"


def main() -> None:
    """Replace the table behind the mark by that of stdlib-llama.md."""
    table = (ROOT / "docs/results/stdlib-llama.md").read_text()
    rows = "".join(line + "\n" for line in table.splitlines() if line.startswith("|"))
    before, after = (ROOT / "README.md").read_text().split(MARK)
    rest = after[after.index("\n\n") :]
    (ROOT / "README.md").write_text(before + MARK + rows.rstrip("\n") + rest)


if __name__ == "__main__":
    main()
