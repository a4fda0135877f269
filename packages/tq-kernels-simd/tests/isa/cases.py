"""Cases for csrc/standalone: plan, input and the numpy backend's output, byte for byte, in one file."""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tq_core.codebook import codebook_of
from tq_core.numpy_backend import NumpyBackend
from tq_core.plan import RULES, ScalarPlan, scale_candidates
from tq_core.radix import RADICES
from tq_core.registry import Plan
from tq_core.rotation import Rotation
from tq_core.sketch import Sketch
from tq_core.testing import samples
from tq_core.trellis_plan import TrellisPlan, trellis_candidates
from tq_core.trellis_table import BITS, STATES, trellis
from tq_kernels_simd.plan import plan_bytes, rotation_bytes

ROTATE, ENCODE, DECODE, REFUSED, SCORE, ATTEND = 1, 2, 3, 4, 5, 6
DIMS = (2, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 20, 24, 31, 32, 33, 40, 48, 63, 64, 65, 80, 96, 100, 127, 128, 129, 160)
LARGE_DIMS = (192, 256, 320, 512, 768, 1000, 1024, 1536, 2048, 4096)
DTYPES = {"e": np.float16, "f": np.float32, "d": np.float64}
REFERENCE = NumpyBackend()


def write_cases(path: Path) -> int:
    """Write every case; returns how many."""
    cases = [*_rotations(), *_encodings(), *_trellises(), *_scores(), *_attentions(), *_refusals()]
    with path.open("wb") as file:
        for kind, *blobs in cases:
            file.write(struct.pack("=I", kind))
            for blob in blobs:
                file.write(struct.pack("=Q", len(blob)) + blob)
    return len(cases)


def _rotations() -> Iterator[tuple]:
    for dim in (*DIMS, *LARGE_DIMS):
        rotation, x = Rotation(dim, "hadamard", 7), samples(dim)
        z = REFERENCE.rotate(rotation, x)
        yield ROTATE, rotation_bytes(rotation), b"\0", x.tobytes(), z.tobytes()
        yield ROTATE, rotation_bytes(rotation), b"\1", z.tobytes(), REFERENCE.unrotate(rotation, z).tobytes()


def _encodings() -> Iterator[tuple]:
    for dim in DIMS:
        for bits in (*range(1, 9), *RADICES) if dim in (3, 33, 64, 100) else (1, 2, 3, 4, 5, 8, 2.5, 3.25):
            yield from _encoding(_plan(dim, bits), "f")
    for dim in (64, 100):
        for dtype in "ed":
            yield from _encoding(_plan(dim, 4), dtype)
        for rule in RULES:
            yield from _encoding(_plan(dim, 3, rule=rule), "f")
        for kind in ("gaussian", "hadamard"):
            yield from _encoding(_plan(dim, 3, sketch=Sketch(dim, dim, kind, 5)), "f")
    for dim, bits, search in ((33, 6, 3), (128, 4, 9), (96, 5, 3), (33, 2.25, 3), (100, 3.5, 3)):
        yield from _encoding(_plan(dim, bits, search=search), "f")
    for dim in (33, 129):
        for dtype in "ed":
            yield from _encoding(_plan(dim, 2), dtype)
    yield from _encoding(_plan(1536, 4), "f")


def _trellises() -> Iterator[tuple]:
    """Codes and decoded rows of every table, scores and attention of some."""
    for states in STATES:
        for bits in BITS:
            yield from _encoding(_trellis(64, bits, states), "f")
    for dim, bits, states, search in (
        (33, 3, 8, 3),
        (96, 4, 8, 0),
        (45, 3, 256, 3),
        (129, 1, 256, 0),
        (300, 4, 256, 0),
    ):
        yield from _encoding(_trellis(dim, bits, states, search), "f")
        yield _score(_trellis(dim, bits, states), rows=40)
        yield _attention(_trellis(dim, bits, states), _plan(32, 4))
        yield _attention(_plan(32, 4), _trellis(dim, bits, states))


def _trellis(dim: int, bits: int, states: int, search: int = 0) -> TrellisPlan:
    candidates = trellis_candidates(dim, search)
    return TrellisPlan(Rotation(dim, "hadamard", 7), trellis(bits, states), "unbiased", candidates, strict=False)


def _plan(
    dim: int, bits: float, *, rule: str = "unbiased", search: int = 0, sketch: Sketch | None = None
) -> ScalarPlan:
    return ScalarPlan(
        Rotation(dim, "hadamard", 7), codebook_of(dim, bits), rule, scale_candidates(dim, search), sketch, False
    )


def _encoding(plan: Plan, dtype: str) -> Iterator[tuple]:
    x = samples(plan.dim)
    if dtype == "e":
        x = x[:17]  # beyond are rows that float16 cannot hold
    x = (x.astype(np.float64) / (3 if dtype == "d" else 1)).astype(DTYPES[dtype])
    packed, scales, gammas = REFERENCE.encode(plan, x)
    outputs = (packed.tobytes(), scales.tobytes(), b"" if gammas is None else gammas.tobytes())
    yield ENCODE, plan_bytes(plan), dtype.encode(), x.tobytes(), *outputs
    if gammas is None:
        decoded = REFERENCE.decode(plan, packed, scales, None)
        yield DECODE, plan_bytes(plan), packed.tobytes(), scales.tobytes(), decoded.tobytes()


