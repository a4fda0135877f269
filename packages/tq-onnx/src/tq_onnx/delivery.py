"""Where results go: standard output or whole files, and what is refused before the work."""

import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import click

from tq_onnx.errors import BundleNotFound, InvalidText, one_line
from tq_onnx.files import admitted


def read_text(path: Path | None, bundle: Path) -> str:
    """The text to measure on, decoded strictly; without a path the bundle's own."""
    if path is None:
        path = bundle / "validation.txt"
        if not path.is_file():
            raise BundleNotFound(f"{bundle} has no validation.txt to measure on; pass --text FILE")
        admitted(path, bundle)
    return read_utf8(path)


def read_texts(paths: Sequence[Path], bundle: Path) -> dict[str, str]:
    """The texts by the names of their files; InvalidText where two have one name."""
    if not paths:
        return {"validation.txt": read_text(None, bundle)}
    texts = {path.name: read_utf8(path) for path in paths}
    if len(texts) < len(paths):
        raise InvalidText(f"texts are told apart by the names of their files, got {[path.name for path in paths]}")
    return texts


def read_utf8(path: Path) -> str:
    """A text file, or InvalidText where it is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InvalidText(f"{path} is not UTF-8 text: {one_line(error)}; convert it first") from error


def check_writable(path: Path | None) -> None:
    """Fail before the work, not after it."""
    if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
        raise click.BadParameter(f"{path} is a folder or lies in one that does not exist")


def deliver(shown: str, data: str, output: Path | None, json_file: Path | None) -> None:
    """Print or write what is shown, and write the data beside it where asked."""
    if json_file is not None:
        write(json_file, data)
    if output is not None:
        write(output, shown)
    else:
        echo(shown)


def echo(text: str, *, nl: bool = False) -> None:
    """Write to standard output; a reader that has gone away has seen enough."""
    try:
        click.echo(_encodable(text), nl=nl)
    except BrokenPipeError:
        # keep the interpreter from complaining at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def write(path: Path, content: str) -> None:
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


def _encodable(text: str) -> str:
    """The text in what standard output can show; a name that it cannot is escaped."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)
