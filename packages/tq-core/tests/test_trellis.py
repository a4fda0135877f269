"""TrellisQuant: codes of the written algorithm, circular rows, tables, limits."""

import json
from importlib.resources import files

import numpy as np
import pytest

from tq_core import (
    Codes,
    CorruptData,
    InvalidBitWidth,
    InvalidDimension,
    InvalidSpec,
    TrellisQuant,
    TurboQuantMSE,
    VectorCodec,
    from_spec,
    make_trellis,
    trellis_path,
)
from tq_core.trellis_plan import trellis_candidates
from tq_core.trellis_table import BITS, STATES, trellis, window_bits

EVERY = [(states, bits) for states in STATES for bits in BITS]


def test_tables_hold_every_code_without_a_zero_level():
    for states, bits in EVERY:
        code = trellis(bits, states)
        assert code.levels.shape == (1 << window_bits(bits, states),)
        assert code.levels.all()
        assert np.abs(code.levels.astype(int)).max() <= 16383
        assert np.array_equal(code.centroids, code.levels / np.float32(4096))


def test_more_states_and_more_bits_distort_less():
    for bits in BITS:
        found = [trellis(bits, states).distortion for states in STATES]
        assert found == sorted(found, reverse=True)
        assert found[1] < TurboQuantMSE(128, bits).expected_mse
    for states in STATES:
        found = [trellis(bits, states).distortion for bits in BITS]
        assert found == sorted(found, reverse=True)