def _scores() -> Iterator[tuple]:
    shapes = [(dim, bits) for dim in (3, 33, 64, 100, 160, 513) for bits in (*range(1, 9), *RADICES)]
    for dim, bits in [*shapes, (1536, 4), (1536, 8), (4097, 2)]:
        yield _score(_plan(dim, bits), rows=23 if dim > 200 else 300)
    for kind in ("gaussian", "hadamard"):
        for dim in (33, 64):
            yield _score(_plan(dim, 3, sketch=Sketch(dim, dim, kind, 5)), rows=40)


def _score(plan: Plan, rows: int) -> tuple:
    rng = np.random.default_rng(round(plan.dim * 8 + plan.codebook.bits))
    packed, scales, gammas = REFERENCE.encode(plan, rng.standard_normal((rows, plan.dim)).astype(np.float32))
    queries = rng.standard_normal((37, plan.dim)).astype(np.float32)
    scores = REFERENCE.scores(plan, packed, scales, gammas, queries)
    stored = (packed.tobytes(), scales.tobytes(), b"" if gammas is None else gammas.tobytes())
    return SCORE, plan_bytes(plan), *stored, REFERENCE.rotate(plan.rotation, queries).tobytes(), scores.tobytes()


def _attentions() -> Iterator[tuple]:
    widths = ((1, 8), (2, 7), (3, 6), (4, 5), (5, 4), (6, 3), (7, 2), (8, 1))
    for key_dim, value_dim in ((64, 32), (96, 128), (33, 20), (7, 3)):
        for bits in widths:
            yield _attention(_plan(key_dim, bits[0]), _plan(value_dim, bits[1]))
    for bits in ((4, 4), (3, 2), (1, 6), (5, 3), (8, 1)):
        for key_dim, value_dim in ((96, 32), (33, 65)):
            plans = _plan(key_dim, bits[0]), _plan(value_dim, bits[1])
            yield from (_attention(*plans, sight=sight) for sight in _sights())


class Sight(NamedTuple):
    """What each query of a group sees of the tokens, and what becomes of its logits."""

    limits: np.ndarray | None  # (count, 2) int64
    mask: np.ndarray | None  # (count, tokens) bool
    softcap: float = 0.0
    groups: int = 1


EVERYTHING = Sight(None, None)


def _sights(tokens: int = 137) -> Iterator[Sight]:
    """Limits, masks, the soft cap and all together; some queries see nothing, some fewer tokens than a tile has."""
    far = np.iinfo(np.int64).max
    limits = np.array([[0, tokens], [-far, 64], [63, 129], [70, 70], [128, far], [100, 20], [64, 128]])
    mask = np.random.default_rng(tokens).random((len(limits), tokens)) < 0.5
    mask[1] = False
    mask[2, :64] = False
    yield Sight(limits, None)
    yield Sight(None, mask, groups=2)
    yield Sight(None, None, softcap=0.5, groups=3)
    yield Sight(limits, mask, softcap=2.0, groups=5)  # 35 rows, more than a block has


def _attention(keys: Plan, values: Plan, tokens: int = 137, sight: Sight = EVERYTHING) -> tuple:
    """Attention in float64 over decoded rows; the output is rotated, as the kernel leaves it."""
    limits, mask, softcap, groups = sight
    count = next((len(part) for part in (limits, mask) if part is not None), 5)
    rng = np.random.default_rng(keys.dim)
    stored, decoded = [], []
    for plan in (keys, values):
        packed, scales, _ = REFERENCE.encode(plan, rng.standard_normal((tokens, plan.dim)).astype(np.float32))
        stored += [packed.tobytes(), scales.tobytes()]
        decoded.append(REFERENCE.decode(plan, packed, scales, None).astype(np.float64))
    queries = (rng.standard_normal((groups * count, keys.dim)) * 4 / np.sqrt(keys.dim)).astype(np.float32)
    logits = queries.astype(np.float64) @ decoded[0].T * 0.25
    if softcap:
        logits = softcap * np.tanh(logits / softcap)
    at, seen = np.arange(tokens), np.ones((count, tokens), np.bool_)
    if limits is not None:
        seen &= (at >= limits[:, :1]) & (at < limits[:, 1:])
    if mask is not None:
        seen &= mask
    weights = np.where(np.tile(seen, (groups, 1)), np.exp(logits), 0.0)
    totals = weights.sum(axis=1, keepdims=True)
    out = (weights @ decoded[1] / np.where(totals > 0, totals, 1)).astype(np.float32)
    asked, expected = REFERENCE.rotate(keys.rotation, queries), REFERENCE.rotate(values.rotation, out)
    views = (b"" if part is None else part.tobytes() for part in (limits, mask))
    settings = struct.pack("=3f", 0.25, softcap, groups)
    return ATTEND, plan_bytes(keys), plan_bytes(values), *stored, asked.tobytes(), *views, settings, expected.tobytes()


def _refusals() -> Iterator[tuple]:
    good = plan_bytes(_plan(100, 3))
    for length in (0, 8, 215, 216, len(good) - 8):
        yield REFUSED, good[:length]
    for word in range(18):  # the last three belong to sketches
        yield REFUSED, good[: 8 * word] + struct.pack("=q", -1) + good[8 * word + 8 :]
