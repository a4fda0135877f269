"""Snapshots of heads that differ and of what they learned: continued exactly, verified, refused."""

import numpy as np
import pytest

from tq_cache import DecoderCache, MultiHeadKVCache, QuantizedKVCache
from tq_core import CorruptData, InvalidSpec

DIM = 12
MEAN, CHANNELS = "layers.0.rows.0.groups.0.k.mean", "layers.0.rows.0.groups.0.k.channels"


@pytest.fixture
def tampered(tmp_path, apart, sealed):
    """A maker of files whose tensors a stranger changed and sealed: `tampered(data, {name: array or None})`."""

    def make(data, changes, **facts):
        header, body = apart(data)
        header["__metadata__"].update(facts)
        arrays = {}
        tensors = [(name, entry) for name, entry in header.items() if name != "__metadata__"]
        for name, entry in sorted(tensors, key=lambda item: item[1]["data_offsets"]):
            arrays[name] = (entry["dtype"], entry["shape"], body[slice(*entry["data_offsets"])])
        for name, array in changes.items():
            if array is None:
                del arrays[name], header[name], header["__metadata__"]["sha256." + name]
            else:
                kind = {"float32": "F32", "int64": "I64", "float64": "F64"}[array.dtype.name]
                arrays[name] = (kind, list(array.shape), array.tobytes())
        at, blocks = 0, []
        sizes = {"F64": 8, "I64": 8, "F32": 4, "F16": 2, "U8": 1}
        for name, (kind, shape, block) in sorted(arrays.items(), key=lambda item: -sizes[item[1][0]]):
            header[name] = {"dtype": kind, "shape": shape, "data_offsets": [at, at + len(block)]}
            blocks.append(block)
            at += len(block)
        path = tmp_path / "tampered"
        path.write_bytes(sealed(header, b"".join(blocks)))
        return path

    return make


def test_what_is_not_tampered_with_is_the_same_file(tampered, originals):
    assert tampered(originals["heads"], {}).read_bytes() == originals["heads"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({MEAN: np.full((1, DIM), np.nan, np.float32)}, f"{MEAN} has numbers that are not finite"),
        ({MEAN: np.zeros((2, DIM), np.float32)}, rf"{MEAN} must be float32 \(1, 12\), got float32 \(2, 12\)"),
        ({MEAN: np.zeros((1, DIM))}, f"{MEAN} must be float32 .* got float64"),
        ({CHANNELS: np.array([[0, 1, 2, 12]])}, f"{CHANNELS} must name channels of 12 in ascending order"),
        ({CHANNELS: np.array([[-1, 1, 2, 3]])}, f"{CHANNELS} must name channels of 12 in ascending order"),
        ({CHANNELS: np.array([[0, 2, 1, 3]])}, f"{CHANNELS} must name channels of 12 in ascending order"),
        ({CHANNELS: np.array([[0, 1, 1, 3]])}, f"{CHANNELS} must name channels of 12 in ascending order"),
        ({CHANNELS: np.array([[0, 1, 2]])}, rf"{CHANNELS} must be int64 \(1, 4\), got int64 \(1, 3\)"),
        ({MEAN: None}, r"groups\.0\.k has either mean or channels, which are learned together"),
        ({CHANNELS: None}, r"groups\.0\.k has either mean or channels, which are learned together"),
        ({MEAN: None, CHANNELS: None}, "layer 0 of row 0 lacks the mean or channels of some heads, but not of all"),
        ({MEAN.replace(".k.", ".v."): np.zeros((1, DIM), np.float32)}, r"belong to nothing: \[.*groups\.0\.v\.mean"),
        ({MEAN.replace(".mean", ".rest.codes"): None}, r"groups\.0\.k\.rest\.codes is missing"),
        (
            {MEAN.replace(".mean", ".rest.scales"): np.zeros((1, 4), np.float32)},
            r"rest\.scales must be float16 \(1, 4\)",
        ),
    ],
)
def test_what_no_cache_would_have_learned_is_refused(tampered, originals, changes, says):
    path = tampered(originals["heads"], changes)
    with pytest.raises(CorruptData, match=says):
        MultiHeadKVCache.load(path)


