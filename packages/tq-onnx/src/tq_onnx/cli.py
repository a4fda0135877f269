"""The command line: results on standard output, progress and complaints on standard error.

Exit 0 for done, 2 for bad input (one line, no traceback), 1 only for a bug.
"""

import shlex
import sys
from collections.abc import Sequence

import click

from tq_core import TurboQuantError
from tq_onnx.command_capture import capture
from tq_onnx.command_evaluate import evaluate
from tq_onnx.command_generate import generate
from tq_onnx.command_inspect import inspect
from tq_onnx.errors import visible


@click.group(no_args_is_help=False, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="tq-onnx")
def cli() -> None:
    """Real ONNX decoders with a quantized key/value cache, measured against their exact selves."""


for command in (capture, evaluate, generate, inspect):
    cli.add_command(command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        result = cli.main(given, "tq-onnx", standalone_mode=False, obj=shlex.join(["tq-onnx", *given]))
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "tq-onnx"
        return _complain(f"{error.format_message()} (see {command} --help)")
    except click.ClickException as error:
        return _complain(error.format_message())
    except click.Abort:
        return 130
    except TurboQuantError as error:
        return _complain(str(error))
    except MemoryError as error:
        return _complain(f"out of memory: {error or 'nothing left'}; ask for fewer tokens, windows or rows at once")
    except OSError as error:
        return _complain(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    return result if isinstance(result, int) else 0


def _complain(message: str) -> int:
    click.echo(f"tq-onnx: error: {visible(' '.join(message.split()))}", err=True)
    return 2
