"""A snapshot is recognised by its facts: what is asked for must be what was saved."""

import hashlib
import json
import pickle

import numpy as np
import pytest

from tq_cache import DecoderCache, MultiHeadKVCache, PolicyMismatch, QuantizedKVCache, SnapshotMismatch
from tq_core import BackendUnavailable, InvalidDimension, InvalidDtype, InvalidSpec, ShapeMismatch, TurboQuantError

DIM = 16
POLICY = "k=mse4,v=mse3,sinks=1,window=2"
IDS = [[5, 6, 7, 8, 9, 10], [5, 6, 70, 80, 90, 100]]
ROPE = {"rope_theta": 10000.0, "scaling": {"type": "linear", "factor": 2}}


@pytest.fixture
def cache(vectors):
    """Two layers, two rows of six tokens."""
    made = DecoderCache(2, 2, DIM, POLICY, batch=2, seed=4)
    for layer in range(2):
        made.append(vectors(2, 2, 6, DIM, seed=layer), vectors(2, 2, 6, DIM, seed=layer + 2), layer)
    return made


@pytest.fixture
def path(cache, tmp_path):
    """The file of that cache with all facts."""
    file = tmp_path / "cache.safetensors"
    cache.save(file, model="qwen/0.6b", tokens=IDS, rope=ROPE, dtype="bfloat16")
    return file


def test_facts_that_agree_are_accepted_in_any_form(path):
    digest = hashlib.sha256(b"".join(np.array([6, *row], "<i8").tobytes() for row in IDS)).hexdigest()
    for tokens in (IDS, np.array(IDS, np.uint16), [np.array(row) for row in IDS], tuple(map(tuple, IDS)), digest):
        loaded = DecoderCache.load(
            path,
            model="qwen/0.6b",
            tokens=tokens,
            rope={**ROPE, "rope_theta": 10000},
            dtype="bfloat16",
            policy="v=mse3,k=mse4,sinks=1,window=2",
            seed=np.int64(4),
        )
        assert loaded.lengths == (6, 6)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"model": "qwen/8b"}, "saved with model 'qwen/0.6b', expected 'qwen/8b'"),
        ({"model": ""}, "model 'qwen/0.6b', expected ''"),
        ({"tokens": [IDS[0], IDS[0]]}, "saved with tokens '[0-9a-f]{64}', expected '[0-9a-f]{64}'"),
        ({"tokens": IDS[0]}, "saved with tokens"),
        ({"tokens": "0" * 64}, "saved with tokens .* expected '0{64}'"),
        ({"rope": {}}, "saved with rope {'rope_theta': 10000.0.*, expected {}"),
        ({"dtype": "float16"}, "saved with dtype 'bfloat16', expected 'float16'"),
        ({"policy": "k=mse4,v=mse4"}, "saved with policy 'k=mse4,v=mse3,.*expected 'k=mse4,v=mse4'"),
        ({"seed": 5}, "saved with seed 4, expected 5"),
    ],
)
def test_a_fact_that_differs_is_named_with_both_values(path, given, says):
    with pytest.raises(SnapshotMismatch, match=says) as caught:
        DecoderCache.load(path, **given)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, TurboQuantError)
    assert caught.value.fact in given
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.saved, again.given) == (str(caught.value), caught.value.saved, caught.value.given)


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        ({"policy": "k=mse4,v=mse4,boundary=2@8"}, PolicyMismatch, "the model has 2"),
        ({"tokens": [1, 2.5]}, ShapeMismatch, "integer ids"),
        ({"tokens": IDS[:1]}, ShapeMismatch, "tokens have 1 rows, the cache 2"),
        ({"tokens": "abc"}, InvalidSpec, "64 lower-case hex digits"),
        ({"rope": [1]}, InvalidSpec, "rope is a dict"),
        ({"dtype": "int8"}, InvalidSpec, "dtype is one of float16"),
        ({"model": 5}, InvalidSpec, "model is a string"),
        ({"backend": "abacus"}, BackendUnavailable, "abacus"),
    ],
)
def test_facts_that_cannot_be_are_refused_when_loading(path, given, error, says):
    with pytest.raises(error, match=says):
        DecoderCache.load(path, **given)