def test_codes_without_what_they_were_made_with_are_refused(tampered, originals, filled, tmp_path):
    filled("head", "k=mse3,v=int5,kmean=4").save(tmp_path / "file")
    path = tampered((tmp_path / "file").read_bytes(), {"layers.0.rows.0.k.mean": None})
    with pytest.raises(CorruptData, match="or though it has codes"):
        QuantizedKVCache.load(path)
    cache = QuantizedKVCache(DIM, "k=mse3,v=int5,kmean=given", key_means=np.ones(DIM))
    cache.save(tmp_path / "given")
    path = tampered((tmp_path / "given").read_bytes(), {"layers.0.rows.0.k.mean": None})
    with pytest.raises(CorruptData, match=r"k\.mean is missing"):
        QuantizedKVCache.load(path)


@pytest.mark.parametrize("name", [MEAN, CHANNELS])
def test_a_damaged_mean_is_named_when_the_file_is_opened(originals, tmp_path, apart, name):
    data = bytearray(originals["heads"])
    header, body = apart(originals["heads"])
    data[len(data) - len(body) + header[name]["data_offsets"][0]] ^= 1
    (tmp_path / "file").write_bytes(data)
    with pytest.raises(CorruptData, match=f"checksum of {name} does not match"):
        MultiHeadKVCache.load(tmp_path / "file")


def test_absurd_numbers_of_heads_and_options_are_refused_before_they_cost_anything(tampered, originals, tmp_path):
    for facts in (
        {"kv_heads": str(2**31)},
        {"policy": "k=mse4,v=mse4," + ",".join(["head0.k=mse8"] * 2000)},
    ):
        with pytest.raises(CorruptData, match=r"kv_heads of a layer must lie in|at most 1024 options"):
            MultiHeadKVCache.load(tampered(originals["heads"], {}, **facts))
    with pytest.raises(InvalidSpec, match="layers of up to 4096 heads, got 4097"):
        MultiHeadKVCache(4097, DIM, "k=mse4,v=mse4").save(tmp_path / "file")


@pytest.mark.parametrize("tokens", [1, 3, 4, 9])
def test_a_cache_continues_exactly_while_it_waits_and_after(tokens, tmp_path, vectors):
    policy = "k=mse4x3+mse2,v=mse4,kmean=3,ksplit=2,sinks=1,head1.v=mse3x4+mse2"
    cache = MultiHeadKVCache(2, DIM, policy)
    x = vectors(2, 20, DIM)
    cache.append(x[:, :tokens], x[:, :tokens])
    cache.save(tmp_path / "a")
    other = MultiHeadKVCache.load(tmp_path / "a")
    assert other.ledger().items == {**cache.ledger().items, "padding": other.ledger().padding}
    for held in (cache, other):
        held.append(x[:, tokens:], x[:, tokens:])
        held.crop(15)
    cache.save(tmp_path / "b")
    other.save(tmp_path / "c")
    assert (tmp_path / "b").read_bytes() == (tmp_path / "c").read_bytes()


def test_what_was_given_is_in_the_file_and_survives_clear(tmp_path, vectors):
    x, means, energies = vectors(1, 2, 9, DIM), vectors(1, 2, DIM, seed=1), vectors(1, 2, DIM, seed=2) ** 2
    policy = "k=mse4x3+mse2,v=mse4,kmean=given,ksplit=given"
    cache = DecoderCache(1, 2, DIM, policy, key_means=means, key_energies=energies)
    cache.append(x, x, 0)
    cache.save(tmp_path / "a")
    other = DecoderCache.load(tmp_path / "a")
    for held in (cache, other):
        held.clear()
        held.append(x[:, :, 3:], x[:, :, 3:], 0)
    assert np.array_equal(cache.keys(0), other.keys(0))


def test_a_prompt_that_shares_no_token_starts_with_nothing_learned(tmp_path, vectors):
    cache = DecoderCache(1, 2, DIM, "k=mse4,v=mse4,kmean=3")
    x = vectors(1, 2, 9, DIM)
    cache.append(x, x, 0)
    cache.save(tmp_path / "a", tokens=list(range(9)))
    assert DecoderCache.load_prefix(tmp_path / "a", [5, 6]).ledger().means == 0
    shared = DecoderCache.load_prefix(tmp_path / "a", [0, 1, 6])
    assert shared.lengths == (2,)
    assert np.array_equal(shared.keys(0), cache.keys(0, 0, 2))
