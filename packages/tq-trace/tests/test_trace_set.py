"""Many layers and heads in one file or in several, mapped and checked when used."""

import json
import os
import tracemalloc

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from tq_core import CorruptData, InvalidSpec, NotFinite, ShapeMismatch, TurboQuantError
from tq_trace import InvalidPosition, KvTrace, TraceSet


@pytest.fixture
def traces(arguments):
    """Layers 0 and 2 with heads 0 and 1; values differ, one head has another dtype."""
    found = []
    for layer in (2, 0):
        for head in (1, 0):
            own = arguments | {"layer": layer, "head": head}
            own["keys"] = arguments["keys"] + np.float32(10 * layer + head)
            if head:
                own["values"] = arguments["values"].astype(np.float16)
            found.append(KvTrace(**own))
    return TraceSet(found)


def strings(**changes):
    return {"model": "tiny", "benchmark": "noise"} | changes


def four(place, **changes):
    plain = {
        "keys": np.ones((1, 3, 2), np.float32),
        "values": np.ones((1, 3, 2), np.float32),
        "queries": np.ones((1, 1, 2), np.float32),
        "query_positions": np.zeros((1, 1), np.int64),
    }
    return {f"layers.{place[0]}.heads.{place[1]}.{name}": array for name, array in (plain | changes).items()}


def written(tmp_path, tensors, metadata=None):
    path = tmp_path / "many.safetensors"
    path.write_bytes(safetensors.numpy.save(tensors, strings() if metadata is None else metadata))
    return path


def test_a_set_comes_back_equal_and_in_order(traces, tmp_path):
    traces.save(tmp_path / "many")
    again = TraceSet.open(tmp_path / "many")
    assert again == traces
    assert again.places == ((0, 0), (0, 1), (2, 0), (2, 1))
    assert again.layers == (0, 2)
    assert again[2, 1].dtypes["values"] == "float16"
    assert [trace.layer for trace in again] == [0, 0, 2, 2]
    assert again.fingerprint() == traces.fingerprint()


