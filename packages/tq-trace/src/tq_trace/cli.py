"""The command line `tq-trace`: exit 0 when done, 2 and one line on standard error for bad input, 1 only for a bug."""

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

import click

from tq_core import TurboQuantError
from tq_trace import formats
from tq_trace.atomic import write_file
from tq_trace.errors import TraceAccess
from tq_trace.inspection import Row, inspect_file

FORMATS: Final = ("table", "json", "csv", "markdown")

# Reading and measuring takes a second for about 50 MB of float16 on an old core.
QUIET_BYTES: Final = 30_000_000


class OneLineGroup(click.Group):
    """A command group whose every complaint about input is one line."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """As click's, except for how errors are shown; without `standalone_mode` they are raised, as in click."""
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        try:
            code = super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        except click.UsageError as error:
            command = error.ctx.command_path if error.ctx else "tq-trace"
            _fail(f"{error.format_message()} (see {command} --help)")
        except click.ClickException as error:
            _fail(error.format_message())
        except TurboQuantError as error:
            _fail(str(error))
        except click.Abort:
            sys.exit(130)  # interrupted from the keyboard: 128 + SIGINT, as shells report it
        sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str) -> NoReturn:
    line = formats.visible(" ".join(message.split()))
    click.echo(_encodable(f"tq-trace: error: {line}", sys.stderr), err=True)
    sys.exit(2)


@click.group(cls=OneLineGroup, no_args_is_help=False, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="tq-trace", prog_name="tq-trace")
def main() -> None:
    """Recorded key/value workloads of language models."""


@main.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path())
@click.option(
    "--format", "style", type=click.Choice(FORMATS), default="table", show_default=True, help="How to print the result."
)
@click.option("--output", metavar="FILE", type=click.Path(), help="Write there instead of to standard output.")
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
        _require_other_file(output, files)
    rows = _inspect_all(files)
    if output is None:
        _print(_rendered(rows, style))
    else:
        # A table in a file has no terminal to fit: give it all the width it can use.
        text = _rendered(rows, style, formats.MAX_WIDTH)
        write_file(output, lambda file: file.write(text.encode()), overwrite=True)


def _require_other_file(output: str, files: Sequence[str]) -> None:
    for path in files:
        if os.path.exists(path) and os.path.exists(output) and os.path.samefile(path, output):
            raise TraceAccess(f"--output {output} is one of the traces; writing there would destroy it")


def _inspect_all(files: Sequence[str]) -> list[Row]:
    """All rows in order, with a progress bar on a terminal where it may take longer than a second."""
    size = sum(Path(path).stat().st_size for path in files if os.path.isfile(path))
    if size < QUIET_BYTES or not sys.stderr.isatty():
        return [inspect_file(path) for path in files]
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        return [inspect_file(path) for path in progress.track(files, description="Reading")]


def _rendered(rows: Sequence[Row], style: str, width: int | None = None) -> str:
    if style == "json":
        return formats.to_json(rows)
    if style == "csv":
        return formats.to_csv(rows)
    if style == "markdown":
        return formats.to_markdown(rows)
    if width is not None:
        return formats.to_table(rows, width)
    return formats.to_table(rows, shutil.get_terminal_size((80, 24)).columns, styled=sys.stdout.isatty())


def _print(text: str) -> None:
    try:
        click.echo(_encodable(text, sys.stdout), nl=False)
    except OSError as error:
        # Python flushes standard output again when it exits, and would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):  # a reader that has seen enough (`| head`) is no error
            raise TraceAccess(f"standard output cannot be written: {error.strerror or error}") from error


def _encodable(text: str, stream: Any) -> str:
    """The text with what the stream's encoding lacks as escapes."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)
