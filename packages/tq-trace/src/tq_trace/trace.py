"""KvTrace: what one attention head of a model saw, recorded so that compression can be measured on it again."""

import os
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO, Final, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tq_cache.atomic_file import as_path, write_file
from tq_core import CorruptData, InvalidSpec, NotFinite, TurboQuantError
from tq_trace import checks, container, layout
from tq_trace.bfloat16 import Bfloat16
from tq_trace.errors import FILES
from tq_trace.held import Held
from tq_trace.metadata import Metadata

_DTYPES: Final = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64", "I64": "int64"}


class TraceSample(NamedTuple):
    """One sample of a trace; the query at position p attends to keys and values 0..p, p included."""

    keys: NDArray[np.floating]
    """(tokens, head_dim)"""
    values: NDArray[np.floating]
    """(tokens, value_dim)"""
    queries: NDArray[np.floating]
    """(query_count, head_dim)"""
    query_positions: NDArray[np.int64]
    """(query_count,), each in 0..tokens-1"""


class KvTrace:
    """Keys, values and queries of one head of one layer, immutable and valid from construction on.

    `keys` (samples, tokens, head_dim), `values` (samples, tokens, value_dim), `queries` (samples, query_count,
    head_dim) in float16, bfloat16, float32 or float64, all finite, each kept in its own dtype; `query_positions`
    (samples, query_count), integers in 0..tokens-1, kept as int64. Arrays are copied and come back read-only; those of
    a file are mapped. Many layers and heads together are a `TraceSet`.

    Raises InvalidDtype, ShapeMismatch, NotFinite or InvalidPosition for arrays, InvalidSpec for metadata.
    """

    def __init__(
        self,
        keys: ArrayLike | Bfloat16,
        values: ArrayLike | Bfloat16,
        queries: ArrayLike | Bfloat16,
        query_positions: ArrayLike,
        *,
        model: str,
        benchmark: str,
        layer: int,
        suite: str | None = None,
        head: int | None = None,
        note: str | None = None,
        extra: Mapping[str, str] | None = None,
    ) -> None:
        metadata = Metadata(model, benchmark, layer, suite, head, note, {} if extra is None else extra)
        tensors = {
            "keys": checks.float_tensor(keys, "keys"),
            "values": checks.float_tensor(values, "values"),
            "queries": checks.float_tensor(queries, "queries"),
            "query_positions": checks.position_tensor(query_positions),
        }
        self._adopt(tensors, metadata)

    def _adopt(
        self,
        tensors: layout.Stored,
        metadata: Metadata,
        *,
        origin: str = "",
        lazy: bool = False,
    ) -> None:
        """Hold these tensors, which nobody else changes; with `lazy`, floats are checked when they are first used."""
        self._held = Held(tensors, origin)
        self._metadata = metadata
        self._require_readable_header()
        if not lazy:
            self._held.check()

    def _require_readable_header(self) -> None:
        size = len(layout.encode_header(self._held.stored, self._metadata.to_strings())[0]) - 8
        if size > layout.MAX_HEADER:
            raise InvalidSpec(
                f"metadata makes a header of {size} bytes, at most {layout.MAX_HEADER} are read: shorten it"
            )

    def validate(self) -> None:
        """Check every guarantee now, again for what was checked: memory changed behind our back is found here."""
        self._held.validate()

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        layer: int | None = None,
        head: int | None = None,
        lazy: bool = True,
    ) -> Self:
        """Map a file; of one that holds many layers and heads, the trace at `layer` and `head`.

        Names, dtypes, shapes and positions are checked here; that all floats are finite when a tensor is first used,
        or here with `lazy=False`. Messages begin with the path. The file must not be edited in place meanwhile; it
        may be deleted or replaced where the system keeps open files alive.
        Raises TraceNotFound, TraceAccess, CorruptData for what is no trace file, ShapeMismatch, InvalidPosition and
        NotFinite as the class says, and InvalidSpec for a place that is not in it.
        """
        found = container.read(path)
        place = container.place_of(found, os.fspath(path), layer, head)
        return cls._from_container(found, place, os.fspath(path), lazy=lazy)

    @classmethod
    def _from_container(cls, found: container.Container, place: layout.Place | None, path: str, *, lazy: bool) -> Self:
        trace = cls.__new__(cls)
        origin = path if place is None else f"{path}: layer {place[0]} head {place[1]}"
        strings = dict(found.metadata)
        if place is not None:
            strings |= {"layer": str(place[0]), "head": str(place[1])}
        try:
            trace._adopt(found.places[place], Metadata.from_strings(strings), origin=origin, lazy=lazy)
        except InvalidSpec as error:
            raise CorruptData(f"{path}: {error}") from error
        except NotFinite:
            raise
        except TurboQuantError as error:
            raise type(error)(f"{origin}: {error}") from error
        return trace

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write one safetensors file, whole or not at all; loading it gives an equal trace, bit for bit.

        Raises TraceExists if something is there and overwrite is false, TraceNotFound if the folder is missing,
        TraceAccess if the system refuses; what was at path before then still is.
        """
        self._held.check()

        def write(file: BinaryIO) -> None:
            layout.write(file, self._held.stored, self._metadata.to_strings())

        write_file(as_path(path), write, overwrite=overwrite, refusals=FILES)

    @property
    def keys(self) -> NDArray[np.floating]:
        """(samples, tokens, head_dim), read-only; bfloat16 comes as float32, widened anew at each access."""
        return self._held.floats("keys")

    @property
    def values(self) -> NDArray[np.floating]:
        """(samples, tokens, value_dim), read-only; bfloat16 as in `keys`."""
        return self._held.floats("values")

    @property
    def queries(self) -> NDArray[np.floating]:
        """(samples, query_count, head_dim), read-only; bfloat16 as in `keys`."""
        return self._held.floats("queries")

    @property
    def query_positions(self) -> NDArray[np.int64]:
        """(samples, query_count), read-only; the query at position p attends to keys 0..p."""
        return self._held.positions

    @property
    def metadata(self) -> Metadata:
        """model, benchmark, layer, and suite, head, note where known; also attributes of the trace itself."""
        return self._metadata

    @property
    def model(self) -> str:
        """The model that was recorded."""
        return self._metadata.model

    @property
    def benchmark(self) -> str:
        """What the model was given to read."""
        return self._metadata.benchmark

    @property
    def suite(self) -> str | None:
        """The collection that the benchmark belongs to."""
        return self._metadata.suite

    @property
    def layer(self) -> int:
        """The layer, from 0."""
        return self._metadata.layer

    @property
    def head(self) -> int | None:
        """The key/value head, from 0."""
        return self._metadata.head

    @property
    def note(self) -> str | None:
        """Free text."""
        return self._metadata.note

    @property
    def dtypes(self) -> dict[str, str]:
        """What each tensor is stored as: 'float16', 'bfloat16', 'float32', 'float64'; positions are 'int64'."""
        return {name: _DTYPES[self._held.stored[name][0]] for name in layout.RANKS}

    @property
    def tokens(self) -> int:
        """Tokens of each sample."""
        return self._held.shape("keys")[1]

    @property
    def head_dim(self) -> int:
        """Dimension of keys and queries."""
        return self._held.shape("keys")[2]

    @property
    def value_dim(self) -> int:
        """Dimension of values."""
        return self._held.shape("values")[2]

    @property
    def query_count(self) -> int:
        """Queries of each sample."""
        return self._held.shape("queries")[1]

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays held, which are those of the file without its header."""
        return sum(array.nbytes for _, array in self._held.stored.values())

    def __len__(self) -> int:
        return self._held.shape("keys")[0]

    def sample(self, index: int) -> TraceSample:
        """Arrays of one sample, read-only and without copying, save that bfloat16 is widened to float32."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        return TraceSample(
            self._held.floats("keys", index),
            self._held.floats("values", index),
            self._held.floats("queries", index),
            self.query_positions[index],
        )

    @property
    def samples(self) -> Iterator[TraceSample]:
        """All samples in order, one at a time."""
        return map(self.sample, range(len(self)))

    def __iter__(self) -> Iterator[TraceSample]:
        return self.samples

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, KvTrace):
            return NotImplemented
        return self._metadata == other._metadata and self._held == other._held

    __hash__ = None  # type: ignore[assignment]  # as in Held; content may be large

    def __repr__(self) -> str:
        head = "" if self.head is None else f" head {self.head}"
        return (
            f"KvTrace({self.model!r} layer {self.layer}{head}, {len(self)} samples of {self.tokens} tokens, "
            f"head_dim {self.head_dim}, {self.dtypes['keys']})"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (dict(self._held.stored), self._metadata.to_strings())


def _rebuild(tensors: dict[str, tuple[str, NDArray[Any]]], strings: dict[str, str]) -> KvTrace:
    trace = KvTrace.__new__(KvTrace)
    trace._adopt(tensors, Metadata.from_strings(strings))
    return trace
