"""A session of the same graph that also gives out tensors from within it."""

from collections.abc import Iterable
from pathlib import Path

import onnx
import onnxruntime  # type: ignore[import-untyped]
from onnx import helper

from tq_core import CorruptData
from tq_onnx.errors import UnsupportedBundle, one_line
from tq_onnx.sessions import session_options

PREFIX = "tq_exposed/"


def exposed_session(
    model: onnx.ModelProto, names: Iterable[str], model_path: Path, external: Iterable[Path], threads: int
) -> onnxruntime.InferenceSession:
    """A session whose outputs are the graph's own and `PREFIX + name` for each name, under its own element type."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for name in dict.fromkeys(names):
        copy.graph.node.append(helper.make_node("Identity", [name], [PREFIX + name]))
        copy.graph.output.append(onnx.ValueInfoProto(name=PREFIX + name))
    try:
        data = copy.SerializeToString()
    except Exception as error:  # of protobuf, for models beyond its 2 GiB
        raise UnsupportedBundle(
            f"{model_path.name} is too large to be opened from memory; export it with external data"
        ) from error
    options = session_options(threads)
    places = list(external)
    if any(path.is_symlink() for path in places):
        # From bytes the runtime follows no link, not even to the blobs of a snapshot.
        contents = [path.read_bytes() for path in places]
        relative = [path.relative_to(model_path.parent).as_posix() for path in places]
        options.add_external_initializers_from_files_in_memory(relative, contents, [len(one) for one in contents])
    else:
        folder = str(model_path.parent.resolve())
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's errors share no base class
        raise CorruptData(f"the runtime cannot load {model_path.name} with inner tensors: {one_line(error)}") from error