def test_what_was_not_saved_matches_nothing_but_nothing(cache, tmp_path):
    cache.save(tmp_path / "bare")
    for given in ({"model": "m"}, {"tokens": IDS}, {"rope": ROPE}):
        with pytest.raises(SnapshotMismatch, match=f"saved with {next(iter(given))}"):
            DecoderCache.load(tmp_path / "bare", **given)
    assert len(DecoderCache.load(tmp_path / "bare", model="", dtype="float16")) == 6


@pytest.mark.parametrize(
    ("facts", "error", "says"),
    [
        ({"model": None}, InvalidSpec, "model is a string that names the model, got NoneType"),
        ({"model": "\ud800"}, InvalidSpec, "UTF-8"),
        ({"dtype": "float8"}, InvalidSpec, "dtype is one of"),
        ({"rope": {"theta": float("nan")}}, InvalidSpec, "that JSON can hold"),
        ({"rope": {1: 2}}, InvalidSpec, "string keys"),
        ({"rope": {"a": np.float32(1)}}, InvalidSpec, "that JSON can hold"),
        ({"tokens": IDS[0][:5]}, ShapeMismatch, "row 0 has 5 token ids, but layer 0 has seen 6"),
        ({"tokens": [IDS[0], IDS[1][:2]]}, ShapeMismatch, "row 1 has 2 token ids"),
        ({"tokens": [IDS[0]] * 3}, ShapeMismatch, "tokens have 3 rows"),
        ({"tokens": [[[1]]]}, ShapeMismatch, "integer ids"),
        ({"tokens": [True] * 6}, ShapeMismatch, "integer ids, got bool"),
        ({"tokens": 7}, ShapeMismatch, "lists of ids, got int"),
        ({"tokens": [1, [2]]}, ShapeMismatch, "a list of ids"),
        ({"tokens": [2**63] * 6}, ShapeMismatch, r"below 2\*\*63"),
        ({"tokens": "A" * 64}, InvalidSpec, "64 lower-case hex"),
    ],
)
def test_facts_that_cannot_be_saved_leave_no_file(cache, tmp_path, facts, error, says):
    with pytest.raises(error, match=says):
        cache.save(tmp_path / "cache", **facts)
    assert list(tmp_path.iterdir()) == []


def test_dims_beyond_the_readers_limit_are_not_written(tmp_path):
    with pytest.raises(InvalidDimension, match="dims up to 4096, got 4098"):
        QuantizedKVCache(4098, "k=float16,v=float16").save(tmp_path / "cache")


def test_token_ids_of_evicted_tokens_count(tmp_path, vectors):
    cache = QuantizedKVCache(DIM, "k=mse4,v=mse4", max_tokens=4)
    cache.append(vectors(6, DIM), vectors(6, DIM))
    with pytest.raises(ShapeMismatch, match="has seen 6 tokens, evicted ones included"):
        cache.save(tmp_path / "cache", tokens=[1, 2, 3, 4])
    cache.save(tmp_path / "cache", tokens=range(6))
    assert len(QuantizedKVCache.load(tmp_path / "cache", tokens=range(6))) == 4


def test_a_snapshot_is_loaded_by_its_own_class(path, tmp_path):
    with pytest.raises(SnapshotMismatch, match=r"kind 'decoder', expected 'head'; load it with DecoderCache\.load"):
        QuantizedKVCache.load(path)
    QuantizedKVCache(DIM, POLICY).save(tmp_path / "head")
    with pytest.raises(SnapshotMismatch, match=r"load it with QuantizedKVCache\.load"):
        MultiHeadKVCache.load(tmp_path / "head")