@pytest.mark.parametrize(
    ("dim", "bits", "low", "high"),
    [(256, 1, -0.02, 0.02), (256, 4, -0.03, 0.01), (128, 2, -0.03, 0.03), (40, 1, 0.03, 0.12), (16, 2, 0.15, 0.60)],
)
def test_expected_mse_holds_for_long_rows_and_short_ones_have_more(dim, bits, low, high, unit_rows):
    quantizer = TrellisQuant(dim, bits, states=256)
    x = unit_rows(40_000 // dim, dim).astype(np.float64)
    error = ((quantizer.dequantize(quantizer.quantize(x)) - x) ** 2).sum(axis=1).mean()
    assert low < error / quantizer.expected_mse - 1 < high


def test_siblings_start_with_one_value_of_each_stratum():
    start = np.sort(make_trellis.initial(2, 256).astype(int).reshape(64, 4), axis=1)
    for lower, upper in ((0, 1), (1, 2), (2, 3)):
        assert start[:, lower].max() < start[:, upper].min()


def test_the_file_is_as_the_trainer_writes_it():
    text = files("tq_core").joinpath("data/trellis.json").read_text("ascii")
    assert make_trellis.render(json.loads(text)["tables"]) == text


@pytest.mark.parametrize(
    ("dim", "bits", "states", "options"),
    [
        (64, 1, 256, {"scale": "unbiased"}),
        (33, 4, 8, {"scale": "norm"}),
        (45, 3, 8, {"scale": "mse", "search": 3}),
        (40, 2, 8, {"scale": "plain", "search": 3}),
        (16, 2, 256, {"scale": "mse", "search": 5}),
        (36, 3, 256, {"scale": "unbiased"}),
        (64, 4, 256, {"scale": "unbiased"}),
    ],
)
def test_codes_and_scales_are_those_of_the_written_algorithm(
    slow, slow_trellis, awkward_rows, dim, bits, states, options
):
    x = awkward_rows(dim)[[0, 1, 3, 5, 6, 10, 13]]
    x[5, 0] = 0
    codec = VectorCodec(TrellisQuant(dim, bits, seed=dim, states=states), norm_dtype="float32", **options)
    encoded = codec.encode(x)
    levels = trellis(bits, states).levels.tolist()
    for row, values in enumerate(x):
        packed, scale = slow_trellis.encode(
            slow, values, levels, bits, seed=dim, rule=options["scale"], search=options.get("search", 0)
        )
        assert encoded.arrays["packed"][row].tobytes() == packed, f"codes of row {row}"
        assert encoded.arrays["scales"][row] == np.float32(scale), f"scale of row {row}"


@pytest.mark.parametrize(
    ("dim", "bits", "states"), [(33, 3, 8), (45, 3, 256), (64, 1, 1024), (50, 4, 4096), (128, 2, 1024)]
)
def test_any_coordinate_decodes_from_its_window_alone(slow_trellis, unit_rows, dim, bits, states):
    quantizer = TrellisQuant(dim, bits, states=states, rotation="dense")
    codes = quantizer.quantize(unit_rows(5, dim))
    packed = codes.arrays["packed"]
    levels = trellis(bits, states).levels
    expected = [slow_trellis.row_levels(row.tobytes(), dim, levels.tolist(), bits) for row in packed]
    windows = trellis_path.windows(trellis(bits, states), trellis_path.unpack(packed, dim, bits))
    assert np.array_equal(levels[windows], expected)
    rotated = quantizer.backend.rotate(quantizer.plan.rotation, quantizer.dequantize(codes))
    assert np.allclose(rotated, np.array(expected) / 4096, atol=1e-4)


@pytest.mark.parametrize(("dim", "bits", "states"), [(33, 3, 8), (64, 1, 256), (64, 4, 1024), (128, 2, 256)])
def test_paths_close_on_themselves(gaussian_rows, dim, bits, states):
    code = trellis(bits, states)
    v = np.rint(4096 * gaussian_rows(20, dim)).astype(np.int16)
    x = trellis_path.doubled(v)[:, ::-1]
    symbols = trellis_path.tail_biting(code, v)
    seam = trellis_path.windows(code, symbols)[:, 0] & (code.nodes - 1)
    history = trellis_path.forward(code, x, seam)
    again, before = trellis_path.backward(code, x, history, seam, 0)
    assert np.array_equal(before, seam)
    assert np.array_equal(again[:, ::-1], symbols)


def test_the_path_is_the_best_of_all_that_close_there(gaussian_rows):
    """Exhaustive: all 2**16 rows of a code of 8 states, the metric summed directly."""
    code, dim = trellis(1, 8), 16
    v = np.rint(4096 * gaussian_rows(6, dim)).astype(np.int16)
    every = ((np.arange(1 << dim)[:, None] >> np.arange(dim)) & 1).astype(np.uint8)
    windows = trellis_path.windows(code, every)
    seams = windows[:, 0] & (code.nodes - 1)
    ratios = []
    for row in v:
        e = np.clip(trellis_path.doubled(row) - trellis_path.doubled(code.levels)[windows], -32768, 32767)
        cost = ((e * e + 16384) >> 15).sum(axis=1)
        found = trellis_path.tail_biting(code, row[None])[0]
        mine = int((found.astype(int) << np.arange(dim)).sum())
        assert cost[mine] == cost[seams == seams[mine]].min()
        ratios.append(cost[mine] / cost.min())
    assert np.mean(ratios) <= 1.1  # the seam of the first pass is not always the best of all


def test_a_vector_holds_exactly_its_bits():
    for dim, bits, states in ((64, 3, 1024), (33, 3, 8), (100, 1, 1024), (45, 3, 256)):
        quantizer = TrellisQuant(dim, bits, states=states)
        assert quantizer.bits_per_vector == 8 * ((dim * bits + 7) // 8)
        assert VectorCodec(quantizer).bits_per_vector == quantizer.bits_per_vector + 16


def test_bits_behind_the_stream_are_refused(unit_rows):
    codes = TrellisQuant(33, 3, states=8).quantize(unit_rows(3, 33))
    packed = codes.arrays["packed"].copy()
    packed[1, -1] |= 0x80
    with pytest.raises(CorruptData, match="padding bits"):
        Codes(codes.spec, {"packed": packed})


def test_zero_rows_and_empty_batches_are_legal():
    codec = VectorCodec(TrellisQuant(64, 2, states=256), search=3)
    x = np.zeros((3, 64), np.float32)
    x[1, 5] = 2
    decoded = codec.decode(codec.encode(x))
    assert not decoded[[0, 2]].any()
    assert decoded[1, 5] == pytest.approx(2, rel=0.2)
    assert codec.decode(codec.encode(x[:0])).shape == (0, 64)


def test_no_vector_loses_by_the_search(gaussian_rows):
    x = gaussian_rows(60, 64)
    quantizer = TrellisQuant(64, 3, states=256)
    errors = [
        ((codec.decode(codec.encode(x)) - x).astype(float) ** 2).sum(axis=1)
        for codec in (VectorCodec(quantizer, scale="mse", norm_dtype="float32", search=n) for n in (0, 3))
    ]
    assert (errors[1] <= errors[0] * 1.001).all()
    assert errors[1].mean() < 0.97 * errors[0].mean()


def test_candidates_narrow_with_the_dimension():
    assert trellis_candidates(128, 0) == (1.0,)
    assert len(trellis_candidates(128, 5)) == 5
    assert trellis_candidates(1536, 5)[-1] < trellis_candidates(128, 5)[-1] < trellis_candidates(64, 5)[-1]
    assert max(trellis_candidates(10, 65)) <= np.exp(0.2500001)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"bits": 0}, InvalidBitWidth, "the trellis quantizer takes 1 to 4 bits, got 0"),
        ({"bits": 5}, InvalidBitWidth, "the trellis quantizer takes 1 to 4 bits, got 5"),
        ({"states": 512}, InvalidSpec, "states must be one of 8, 256, 1024, 4096, got 512"),
        ({"states": "256"}, InvalidSpec, "states must be an integer, got '256'"),
        ({"states": 1 << 70}, InvalidSpec, r"states must lie in 8\.\.4096"),
        ({"dim": 9}, InvalidDimension, r"1024 states needs dim \* bits of at least 40, got 9 \* 4; use fewer states"),
        ({"dim": 8193}, InvalidDimension, "takes a dim of at most 8192, got 8193"),
        ({"rotation": "none"}, InvalidSpec, "rotation must be one of"),
        ({"backend": 3}, InvalidSpec, "backend must be a name"),
    ],
)
def test_what_no_trellis_can_be(options, error, match):
    with pytest.raises(error, match=match):
        TrellisQuant(**{"dim": 128, "bits": 4, **options})


def test_specs_rebuild_and_other_classes_refuse():
    spec = TrellisQuant(64, 2, seed=3, states=256).spec
    assert spec == {"kind": "trellis", "dim": 64, "bits": 2, "seed": 3, "states": 256, "rotation": "hadamard"}
    again = from_spec(spec)
    assert (again.states, again.bits, again.dim, again.seed) == (256, 2, 64, 3)
    assert TrellisQuant.from_spec(spec).spec == spec
    with pytest.raises(InvalidSpec, match="TurboQuantMSE is of kind 'mse', got a spec of kind 'trellis'"):
        TurboQuantMSE.from_spec(spec)


def test_tables_count_levels_and_centroids():
    quantizer = TrellisQuant(64, 2, states=256)
    assert quantizer.state_nbytes == 256 * (2 + 4) + 3 * 64 * 4
