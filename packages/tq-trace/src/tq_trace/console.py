"""What all commands share: errors as one line, output that a stranger's text cannot steer, files that are not lost."""

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import click

from tq_cache.atomic_file import as_path, write_file
from tq_core import TurboQuantError
from tq_trace import formats
from tq_trace.document import FORMATS, Document
from tq_trace.errors import FILES, TraceAccess, TraceNotFound


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


Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def style_option() -> Decorator:
    """`--format`."""
    return click.option(
        "--format",
        "style",
        type=click.Choice(list(FORMATS)),
        default="table",
        show_default=True,
        help="How to print the result.",
    )


output_option = click.option(
    "--output", metavar="FILE", type=click.Path(), help="Write there instead of to standard output."
)
quiet_option = click.option("--quiet", is_flag=True, help="No progress.")


def put(document: Document, style: str, output: str | None) -> None:
    """Print the document, or write it to a file, whole or not at all."""
    put_text(document.render(style), output)


def put_text(text: str, output: str | None) -> None:
    """Print a text, or write it to a file, whole or not at all."""
    if output is None:
        print_text(text)
    else:
        write_file(as_path(output), lambda file: file.write(text.encode()), overwrite=True, refusals=FILES)


def require_writable(output: str, files: Sequence[str]) -> None:
    """Refuse before the work what would fail after it: no folder, a folder, or an input that would be destroyed.

    Raises TraceNotFound, TraceAccess.
    """
    folder = os.path.dirname(output) or os.curdir
    if not os.path.isdir(folder):
        raise TraceNotFound(f"--output {output}: the folder {folder} does not exist; create it first")
    if os.path.isdir(output):
        raise TraceAccess(f"--output {output}: is a folder; give the name of a file")
    for path in files:
        if os.path.exists(path) and os.path.exists(output) and os.path.samefile(path, output):
            raise TraceAccess(f"--output {output} is one of the inputs; writing there would destroy it")


def print_text(text: str) -> None:
    """Print a text; a reader that leaves early is no error."""
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
