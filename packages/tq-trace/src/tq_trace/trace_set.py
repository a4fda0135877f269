"""TraceSet: the traces of many layers and heads of one run, in one file or in several."""

import hashlib
import os
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO, Final, Self

from numpy.typing import NDArray

from tq_cache.atomic_file import as_path, write_file
from tq_core import CorruptData, InvalidSpec
from tq_trace import container, layout
from tq_trace.errors import FILES
from tq_trace.trace import KvTrace

MODEL_LAYERS: Final = "model_layers"
"""Name in the metadata for how many layers the recorded model has, in decimal; a trace may hold fewer."""


class TraceSet:
    """Traces of one model and benchmark, at most one for each layer and head, iterated in that order.

    `traces[layer, head]` is one of them. Shapes, dtypes and positions may differ from head to head.
    Raises InvalidSpec for no trace, two of one place, or traces that do not belong together.
    """

    def __init__(self, traces: Iterable[KvTrace]) -> None:
        given = list(traces)
        if not given:
            raise InvalidSpec("a trace set holds at least one trace, got none")
        first = given[0]
        self._traces: dict[tuple[int, int | None], KvTrace] = {}
        for trace in sorted(given, key=lambda one: (one.layer, -1 if one.head is None else one.head)):
            for name in ("model", "benchmark", "suite"):
                if getattr(trace, name) != getattr(first, name):
                    raise InvalidSpec(
                        f"traces of one set agree in their {name}; got {getattr(first, name)!r:.60} "
                        f"and {getattr(trace, name)!r:.60}: replay them apart"
                    )
            if (trace.layer, trace.head) in self._traces:
                raise InvalidSpec(f"layer {trace.layer} head {trace.head} is given twice; a set holds each place once")
            self._traces[trace.layer, trace.head] = trace

    @classmethod
    def open(cls, *paths: str | os.PathLike[str], lazy: bool = True) -> Self:
        """Map files of one or many layers and heads as one set; checks and errors are those of `KvTrace.load`."""
        if not paths:
            raise InvalidSpec("give the path of at least one trace file")
        traces = []
        for path in paths:
            found = container.read(path)
            name = os.fspath(path)
            if None not in found.places and {"layer", "head"} & set(found.metadata):
                raise CorruptData(f"{name}: holds many layers and heads, and metadata that names a single one")
            traces += [KvTrace._from_container(found, place, name, lazy=lazy) for place in found.places]
        return cls(traces)

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write one file, whole or not at all: the layout of KvTrace for a single trace, `layers.{i}.heads.{h}.` else.

        Raises InvalidSpec where one file cannot hold it: a head without a number, or notes that differ; the rest as
        KvTrace.save.
        """
        if len(self) == 1:
            next(iter(self)).save(path, overwrite=overwrite)
            return
        tensors: dict[str, tuple[str, NDArray[Any]]] = {}
        strings: dict[str, str] | None = None
        for (layer, head), trace in self._traces.items():
            if head is None:
                raise InvalidSpec(f"layer {layer} has a trace without a head; one file of many needs its number")
            trace._held.check()
            own = {name: text for name, text in trace.metadata.to_strings().items() if name not in ("layer", "head")}
            if strings is not None and own != strings:
                wrong = sorted(name for name in set(own) | set(strings) if own.get(name) != strings.get(name))
                raise InvalidSpec(f"one file has one set of metadata; layer {layer} head {head} differs in {wrong}")
            strings = own
            start = layout.prefix((layer, head))
            tensors |= {start + name: tensor for name, tensor in trace._held.stored.items()}
        size = len(layout.encode_header(tensors, strings or {})[0]) - 8
        if size > layout.MAX_HEADER:
            raise InvalidSpec(f"{len(self)} traces make a header of {size} bytes, at most {layout.MAX_HEADER} are read")

        def write(file: BinaryIO) -> None:
            layout.write(file, tensors, strings or {})

        write_file(as_path(path), write, overwrite=overwrite, refusals=FILES)

    def __getitem__(self, place: tuple[int, int | None]) -> KvTrace:
        if place not in self._traces:
            raise KeyError(f"layer {place[0]} head {place[1]} is not among {len(self)} traces")
        return self._traces[place]

    def __iter__(self) -> Iterator[KvTrace]:
        return iter(self._traces.values())

    def __len__(self) -> int:
        return len(self._traces)

    @property
    def places(self) -> tuple[tuple[int, int | None], ...]:
        """(layer, head) of each trace, rising."""
        return tuple(self._traces)

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers that have a trace, rising."""
        return tuple(sorted({layer for layer, _ in self._traces}))

    @property
    def model_layers(self) -> int:
        """Layers of the model: what the metadata says (`model_layers`), or one more than the last layer recorded."""
        told = next(iter(self)).metadata.extra.get(MODEL_LAYERS, "")
        least = self.layers[-1] + 1
        return max(least, int(told)) if told.isascii() and told.isdigit() and len(told) < 6 else least

    @property
    def model(self) -> str:
        """The model that was recorded."""
        return next(iter(self)).model

    @property
    def benchmark(self) -> str:
        """What the model was given to read."""
        return next(iter(self)).benchmark

    @property
    def suite(self) -> str | None:
        """The collection that the benchmark belongs to."""
        return next(iter(self)).suite

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(trace.nbytes for trace in self)

    def validate(self) -> None:
        """`KvTrace.validate` of each."""
        for trace in self:
            trace.validate()

    def fingerprint(self) -> str:
        """SHA-256 of all tensors and where they belong: equal for equal traces, however they are spread over files."""
        digest = hashlib.sha256()
        for trace in self:
            for name in layout.RANKS:
                kind, array = trace._held.stored[name]
                digest.update(f"{trace.layer} {trace.head} {name} {kind} {array.shape}\n".encode())
                digest.update(array.data if array.flags.c_contiguous else array.tobytes())
        return digest.hexdigest()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TraceSet):
            return NotImplemented
        return self._traces == other._traces

    __hash__ = None  # type: ignore[assignment]  # as in Held

    def __repr__(self) -> str:
        layers = self.layers
        return (
            f"TraceSet({self.model!r}, {len(self)} traces of layers {layers[0]}..{layers[-1]}, {self.nbytes:,} bytes)"
        )
