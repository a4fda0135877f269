"""The synthetic benchmark measures what its columns say."""

import json

import numpy as np
import pytest

import tq_core
from tq_core import BackendUnavailable
from tq_trace import surface

TINY = surface.Size((16, 20), (1, 4), 16, 2)  # the oracle's trellis takes 20 ms a row


@pytest.fixture(scope="module")
def found():
    return surface.bench(TINY, backends=("numpy", "scalar"))


def test_every_quantizer_width_dim_and_backend_has_a_cell_or_a_reason(found):
    names = [name for name in surface.QUANTIZERS if hasattr(tq_core, name)]
    cells = {(cell["quantizer"], cell["dim"], cell["bits"], cell["backend"]) for cell in found.cells}
    assert len(cells) == len(found.cells) == len(found.times)
    for name in names:
        for dim in TINY.dims:
            for bits in TINY.bits:
                told = any(f"{name} of dim {dim} and {bits} bits" in reason for reason in found.skipped)
                assert told != ((name, dim, bits, "numpy") in cells)
    assert any("TurboQuantProd of dim 16 and 1 bits" in reason for reason in found.skipped)


def test_distortion_is_that_of_the_decoded_vectors(found):
    x = surface._unit_rows(TINY.rows, 16, 0)
    quantizer = tq_core.TurboQuantMSE(16, 4, backend="numpy")
    cell = next(
        cell for cell in found.cells if (cell["quantizer"], cell["dim"], cell["bits"]) == ("TurboQuantMSE", 16, 4)
    )
    assert cell["mse"] == pytest.approx(np.square(quantizer.dequantize(quantizer.quantize(x)) - x).sum(axis=1).mean())
    assert cell["theory"] == quantizer.expected_mse
    assert abs(cell["mse_excess"]) < 0.2
    assert cell["bits_per_vector"] == 64


def test_backends_of_one_cell_agree_in_distortion(found):
    by_backend = {}
    for cell in found.cells:
        by_backend.setdefault((cell["quantizer"], cell["dim"], cell["bits"]), set()).add(round(cell["mse"], 5))
    assert all(len(values) == 1 for values in by_backend.values())


def test_all_but_times_and_machine_is_the_same_again(found):
    again = surface.bench(TINY, backends=("numpy", "scalar")).to_dict()
    first = found.to_dict()
    for fields in (first, again):
        assert all(cell["encode_ns"] > 0 for cell in fields.pop("times"))
        fields.pop("machine")
    assert json.dumps(first) == json.dumps(again)


def test_a_backend_that_is_not_there_is_named():
    with pytest.raises(BackendUnavailable, match="abacus"):
        surface.bench(TINY, backends=("abacus",))


def test_full_covers_every_width_and_the_dims_of_models():
    assert set(range(1, 9)) <= set(surface.FULL.bits)
    assert {64, 80, 96, 128, 256} <= set(surface.FULL.dims)
