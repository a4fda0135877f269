"""Specs: plain dicts that rebuild a quantizer or codec, and the arrays that its rows are made of."""

import reprlib  # bounded in length and depth: a spec may come from a stranger's file
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from tq_core import checks
from tq_core.errors import InvalidDimension, InvalidSpec
from tq_core.packing import plane_bytes, row_bytes
from tq_core.plan import RULES
from tq_core.radix import RADICES
from tq_core.trellis_table import STATES, window_bits

Spec = dict[str, Any]
Fields = dict[str, tuple[int | None, "np.dtype[Any]"]]  # name -> (row width, None for one number a row; dtype)

KEYS: Final = {
    "mse": {"dim", "bits", "seed", "rotation"},
    "prod": {"dim", "bits", "seed", "rotation", "sketch"},
    "qjl": {"dim", "projections", "seed", "sketch"},
    "polar": {"dim", "bits", "seed"},
    "trellis": {"dim", "bits", "seed", "states", "rotation"},
    "codec": {"quantizer", "scale", "norm_dtype", "search"},
}
ROTATIONS: Final = ("hadamard", "dense")
SKETCHES: Final = ("gaussian", "hadamard")
NORM_DTYPES: Final = ("float16", "float32")
MAX_SEARCH: Final = 65
MAX_TRELLIS_DIM: Final = 8192  # the walk remembers 2 bytes a node and coordinate, up to 32 MiB
MAX_MATRIX: Final = 1 << 26  # entries of a dense rotation or Gaussian sketch: dim 8192 squared

U8: Final = np.dtype(np.uint8)
F16: Final = np.dtype("<f2")
F32: Final = np.dtype("<f4")


def validated(spec: object) -> Spec:
    """A canonical copy of the spec, or a typed error that names the bad entry."""
    if not isinstance(spec, Mapping) or not isinstance(spec.get("kind"), str) or spec["kind"] not in KEYS:
        raise InvalidSpec(f"a spec is a dict whose 'kind' is one of {', '.join(KEYS)}; got {reprlib.repr(spec)}")
    kind = spec["kind"]
    given, expected = set(spec) - {"kind"}, KEYS[kind]
    if given != expected:
        raise InvalidSpec(f"a {kind} spec has the keys {sorted(expected)}, got {sorted(map(str, given))}")
    if kind == "codec":
        return _codec(spec)
    clean: Spec = {"kind": kind, "dim": checks.dimension(spec["dim"]), "seed": checks.seed_value(spec["seed"])}
    dim = clean["dim"]
    if kind == "qjl":
        clean["projections"] = checks.count(spec["projections"], 1, checks.MAX_DIM, "projections")
        clean["sketch"] = checks.choice(spec["sketch"], SKETCHES, "sketch")
        if clean["sketch"] == "hadamard" and clean["projections"] != dim:
            raise InvalidSpec(f"a hadamard sketch has projections = dim = {dim}, got {clean['projections']}")
        _require_table(dim * clean["projections"], clean["sketch"] == "gaussian", "sketch", dim)
        return clean
    if kind == "trellis":
        return _trellis(spec, clean)
    fractions = tuple(RADICES) if kind == "mse" else ()
    clean["bits"] = checks.bit_width(spec["bits"], 2 if kind == "prod" else 1, 8, f"the {kind} quantizer", fractions)
    if kind == "polar":
        if dim.bit_count() != 1:
            raise InvalidDimension(f"the polar quantizer needs a power-of-two dim, got {dim}")
        return clean
    clean["rotation"] = checks.choice(spec["rotation"], ROTATIONS, "rotation")
    _require_table(dim * dim, clean["rotation"] == "dense", "rotation", dim)
    if kind == "prod":
        clean["sketch"] = checks.choice(spec["sketch"], SKETCHES, "sketch")
        _require_table(dim * dim, clean["sketch"] == "gaussian", "sketch", dim)
    return clean


def _trellis(spec: Mapping[str, Any], clean: Spec) -> Spec:
    dim = clean["dim"]
    bits = clean["bits"] = int(checks.bit_width(spec["bits"], 1, 4, "the trellis quantizer"))
    states = clean["states"] = checks.count(spec["states"], 8, max(STATES), "states")
    if states not in STATES:
        raise InvalidSpec(f"states must be one of {', '.join(map(str, STATES))}, got {states}")
    clean["rotation"] = checks.choice(spec["rotation"], ROTATIONS, "rotation")
    _require_table(dim * dim, clean["rotation"] == "dense", "rotation", dim)
    window = window_bits(bits, states)
    if dim > MAX_TRELLIS_DIM:
        raise InvalidDimension(f"the trellis quantizer takes a dim of at most {MAX_TRELLIS_DIM}, got {dim}")
    if dim * bits < 4 * window:  # a path that closes on itself after fewer bits is worse than no trellis at all
        raise InvalidDimension(
            f"a trellis of {states} states needs dim * bits of at least {4 * window}, got {dim} * {bits}; "
            "use fewer states or the mse quantizer"
        )
    return clean


