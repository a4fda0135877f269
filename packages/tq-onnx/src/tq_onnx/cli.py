"""The command line: results on standard output, progress and complaints on standard error.

Exit 0 for done, 2 for bad input (one line, no traceback), 1 only for a bug.
"""

import os
import shlex
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click

from tq_core import TurboQuantError
from tq_onnx.errors import BundleNotFound, InvalidText, one_line
from tq_onnx.progress import reporter
from tq_onnx.report import FORMATS, Report

EXAMPLES = """\b
Examples:
  tq-onnx evaluate fixtures/models/stdlib-llama
  tq-onnx evaluate BUNDLE --text book.txt --policy k=mse4,v=mse4 --policy balanced
  tq-onnx evaluate BUNDLE --text book.txt --seed 0 --seed 1 --seed 2 --json figures.json
  tq-onnx evaluate BUNDLE --variant q4 --text book.txt --format markdown --output table.md
"""


@click.group(no_args_is_help=False, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="tq-onnx")
def cli() -> None:
    """Real ONNX decoders with a quantized key/value cache, measured against their exact selves."""


@cli.command(epilog=EXAMPLES)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--text", type=click.Path(path_type=Path), help="UTF-8 text; default: validation.txt of the bundle.")
@click.option("--policy", "policies", multiple=True, help="What the cache stores; repeatable. Default: a survey.")
@click.option("--mode", type=click.Choice(["reconstruct"]), default="reconstruct", show_default=True)
@click.option("--tokens", type=click.IntRange(2), default=448, show_default=True, help="Tokens of a window.")
@click.option("--windows", type=click.IntRange(1), default=8, show_default=True, help="Windows, evenly over the text.")
@click.option("--batch", type=click.IntRange(1), default=8, show_default=True, help="Windows run together at most.")
@click.option("--score-from", type=click.IntRange(1), default=64, show_default=True, help="First position scored.")
@click.option(
    "--seed", "seeds", type=click.IntRange(0), multiple=True, help="Repeatable; rows are averaged. Default 0."
)
@click.option("--variant", default="", help="Picks model_VARIANT.onnx, such as q4 or fp16.")
@click.option("--threads", type=click.IntRange(0, 1024), default=0, help="Threads of the runtime; 0: its choice.")
@click.option("--backend", default="auto", show_default=True, help="Backend of tq-core that quantizes.")
@click.option("--format", "form", type=click.Choice(FORMATS), default="table", show_default=True)
@click.option("--output", type=click.Path(path_type=Path), help="File for the result instead of standard output.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Also write all figures to this file.")
@click.option("--quiet", is_flag=True, help="No progress.")
def evaluate(
    bundle: Path,
    text: Path | None,
    policies: tuple[str, ...],
    mode: str,
    tokens: int,
    windows: int,
    batch: int,
    score_from: int,
    seeds: tuple[int, ...],
    variant: str,
    threads: int,
    backend: str,
    form: str,
    output: Path | None,
    json_file: Path | None,
    quiet: bool,
) -> None:
    """Perplexity, KL, agreement and bytes of each policy on a text, decoded one token a step.

    BUNDLE is a folder with model.onnx, tokenizer.json and config.json.
    """
    from tq_onnx.bundle import Bundle
    from tq_onnx.evaluation import DEFAULT_POLICIES
    from tq_onnx.evaluation import evaluate as measure

    for path in (output, json_file):
        _check_writable(path)
    with reporter(enabled=not quiet) as progress:
        report = measure(
            Bundle.open(bundle, variant=variant, threads=threads),
            policies or DEFAULT_POLICIES,
            text=_read_text(text, bundle),
            tokens=tokens,
            windows=windows,
            batch=batch,
            score_from=score_from,
            seeds=seeds or (0,),
            mode=mode,
            backend=backend,
            progress=progress,
        )
    command = click.get_current_context().find_root().obj or ""
    _deliver(replace(report, command=command), form, output, json_file)


def _read_text(path: Path | None, bundle: Path) -> str:
    """The text to measure on, decoded strictly."""
    if path is None:
        path = bundle / "validation.txt"
        if not path.is_file():
            raise BundleNotFound(f"{bundle} has no validation.txt to measure on; pass --text FILE")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InvalidText(f"{path} is not UTF-8 text: {one_line(error)}; convert it first") from error


def _check_writable(path: Path | None) -> None:
    """Fail before the work, not after it."""
    if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
        raise click.BadParameter(f"{path} is a folder or lies in one that does not exist")


def _deliver(report: Report, form: str, output: Path | None, json_file: Path | None) -> None:
    if json_file is not None:
        _write(json_file, report.to_json())
    if output is not None:
        _write(output, report.render(form))
    else:
        try:
            click.echo(_encodable(report.render(form)), nl=False)
        except BrokenPipeError:
            # Whoever read the output has seen enough; keep the interpreter from complaining at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _write(path: Path, content: str) -> None:
    """Write beside the file, then rename: a reader sees the old content or the new."""
    handle, name = tempfile.mkstemp(dir=path.absolute().parent, prefix=f".{path.name}.")
    try:
        with open(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(content)
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def _umask() -> int:
    """The process's mask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


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
    except OSError as error:
        return _complain(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    return result if isinstance(result, int) else 0


def _complain(message: str) -> int:
    line = " ".join(message.split())
    # Names in a model file come from strangers and may hold what a terminal would obey.
    visible = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in line)
    click.echo(f"tq-onnx: error: {visible}", err=True)
    return 2


def _encodable(text: str) -> str:
    """The text in what standard output can show; a name that it cannot is escaped."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)
