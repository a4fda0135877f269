"""faiss beside TurboQuant, where it is installed: its scalar quantizer, and RaBitQ for keys.

faiss decodes RaBitQ from one bit alone, so values, which attention must decode, are its scalar quantizer's at the same
bits (4 at least where it has no such width). It serves inner products one query at a time and no attention: errors and
bytes are shown, speed is not.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tq_core import BackendUnavailable, InvalidSpec
from tq_trace.dense import DenseRun, Packed
from tq_trace.methods import Run, Stages
from tq_trace.task import Task

F32 = NDArray[np.float32]

SCALAR_BITS: Final = {4: "QT_4bit", 6: "QT_6bit", 8: "QT_8bit"}
ROTATION_SEED: Final = 1  # one rotation for all heads and layers, as in a cache that would use it


class FaissMethod:
    """`faiss-sq4`: scalar quantizer by channel for keys and values. `faiss-rabitq4`: RaBitQ of so many bits for keys.

    Trained on all tokens of the head, which a cache that grows could not be: an advantage over the other rows. RaBitQ
    gets keys less their mean, which softmax does not see: its inner products lose accuracy with a mean left in.
    """

    def __init__(self, family: str, bits: int) -> None:
        try:
            import faiss
        except ImportError as error:
            raise BackendUnavailable("faiss", f"it is not installed ({error})", "pip install faiss-cpu") from error
        if family == "sq" and bits not in SCALAR_BITS:
            raise InvalidSpec(f"faiss-sq has {', '.join(map(str, SCALAR_BITS))} bits, got {bits}")
        self.faiss: Any = faiss
        self.family, self.bits, self.name = family, bits, f"faiss-{family}{bits}"
        self.kind, self.backend = "peer", f"faiss {faiss.__version__}"

    def start(self, task: Task) -> Run:
        """As Method."""
        return DenseRun(task, self.pack(task))

    def stages(self, task: Task) -> Stages | None:
        """As Method: none."""
        return None

    def pack(self, task: Task) -> Packed:
        """All tokens, head by head."""
        value_bits = min((bits for bits in SCALAR_BITS if bits >= self.bits), default=max(SCALAR_BITS))
        codes = trained_bytes = 0
        values = np.empty(task.values.shape, np.float32)
        keys = np.empty(task.keys.shape, np.float32)
        searched = []
        for head in range(len(task.heads)):
            values[head], held, trained = self._scalar(_rows(task.values[head]), value_bits)
            codes, trained_bytes = codes + held, trained_bytes + trained
            if self.family == "sq":
                keys[head], held, trained = self._scalar(_rows(task.keys[head]), self.bits)
            else:
                rows = _rows(task.keys[head])
                mean = rows.mean(axis=0, dtype=np.float64).astype(np.float32)
                index = self._rabitq(rows - mean)
                keys[head] = index.reconstruct_n(0, index.ntotal) + mean
                searched.append(index)
                held, trained = index.sa_code_size() * index.ntotal, 8 * task.keys.shape[2]  # its centre and our mean
            codes, trained_bytes = codes + held, trained_bytes + trained
        return Packed(
            keys,
            values,
            {
                "codes": codes,
                "norms": 0,
                "means": trained_bytes,
                "tables": 4 * task.keys.shape[2] ** 2 * bool(searched),
            },
            scores=(lambda queries: _searched(searched, queries)) if searched else None,
        )

    def _scalar(self, rows: F32, bits: int) -> tuple[F32, int, int]:
        """Rows after coding, bytes of the codes, bytes of what was trained."""
        kind = getattr(self.faiss.ScalarQuantizer, SCALAR_BITS[bits])
        quantizer = self.faiss.ScalarQuantizer(rows.shape[1], kind)
        quantizer.train(rows)
        codes = quantizer.compute_codes(rows)
        return quantizer.decode(codes), codes.nbytes, 4 * int(quantizer.trained.size())

    def _rabitq(self, rows: F32) -> Any:
        """An index of rotated rows; the rotation is faiss's own, as its documentation advises."""
        dim = rows.shape[1]
        inner = self.faiss.IndexRaBitQ(dim, self.faiss.METRIC_INNER_PRODUCT, self.bits)
        inner.qb = 0  # queries stay float
        rotation = self.faiss.RandomRotationMatrix(dim, dim)
        rotation.init(ROTATION_SEED)
        index = self.faiss.IndexPreTransform(rotation, inner)
        index.train(rows)
        index.add(rows)
        return index


def _rows(tokens: NDArray[np.floating]) -> F32:
    return np.ascontiguousarray(tokens, np.float32)


def _searched(indices: list[Any], queries: F32) -> F32:
    """Inner products (heads, n, tokens) by searching for everything and putting it back in order."""
    out = np.empty((len(indices), queries.shape[1], indices[0].ntotal), np.float32)
    for index, asked, rows in zip(indices, queries, out, strict=True):
        found, places = index.search(np.ascontiguousarray(asked), index.ntotal)
        np.put_along_axis(rows, places, found, axis=1)
    return out