def test_the_file_has_the_names_of_one_trace_behind_layer_and_head(traces, tmp_path):
    traces.save(tmp_path / "many")
    found = safetensors.numpy.load_file(tmp_path / "many")
    assert len(found) == 16
    assert found["layers.2.heads.1.keys"].tobytes() == traces[2, 1].keys.tobytes()
    assert found["layers.0.heads.0.query_positions"].dtype == np.int64
    with open(tmp_path / "many", "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    assert header["__metadata__"] == {"model": "tiny", "benchmark": "noise"}


def test_a_set_of_one_is_a_plain_trace_file(trace, tmp_path):
    TraceSet([trace]).save(tmp_path / "one")
    assert KvTrace.load(tmp_path / "one") == trace
    assert "keys" in safetensors.numpy.load_file(tmp_path / "one")


def test_files_of_single_heads_and_of_many_open_as_one_set(traces, arguments, tmp_path):
    traces.save(tmp_path / "many")
    KvTrace(**(arguments | {"layer": 7, "head": 0})).save(tmp_path / "one")
    both = TraceSet.open(tmp_path / "one", tmp_path / "many")
    assert both.places == (*traces.places, (7, 0))
    assert both.model_layers == 8


def test_one_place_of_a_file_of_many_loads_alone(traces, tmp_path):
    traces.save(tmp_path / "many")
    assert KvTrace.load(tmp_path / "many", layer=2, head=0) == traces[2, 0]
    with pytest.raises(InvalidSpec, match=r"many: holds 4 traces, layers 0\.\.2; give layer= and head="):
        KvTrace.load(tmp_path / "many")
    with pytest.raises(InvalidSpec, match=r"got 1, 0"):
        KvTrace.load(tmp_path / "many", layer=1, head=0)


def test_another_place_than_a_single_trace_has_is_refused(trace_file):
    with pytest.raises(InvalidSpec, match="holds layer 3 head None alone"):
        KvTrace.load(trace_file, layer=2)


def test_opening_reads_no_tensor_but_positions(tmp_path):
    random = np.random.default_rng(1)
    made = [
        KvTrace(
            random.standard_normal((1, 4096, 64)).astype(np.float32),
            np.zeros((1, 4096, 64), np.float32),
            np.zeros((1, 1, 64), np.float32),
            np.array([[9]]),
            model="m",
            benchmark="b",
            layer=0,
            head=head,
        )
        for head in range(4)
    ]
    TraceSet(made).save(tmp_path / "many")
    size = os.path.getsize(tmp_path / "many")
    tracemalloc.start()
    found = TraceSet.open(tmp_path / "many")
    held = tracemalloc.get_traced_memory()[1]
    assert found[0, 3].keys.shape == (1, 4096, 64)
    touched = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size > 8_000_000
    assert held < 200_000
    assert touched < 2_000_000  # a mask of one tensor while it is checked; the tensor itself stays mapped


def test_a_value_that_is_not_finite_is_named_when_its_tensor_is_used(tmp_path):
    bad = np.ones((1, 3, 2), np.float32)
    bad[0, 2, 1] = np.inf
    path = written(tmp_path, four((0, 0)) | four((5, 1), values=bad))
    found = TraceSet.open(path)
    assert found[5, 1].keys.sum() == 6
    for _ in range(2):
        with pytest.raises(NotFinite, match=r"many\.safetensors: layer 5 head 1: values\[0, 2, 1\] is inf"):
            _ = found[5, 1].values
    with pytest.raises(NotFinite, match="layer 5 head 1"):
        found.validate()
    with pytest.raises(NotFinite, match="layer 5 head 1"):
        TraceSet.open(path, lazy=False)
    with pytest.raises(NotFinite, match="layer 5 head 1"):
        found.save(tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"query_positions": np.array([[3]])}, InvalidPosition, r"layer 5 head 1: query_positions\[0, 0\] is 3"),
        ({"query_positions": np.array([[-1]])}, InvalidPosition, r"layer 5 head 1: query_positions\[0, 0\] is -1"),
        ({"values": np.ones((1, 2, 2))}, ShapeMismatch, r"layer 5 head 1: values have shape \(1, 2, 2\)"),
        ({"keys": np.ones((3, 2))}, CorruptData, r"layers\.5\.heads\.1\.keys has shape \[3, 2\], expected 3 axes"),
        ({"keys": np.ones((1, 3, 2), np.int8)}, CorruptData, r"layers\.5\.heads\.1\.keys has dtype 'I8'"),
    ],
)
def test_what_is_wrong_at_one_place_is_named_with_it(tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        TraceSet.open(written(tmp_path, four((0, 0)) | four((5, 1), **changes)))


def test_a_place_without_all_its_tensors_is_refused(tmp_path):
    tensors = four((0, 0)) | four((5, 1))
    del tensors["layers.5.heads.1.values"]
    with pytest.raises(CorruptData, match=r"layer 5 head 1: .*missing: \['values'\]"):
        TraceSet.open(written(tmp_path, tensors))


def test_plain_tensors_beside_those_of_places_are_refused(tmp_path):
    with pytest.raises(CorruptData, match=r"not known: \['keys'\]"):
        TraceSet.open(written(tmp_path, four((0, 0)) | {"keys": np.ones((1, 3, 2))}))


def test_layers_count_without_zeros_before(tmp_path):
    renamed = {name.replace("layers.0.", "layers.00."): array for name, array in four((0, 0)).items()}
    with pytest.raises(CorruptData, match="not known"):
        TraceSet.open(written(tmp_path, renamed))


def test_metadata_of_a_single_layer_in_a_file_of_many_is_refused(tmp_path):
    with pytest.raises(CorruptData, match="metadata that names a single one"):
        TraceSet.open(written(tmp_path, four((0, 0)), strings(layer="3")))


def test_traces_that_do_not_belong_together_are_refused(arguments, trace):
    with pytest.raises(InvalidSpec, match="agree in their model; got 'tiny' and 'other'"):
        TraceSet([trace, KvTrace(**(arguments | {"model": "other", "layer": 4}))])
    with pytest.raises(InvalidSpec, match="layer 3 head None is given twice"):
        TraceSet([trace, trace])
    with pytest.raises(InvalidSpec, match="at least one trace"):
        TraceSet([])
    with pytest.raises(InvalidSpec, match="at least one trace file"):
        TraceSet.open()


def test_what_one_file_cannot_hold_is_refused(arguments, trace, tmp_path):
    with pytest.raises(InvalidSpec, match="layer 3 has a trace without a head"):
        TraceSet([trace, KvTrace(**(arguments | {"layer": 4, "head": 0}))]).save(tmp_path / "many")
    pair = [KvTrace(**(arguments | {"head": head, "note": str(head)})) for head in (0, 1)]
    with pytest.raises(InvalidSpec, match=r"layer 3 head 1 differs in \['note'\]"):
        TraceSet(pair).save(tmp_path / "many")
    assert not (tmp_path / "many").exists()


def test_the_model_may_have_more_layers_than_the_trace(arguments):
    def layers(text):
        return TraceSet([KvTrace(**(arguments | {"extra": {"model_layers": text}}))]).model_layers

    assert layers("24") == 24
    assert layers("2") == 4  # layer 3 is there
    assert layers("many") == 4


VALID = safetensors.numpy.save(four((0, 0)) | four((3, 2)), strings())


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz") / "file"


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, len(VALID) - 1), st.integers(1, 255)), min_size=1, max_size=4),
    st.none() | st.integers(0, len(VALID)),
)
def test_flipped_and_truncated_bytes_of_many_heads_never_escape(scratch, flips, cut):
    data = bytearray(VALID)
    for where, mask in flips:
        data[where] ^= mask
    scratch.write_bytes(bytes(data[:cut]))
    try:
        found = TraceSet.open(scratch)
        found.validate()
    except TurboQuantError:
        return
    assert all(np.isfinite(trace.keys).all() and trace.query_positions.max() < trace.tokens for trace in found)
