"""Where results go: standard output or whole files, and what is refused before the work."""

import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click

from tq_onnx.errors import BundleNotFound, InvalidText, one_line
from tq_onnx.files import admitted

LARGEST_TEXT: Final = 1 << 25  # characters; the tokens of as many take a tokenizer some 5 GB


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
    """A text file, or InvalidText where it is not UTF-8 or longer than LARGEST_TEXT."""
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(LARGEST_TEXT + 1)
    except UnicodeDecodeError as error:
        raise InvalidText(f"{path} is not UTF-8 text: {one_line(error)}; convert it first") from error
    if len(text) > LARGEST_TEXT:
        raise InvalidText(f"{path} has more than {LARGEST_TEXT} characters, too many for a tokenizer; cut a part out")
    return text


def check_writable(*paths: Path | None, inputs: Sequence[Path | None] = (), bundle: Path | None = None) -> None:
    """Fail before the work, not after it: for what cannot be written, or would destroy another result or an input."""
    named = [path for path in paths if path is not None]
    for path in named:
        if path.is_dir() or not path.absolute().parent.is_dir():
            raise click.BadParameter(f"{path} is a folder or lies in one that does not exist")
    files = [path for path in named if not _is_written_through(path)]
    if len({path.resolve() for path in files}) < len(files):
        raise click.BadParameter(f"two results would go into {files[0]}; name a file for each")
    read = [*inputs, *(() if bundle is None else _read_of(bundle))]
    for path in named:
        if path.is_file() and any(one is not None and one.is_file() and path.samefile(one) for one in read):
            raise click.BadParameter(f"{path} is one of the inputs; writing there would destroy it")
    for path in files:
        with tempfile.TemporaryFile(dir=path.absolute().parent):
            pass  # an OSError says why no file can be made there


def _read_of(bundle: Path) -> list[Path]:
    """Files of a bundle that are read, as far as names tell."""
    patterns = ("*config.json", "tokenizer.json", "validation.txt", "*.onnx*", "onnx/*.onnx*")
    return [path for pattern in patterns for path in bundle.glob(pattern)]


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
    """Write beside the file, then rename: a reader sees the old content or the new.

    What is no plain file keeps its place and is written to: a pipe, a device, a link such as /dev/stdout.
    """
    if _is_standard_output(path):
        echo(content)  # opened once more, a file behind it would be written from its beginning twice
        return
    if _is_written_through(path):
        with path.open("w", encoding="utf-8", newline="\n") as file:
            file.write(content)
        return
    handle, name = tempfile.mkstemp(dir=path.absolute().parent, prefix=f".{path.name}.")
    try:
        with open(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(content)
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def _is_written_through(path: Path) -> bool:
    """Whether no file may be put in its place."""
    return path.is_symlink() or (path.exists() and not path.is_file())


def _is_standard_output(path: Path) -> bool:
    """Whether it leads to where standard output goes, as /dev/stdout does."""
    try:
        return path.is_symlink() and os.path.samestat(path.stat(), os.fstat(sys.stdout.fileno()))
    except (OSError, ValueError, AttributeError):  # a dead link; an output that is no file, closed, or not there
        return False


def _umask() -> int:
    """The process's mask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _encodable(text: str) -> str:
    """The text in what standard output can show; a name that it cannot is escaped."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)
