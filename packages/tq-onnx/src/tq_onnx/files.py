"""Which files of a bundle may be opened: those inside its folder, whatever links say.

A folder from a stranger may hold links to anything that this process can read. The one exception is a snapshot in the
cache of huggingface_hub, whose files are links to `blobs` of the same model two folders up.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tq_core import CorruptData
from tq_onnx.errors import BundleNotFound, UnsupportedBundle

STEMS: Final = ("model", "decoder_model_merged", "decoder_model")
FOLDERS: Final = ("", "onnx")


def is_inside(path: Path, folder: Path) -> bool:
    """Whether what `path` leads to lies in the folder, or in the blobs that its snapshot is made of."""
    real, home = path.resolve(), folder.resolve()
    if real.is_relative_to(home):
        return True
    is_snapshot = home.parent.name == "snapshots" and home.parent.parent.name.startswith("models--")
    return is_snapshot and real.parent == home.parent.parent / "blobs"


def admitted(path: Path, folder: Path) -> Path:
    """The path itself, or UnsupportedBundle where it is a link that leaves the bundle."""
    if not is_inside(path, folder):
        name = path.relative_to(folder).as_posix()
        raise UnsupportedBundle(f"{name} is a link that leaves the bundle; copy the file into {folder.name}")
    return path


def read_small(folder: Path, name: str, limit: int) -> bytes:
    """A file of the bundle, read whole; CorruptData where it is larger than any file of its kind."""
    path = admitted(folder / name, folder)
    size = path.stat().st_size
    if size > limit:
        raise CorruptData(f"{name} has {size} bytes, more than the {limit} of any real one")
    return path.read_bytes()


def find_model(folder: Path, variant: str, named: str = "") -> Path:
    """The graph's file: `named` (by a config, unless a variant is asked for), or the first that exporters write."""
    suffix = f"_{variant}" if variant else ""
    names = [f"{stem}{suffix}.onnx" for stem in STEMS]
    if named and not variant:
        names.insert(0, named)
    for place in FOLDERS:
        for name in names:
            if (folder / place / name).is_file():
                return admitted(folder / place / name, folder)
    found = [path.relative_to(folder).as_posix() for path in _graphs(folder)]
    there = f"it has {', '.join(found)}, which `variant` may pick" if found else "it has no .onnx file"
    raise BundleNotFound(f"{folder} has no {', '.join(names)}, at its root or under onnx/; {there}")


def _graphs(folder: Path) -> Iterator[Path]:
    for place in FOLDERS:
        yield from sorted((folder / place).glob("*.onnx"))
