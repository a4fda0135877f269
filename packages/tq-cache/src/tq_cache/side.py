"""One side of a layer, keys or values: first tokens exact, then packed codes, then the exact window."""

import math
from collections.abc import Callable, Mapping
from copy import copy
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tq_cache.basis import Basis, learned
from tq_cache.floats import require_float32
from tq_cache.flow import Flow, Pending, Settled
from tq_cache.grammar import GIVEN
from tq_cache.place import exceeds
from tq_cache.plan import SidePlan
from tq_cache.token_array import TokenArray
from tq_core import ScaleRange

F32 = NDArray[np.float32]
Floats = NDArray[np.floating]
Positions = NDArray[np.int64]

MARGIN: Final = 4.0  # no scale rule makes more than 4 times of a norm


class Side:
    """(lanes, tokens, dim), a lane being one head of one sequence. Tokens are held in order: sinks, codes, window.

    A token is quantized once, when it leaves the window, and its codes never change afterwards. Nothing is quantized
    before the basis is known; once it is, it stays until `clear`.
    """

    def __init__(self, plan: SidePlan, sink_limit: int, capacity: int) -> None:
        self.lanes, self.dim, self.codec, self.needs, self.known, self.place = plan
        self.sink_limit, self.capacity = sink_limit, capacity
        floats = [np.finfo(dtype).max for _, dtype in self.codec.fields.values() if dtype.kind == "f"]
        self.scratch = self.dim * self.codec.scratch  # bytes a token, see TokenCodec
        self._surely_fits = float(min(floats)) / MARGIN  # a norm that every store of this codec can hold
        self.clear()

    def clear(self) -> None:
        """Forget all tokens, the memory they took and what was learned from them."""
        self.basis = None if self.needs.tokens else self.known
        self.coded = {
            name: TokenArray(self.lanes, () if width is None else (width,), dtype, self.capacity, self.place)
            for name, (width, dtype) in self.codec.fields.items()
        }
        self.sinks = TokenArray(self.lanes, (self.dim,), np.dtype(np.float16), place=self.place)
        self.recent = TokenArray(self.lanes, (self.dim,), np.dtype(np.float16), place=self.place)
        self._is_open = True  # nothing comes from a file

    def fork(self) -> "Side":
        """The same tokens in a side of its own, without a copy."""
        return self._with(TokenArray.fork)

    def twin(self) -> "Side":
        """The tokens held now, to be gone back to after a `commit`; see TokenArray."""
        return self._with(TokenArray.twin)

    def back_to(self, twin: "Side") -> None:
        """Hold what the twin holds."""
        vars(self).update(vars(twin))

    def _with(self, again: Callable[[TokenArray], TokenArray]) -> "Side":
        other = copy(self)
        other.coded = {name: again(array) for name, array in self.coded.items()}
        other.sinks, other.recent = again(self.sinks), again(self.recent)
        return other

    def arrays(self) -> list[tuple[str, TokenArray]]:
        """Every array held, by what it is for."""
        coded = [("codes" if name.endswith("packed") else "norms", array) for name, array in self.coded.items()]
        return [*coded, ("sinks", self.sinks), ("window", self.recent)]

    def open(self) -> None:
        """Verify what was loaded from a file and not yet read, so that no later step of a change can fail on it."""
        if self._is_open:
            return
        for array in (self.sinks, self.recent, *self.coded.values()):
            array.open()
        self._is_open = True

    def adopt(self, coded: Mapping[str, TokenArray], sinks: TokenArray, recent: TokenArray, basis: Basis) -> None:
        """Hold these tokens from now on; arrays as `clear` makes them, of equal length where coded.

        `basis`: what is known of it, given or learned.
        """
        self.coded, self.sinks, self.recent, self._is_open = dict(coded), sinks, recent, False
        self.known = Basis(
            basis.mean if self.needs.mean == GIVEN else None, basis.order if self.needs.split == GIVEN else None
        )
        is_known = (basis.mean is not None or not self.needs.mean) and (basis.order is not None or not self.needs.split)
        self.basis = basis if is_known else None

    def settled(self, tokens: Floats, flow: Flow) -> Settled:
        """The tokens that an append quantizes; refuses new ones that could not be quantized later."""
        if flow.sinks:
            require_float32(tokens[:, : flow.sinks], "sinks")
        found = tokens[:, flow.sinks : flow.sinks + flow.settle_new]
        if flow.settle_old:
            found = np.concatenate([self.recent.view[:, : flow.settle_old], found], axis=1)
        basis = self.basis
        if basis is None and found.shape[1]:
            basis = learned(found, self.needs, self.known)
        if flow.sinks + flow.settle_new < tokens.shape[1]:
            self._check_recent(tokens[:, flow.sinks + flow.settle_new :], basis)
        if flow.skip:
            found = found[:, flow.skip :]
        return Settled(found if basis is None else basis.moved(found), basis)

    def _check_recent(self, recent: Floats, basis: Basis | None) -> None:
        """Refuse now what could not be encoded when it leaves the window, many calls later."""
        moved = recent if basis is None else basis.moved(recent)
        limit = self._surely_fits if basis is not None else self._surely_fits / 2  # less a mean of as large a norm
        if not exceeds(moved, limit / math.sqrt(self.dim)):
            return
        if basis is not None:
            self.codec.encode(moved.reshape(-1, self.dim))
            return
        longest = float(np.linalg.norm(moved.astype(np.float64), axis=2).max())
        if not longest <= limit:
            raise ScaleRange(
                f"a vector of norm {longest:.6g} waits for what is learned from the first {self.needs.tokens} tokens; "
                f"norms up to {limit:.6g} surely fit; use norms=float32 or scale the data down"
            )

    def reserve(self, pending: Pending) -> None:
        """Make room for a prepared append, after which it cannot fail; all tokens stay as they are."""
        sinks, recent = pending.sinks, pending.recent
        if sinks.shape[1]:
            room = min(self.sink_limit - len(self.sinks), 64)  # the usual few sinks at once, for good
            # repeated by reorder(), sinks may be more than the limit already
            self.sinks = _with_room(self.sinks, sinks, max(room, sinks.shape[1]))
        if recent.shape[1]:
            self.recent = _with_room(self.recent, recent, recent.shape[1])
        for name, array in self.coded.items():
            array.reserve(pending.encoded[name].shape[1])

    def commit(self, pending: Pending) -> None:
        """Carry a prepared append out."""
        flow = pending.flow
        self.basis = pending.basis
        if flow.sinks:
            self.sinks.extend(pending.sinks)
        if flow.drop_sinks:
            self.sinks.drop_front(flow.drop_sinks)
        for name, array in self.coded.items():
            if flow.drop_coded:
                array.drop_front(flow.drop_coded)
            array.extend(pending.encoded[name])
        if flow.settle_old:
            self.recent.drop_front(flow.settle_old)
        if pending.recent.shape[1]:
            self.recent.extend(pending.recent)

    def take(self, sinks: Positions, coded: Positions, recent: Positions) -> None:
        """Keep the tokens at these positions of each part, in this order."""
        self.sinks.take(sinks)
        self.recent.take(recent)
        for array in self.coded.values():
            array.take(coded)

    def crop(self, sinks: int, coded: int, recent: int) -> None:
        """Keep that many tokens of each part, the first ones."""
        self.sinks.drop_back(len(self.sinks) - sinks)
        self.recent.drop_back(len(self.recent) - recent)
        for array in self.coded.values():
            array.drop_back(len(array) - coded)

    def tokens(self, start: int, stop: int) -> F32:
        """What tokens `start .. stop - 1` decode to, (lanes, stop - start, dim) float32; exact ones as they came."""
        parts = []
        for low, high, read in self._parts(start, stop):
            parts.append(read(low, high))
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)

    def scores(self, queries: F32) -> F32:
        """Inner products of (lanes, queries, dim) with all tokens, (lanes, queries, tokens), codes unpacked nowhere."""
        sinks, coded = len(self.sinks), len(self.coded["packed"])
        out: F32 = self.place.xp.empty((self.lanes, queries.shape[1], sinks + coded + len(self.recent)), np.float32)
        for lane, asked in enumerate(queries):
            out[lane, :, :sinks] = asked @ _float32(self.sinks.view[lane]).T
            out[lane, :, sinks + coded :] = asked @ _float32(self.recent.view[lane]).T
            if coded:
                out[lane, :, sinks : sinks + coded] = self._coded_scores(lane, 0, coded, asked)
        return out

    def __len__(self) -> int:
        """Tokens held, exact ones and codes."""
        return self.borders()[1] + len(self.recent)

    def borders(self) -> tuple[int, int]:
        """Where codes begin and where the window begins."""
        return len(self.sinks), len(self.sinks) + len(self.coded["packed"])

    def scores_of(self, lane: int, start: int, stop: int, queries: F32) -> F32:
        """Inner products of (queries, dim) with tokens of one lane and one part, (queries, stop - start)."""
        exact, offset = self._exact_at(start)
        if exact is not None:
            return queries @ _float32(exact.view[lane, start - offset : stop - offset]).T
        return self._coded_scores(lane, start - offset, stop - offset, queries)

    def _coded_scores(self, lane: int, low: int, high: int, queries: F32) -> F32:
        basis = self._basis
        found = self.codec.scores(self._rows(lane, low, high), basis.asked(lane, queries))
        shift = basis.shift(lane, queries)
        if shift is not None:
            found += shift[:, None]
        return found

    def combined(self, lane: int, start: int, stop: int, weights: F32) -> F32:
        """Weighted sums of tokens of one lane and one part: (sums, stop - start) to (sums, dim)."""
        exact, offset = self._exact_at(start)
        if exact is not None:
            return weights @ _float32(exact.view[lane, start - offset : stop - offset])
        sums = self.codec.combine(self._rows(lane, start - offset, stop - offset), weights)
        return self._basis.answered(lane, sums)

    def _exact_at(self, position: int) -> tuple[TokenArray | None, int]:
        """The array of exact tokens that holds a position, None for codes; and the position of its first token."""
        codes, window = self.borders()
        if position < codes:
            return self.sinks, 0
        return (self.recent, window) if position >= window else (None, codes)

    def _rows(self, lane: int, low: int, high: int) -> dict[str, NDArray[Any]]:
        return {name: array.view[lane, low:high] for name, array in self.coded.items()}

    def _parts(self, start: int, stop: int) -> list[tuple[int, int, Any]]:
        """(first, last + 1, reader) within each part that the span touches; one empty part for an empty span."""
        found, offset = [], 0
        spans = (
            (len(self.sinks), lambda low, high: _float32(self.sinks.view[:, low:high])),
            (len(self.coded["packed"]), self._decoded),
            (len(self.recent), lambda low, high: _float32(self.recent.view[:, low:high])),
        )
        for length, read in spans:
            low, high = max(start - offset, 0), min(stop - offset, length)
            if low < high:
                found.append((low, high, read))
            offset += length
        return found or [(0, 0, spans[1][1])]

    def _decoded(self, low: int, high: int) -> F32:
        rows = {}
        for name, array in self.coded.items():
            part = array.view[:, low:high]
            rows[name] = part.reshape(-1, *part.shape[2:])
        return self.restored(self.codec.decode(rows).reshape(self.lanes, high - low, self.dim))

    def restored(self, rows: F32) -> F32:
        """(lanes, n, dim) rows that the codec decoded, as they came; changes `rows`."""
        return rows if self.basis is None else self.basis.restored(rows)

    @property
    def has_mean(self) -> bool:
        """Whether codes are of vectors less a mean, so that their scores lack `shifts`."""
        return self.basis is not None and self.basis.mean is not None

    def shifts(self, queries: F32) -> F32:
        """Inner products of (lanes, heads a lane, n, dim) queries with the mean of their lane, (lanes, heads, n)."""
        found = [self._basis.shift(lane, own.reshape(-1, self.dim)) for lane, own in enumerate(queries)]
        return np.stack([shift for shift in found if shift is not None]).reshape(queries.shape[:3])

    @property
    def _basis(self) -> Basis:
        assert self.basis is not None, "codes are made once the basis is known"
        return self.basis


def _with_room(held: TokenArray, new: Floats, extra: int) -> TokenArray:
    """The tokens with room for `extra` more, in a dtype that also holds the new ones."""
    if held.memory.dtype != new.dtype:  # seldom, and asking numpy for the wider one takes time
        held = held.widened(np.result_type(held.memory.dtype, new.dtype))
    held.reserve(extra)
    return held


def _float32(exact: Floats) -> F32:
    """A float32 copy; what is beyond float32 was refused when it came."""
    return exact.astype(np.float32)
