"""The command line `tq-trace`: exit 0 when done, 2 and one line on standard error for bad input, 1 only for a bug."""

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click

from tq_trace import formats
from tq_trace.commands import advise, bench, compare, replay, synthetic
from tq_trace.console import OneLineGroup, output_option, put_text, require_writable, style_option
from tq_trace.inspection import Row, inspect_file
from tq_trace.inspection_page import to_html

# Reading and measuring takes a second for about 50 MB of float16 on an old core.
QUIET_BYTES: Final = 30_000_000


@click.group(cls=OneLineGroup, no_args_is_help=False, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="tq-trace", prog_name="tq-trace")
def main() -> None:
    """Recorded and synthetic key/value workloads of language models: make, inspect, replay, advise, compare."""


@main.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path())
@style_option()
@output_option
def inspect(files: Sequence[str], style: str, output: str | None) -> None:
    """Say what each trace FILE is and how compressible it looks.

    Shows where it comes from, its shape and size, and what matters for
    compression: norms, outlier channels, the energy in the mean vector (what
    mean removal would save) and the positions of the largest vectors.

    \b
    Examples:
      tq-trace inspect layer-03.safetensors
      tq-trace inspect traces/*.safetensors --format markdown
      tq-trace inspect traces/*.safetensors --format json --output facts.json
    """
    if output is not None:
        require_writable(output, files)
    rows = _inspect_all(files)
    # A table in a file has no terminal to fit: give it all the width it can use.
    put_text(_rendered(rows, style, None if output is None else formats.MAX_WIDTH), output)


def _inspect_all(files: Sequence[str]) -> list[Row]:
    """All rows in order, with a progress bar on a terminal where it may take longer than a second."""
    size = sum(Path(path).stat().st_size for path in files if os.path.isfile(path))
    if size < QUIET_BYTES or not sys.stderr.isatty():
        return [row for path in files for row in inspect_file(path)]
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        return [row for path in progress.track(files, description="Reading") for row in inspect_file(path)]


def _rendered(rows: Sequence[Row], style: str, width: int | None = None) -> str:
    if style == "json":
        return formats.to_json(rows)
    if style == "csv":
        return formats.to_csv(rows)
    if style == "markdown":
        return formats.to_markdown(rows)
    if style == "html":
        return to_html(rows)
    if width is not None:
        return formats.to_table(rows, width)
    return formats.to_table(rows, shutil.get_terminal_size((80, 24)).columns, styled=sys.stdout.isatty())


for command in (synthetic, replay, advise, compare, bench):
    main.add_command(command)