def test_a_subclass_loads_itself(path):
    class Mine(DecoderCache):
        pass

    assert type(Mine.load(path)) is Mine
    assert type(Mine.load_prefix(path, [])) is Mine


@pytest.mark.parametrize(
    ("tokens", "lengths"),
    [
        ([5, 6, 7, 8, 1], (4, 2)),
        ([5, 6, 7, 8, 9, 10, 11], (6, 2)),
        ([], (0, 0)),
        ([4], (0, 0)),
        ([IDS[0], IDS[0][:1]], (6, 1)),
        (np.array(IDS), (6, 6)),
    ],
)
def test_the_common_prefix_of_each_row_is_loaded(path, cache, tokens, lengths):
    loaded = DecoderCache.load_prefix(path, tokens, model="qwen/0.6b", rope=ROPE)
    assert loaded.lengths == lengths
    cache.crop(lengths)
    for mine, theirs in zip(loaded.split(), cache.split(), strict=True):
        for layer in range(2):
            assert np.array_equal(mine.keys(layer), theirs.keys(layer))


def test_a_prefix_of_a_row_that_evicted_tokens_is_all_or_nothing(tmp_path, vectors):
    cache = DecoderCache(1, 2, DIM, POLICY, max_tokens=4)
    cache.append(vectors(1, 2, 6, DIM), vectors(1, 2, 6, DIM), 0)
    cache.save(tmp_path / "cache", tokens=[1, 2, 3, 4, 5, 6])
    assert DecoderCache.load_prefix(tmp_path / "cache", [1, 2, 3, 4, 5, 6, 7]).lengths == (4,)
    fresh = DecoderCache.load_prefix(tmp_path / "cache", [1, 2, 3, 4, 5, 7])
    fresh.append(vectors(1, 2, 1, DIM), vectors(1, 2, 1, DIM), 0)
    fresh.save(tmp_path / "fresh", tokens=[9])  # the first token again, a sink
    assert fresh.lengths == (1,)


@pytest.mark.parametrize(("tokens", "says"), [(None, "token ids 'none'"), ("f" * 64, "'their sha256 alone'")])
def test_a_prefix_needs_ids_in_the_file(cache, tmp_path, tokens, says):
    cache.save(tmp_path / "cache", tokens=tokens)
    with pytest.raises(SnapshotMismatch, match=says):
        DecoderCache.load_prefix(tmp_path / "cache", IDS)


def test_a_prefix_of_another_model_is_refused(path):
    with pytest.raises(SnapshotMismatch, match="model"):
        DecoderCache.load_prefix(path, IDS, model="other")


def test_the_safetensors_package_reads_our_files(path, cache):
    official = pytest.importorskip("safetensors", reason="the official package is not installed")
    with official.safe_open(path, "numpy") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no dict
    assert {"format": "tq-cache", "format_version": "1", "kind": "decoder", "seed": "4"}.items() <= metadata.items()
    assert json.loads(metadata["rope"]) == ROPE
    assert [tensors[f"tokens.{row}"].tolist() for row in range(2)] == IDS
    side = cache._rows[1][0].groups[0].values
    prefix = "layers.0.rows.1.v."
    assert np.array_equal(tensors[prefix + "codes"], side.coded["packed"].view)
    assert np.array_equal(tensors[prefix + "scales"], side.coded["scales"].view)
    assert np.array_equal(tensors[prefix + "sinks"], side.sinks.view)
    assert np.array_equal(tensors[prefix + "window"], side.recent.view)
    for name, array in tensors.items():
        assert metadata["sha256." + name] == hashlib.sha256(array.tobytes()).hexdigest()
    assert len(tensors) == 2 + 2 * 2 * 2 * 4


@pytest.mark.parametrize("path", [5, b"bytes", None])
def test_what_is_no_path(cache, path):
    with pytest.raises(InvalidDtype, match="path must be a string or a Path"):
        cache.save(path)
    with pytest.raises(InvalidDtype, match="path must be"):
        DecoderCache.load(path)