def _require_table(entries: int, is_matrix: bool, what: str, dim: int) -> None:
    """A spec may come from a stranger's file: it must not ask for a matrix of gigabytes."""
    if is_matrix and entries > MAX_MATRIX:
        raise InvalidDimension(
            f"the {what} matrix of dim {dim} would have {entries} entries, at most {MAX_MATRIX}; use {what}='hadamard'"
        )


def _codec(spec: Mapping[str, Any]) -> Spec:
    wrapped = spec["quantizer"]
    if not isinstance(wrapped, Mapping) or wrapped.get("kind") not in ("mse", "prod", "polar", "trellis"):
        raise InvalidSpec(f"a codec wraps an mse, prod, polar or trellis quantizer, got {reprlib.repr(wrapped)}")
    inner = validated(wrapped)
    search = checks.count(spec["search"], 0, MAX_SEARCH, "search")
    if search and (search % 2 == 0 or search < 3):
        raise InvalidSpec(f"search is a number of candidate scales: 0, or odd and at least 3, got {search}")
    if search and inner["kind"] == "polar":
        raise InvalidSpec("scale search applies to scalar codes, not to polar ones; use search=0")
    return {
        "kind": "codec",
        "quantizer": inner,
        "scale": checks.choice(spec["scale"], RULES, "scale"),
        "norm_dtype": checks.choice(spec["norm_dtype"], NORM_DTYPES, "norm_dtype"),
        "search": search,
    }


def fields(spec: Spec) -> Fields:
    """Names, row widths and dtypes of the arrays that hold rows of this (validated) spec, in stored order."""
    kind = spec["kind"]
    if kind == "codec":
        inner = fields(spec["quantizer"])
        scale = np.dtype(spec["norm_dtype"]).newbyteorder("<")
        if "gammas" in inner:
            inner["gammas"] = (None, scale)
        return {**inner, "scales": (None, scale)}
    dim = spec["dim"]
    if kind == "trellis":
        return {"packed": (plane_bytes(dim * spec["bits"], 1), U8)}
    if kind == "mse":
        return {"packed": (row_bytes(dim, spec["bits"]), U8)}
    if kind == "prod":
        return {"packed": (row_bytes(dim, spec["bits"] - 1) + plane_bytes(dim, 1), U8), "gammas": (None, F16)}
    if kind == "qjl":
        return {"packed": (plane_bytes(spec["projections"], 1), U8), "gammas": (None, F32)}
    width = sum(row_bytes(values, bits) for values, bits in polar_levels(dim, spec["bits"]))
    return {"packed": (width, U8), "radii": (dim // polar_group(dim), F16)}


def packed_parts(spec: Spec) -> list[tuple[int, int, float]]:
    """(offset in the row, values, bits) of every packed part, for checking that it is what packing writes."""
    if spec["kind"] == "codec":
        return packed_parts(spec["quantizer"])
    dim = spec["dim"]
    if spec["kind"] == "trellis":
        return [(0, dim * spec["bits"], 1)]  # one stream of bits
    if spec["kind"] == "mse":
        return [(0, dim, spec["bits"])]
    if spec["kind"] == "prod":
        return [(0, dim, spec["bits"] - 1), (row_bytes(dim, spec["bits"] - 1), dim, 1)]
    if spec["kind"] == "qjl":
        return [(0, spec["projections"], 1)]
    parts: list[tuple[int, int, float]] = []
    offset = 0
    for values, bits in polar_levels(dim, spec["bits"]):
        parts.append((offset, values, bits))
        offset += row_bytes(values, bits)
    return parts


def bits_per_vector(spec: Spec) -> int:
    """Bits held per row, scalars included."""
    return 8 * sum((width or 1) * dtype.itemsize for width, dtype in fields(spec).values())


def polar_group(dim: int) -> int:
    """Coordinates that share one radius."""
    return min(16, dim)


def polar_levels(dim: int, bits: int) -> list[tuple[int, int]]:
    """(angles, bits each) of every level of a polar code, first level first; (4, 2, 2, 2) bits is the paper's."""
    levels = polar_group(dim).bit_length() - 1
    return [(dim >> level, bits if level == 1 else (bits + 1) // 2) for level in range(1, levels + 1)]
