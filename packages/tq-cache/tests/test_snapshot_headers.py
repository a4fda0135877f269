"""Snapshots that lie under right checksums are refused before they cost memory, and before a number is used."""

import json
import tracemalloc

import numpy as np
import pytest

from tq_cache import DecoderCache, QuantizedKVCache
from tq_core import CorruptData

DIM = 12
POLICY = "k=mse3,v=int5,sinks=1,window=2"
K = "layers.0.rows.0.k."


def _entry(change, name=K + "codes"):
    return lambda header, facts: header[name].update(change)


def _fact(**change):
    return lambda header, facts: facts.update(change)


def _moved(name, by):
    def change(header, facts):
        header[name]["data_offsets"] = [at + by for at in header[name]["data_offsets"]]

    return change


def _without(name):
    return lambda header, facts: (header.pop(name), facts.pop("sha256." + name))


def _duplicated(header, facts):
    header["layers.0.rows.1.k.codes"] = header[K + "codes"]


def _renamed(header, facts):
    header["layers.0.rows.0.k.gammas"] = header.pop(K + "scales")
    facts.pop("sha256." + K + "scales")


def _added(header, facts):
    end = max(header[name]["data_offsets"][1] for name in header if name != "__metadata__")
    header["layers.0.rows.0.k.more"] = {"dtype": "U8", "shape": [0], "data_offsets": [end, end]}


UNDIGESTED = ("a tensor without a checksum", "a checksum of nothing")
HOSTILE = {
    "a gap": (_moved(K + "codes", 1), "a gap or an overlap|appended"),
    "offsets out of range": (_moved(K + "codes", 1 << 40), "a gap or an overlap"),
    "an overlap": (_duplicated, "a gap or an overlap"),
    "negative offsets": (_entry({"data_offsets": [-20, 0]}), "cannot lie at"),
    "offsets backwards": (_entry({"data_offsets": [20, 0]}), "cannot lie at"),
    "offsets of other types": (_entry({"data_offsets": [0.0, 20.0]}), "two integers"),
    "three offsets": (_entry({"data_offsets": [0, 20, 20]}), "two integers"),
    "huge offsets": (_entry({"data_offsets": [10**400, 10**400]}), "cannot lie at"),
    "a misaligned start": (_moved("tokens.0", 4), "not aligned"),
    "an unknown dtype": (_entry({"dtype": "BF16"}), "dtype 'BF16', expected one of"),
    "a dtype that is no string": (_entry({"dtype": []}), r"dtype \[\]"),
    "a shape that overflows": (_entry({"shape": [2**30, 2**30, 2**30]}), "absurd shape"),
    "a huge empty shape": (_entry({"shape": [2**30, 2**30, 2**30, 0]}), "absurd shape"),
    "a length beyond 2**31": (_entry({"shape": [1, 2**31, 0]}), "lengths below"),
    "a negative length": (_entry({"shape": [1, -4, -5]}), "lengths below"),
    "a length that is no integer": (_entry({"shape": [1, 4, True]}), "lengths below"),
    "too many axes": (_entry({"shape": [1, 4, 5, 1, 1]}), "up to 4 lengths"),
    "a shape that is no list": (_entry({"shape": 20}), "up to 4 lengths"),
    "an entry with more in it": (_entry({"more": 1}), "exactly dtype, shape and data_offsets"),
    "an entry that is no object": (lambda header, facts: header.update({"x": 5}), "exactly dtype"),
    "another split of the same bytes": (_entry({"shape": [1, 5, 4]}), r"must be uint8 \(1, 5, 5\)"),
    "another rank": (_entry({"shape": [20]}), r"must be uint8 \(1, 0, 5\)"),
    "another dtype of one size": (_entry({"dtype": "U8", "shape": [1, 8]}, K + "scales"), r"scales must be float16"),
    "integers as exact tokens": (_entry({"dtype": "I64", "shape": [1, 1, 6]}, K + "sinks"), "sinks must be float16 or"),
    "a missing tensor": (_without("tokens.0"), "gap|appended"),
    "a tensor of another name": (_renamed, "k.scales is missing"),
    "an unknown kind": (_fact(kind="tree"), "kind is 'tree', expected one of head, layer, decoder"),
    "a class name as kind": (_fact(kind="QuantizedKVCache"), "kind is"),
    "a preset as policy": (_fact(policy="balanced"), "policy 'balanced' is not canonical"),
    "a policy in another order": (_fact(policy="v=int5,k=mse3,sinks=1,window=2"), "not canonical"),
    "an unreadable policy": (_fact(policy="k=mse9"), "cannot be: .*mse9"),
    "a boundary in one head": (_fact(policy=POLICY + ",boundary=1@8"), "not canonical"),
    "another policy": (_fact(policy="k=mse3,v=int6,sinks=1,window=2"), "quantizers that are not those"),
    "another seed": (_fact(seed="1"), "quantizers that are not those"),
    "another dim": (_fact(head_dim="14", value_dim="14"), "quantizers that are not those"),
    "a dim of one": (_fact(head_dim="1"), r"head_dim of a head must lie in 2\.\.4096"),
    "a huge dim": (_fact(head_dim=str(2**40)), r"head_dim of a head must lie in 2\.\.4096"),
    "a dim of thousands of digits": (_fact(head_dim="9" * 5000), "metadata says what cannot be"),
    "two rows in a head": (_fact(batch="2"), r"batch of a head must lie in 1\.\.1"),
    "two heads in a head": (_fact(kv_heads="2"), "kv_heads of a head"),
    "no layers": (_fact(layers="0"), "layers of a head"),
    "a negative limit": (_fact(max_tokens="-1"), "max_tokens of a head"),
    "a seed beyond 64 bits": (_fact(seed=str(2**64)), "seed of a head"),
    "a number with a space": (_fact(seed=" 0"), "'seed' is ' 0', which is not its canonical form"),
    "a number with a plus": (_fact(max_tokens="+0"), "not its canonical form"),
    "digits of another script": (_fact(head_dim="١٢"), "not its canonical form"),
    "no number": (_fact(layers="one"), "cannot be"),
    "evicted of another shape": (_fact(evicted="[[0,0]]"), "evicted is a number for each of 1 layers in each of 1"),
    "evicted that is no number": (_fact(evicted="[[true]]"), "evicted is a number"),
    "evicted beyond 2**53": (_fact(evicted=f"[[{2**54}]]"), "evicted is a number"),
    "fewer than no tokens seen": (_fact(evicted="[[-8]]"), "fewer than no tokens"),
    "evicted tokens without ids": (_fact(evicted="[[1]]"), "row 0 has 7 token ids, but layer 0 has seen 8"),
    "evicted that is no JSON": (_fact(evicted="[[0]"), "cannot be"),
    "evicted with spaces": (_fact(evicted="[[0 ]]"), "not its canonical form"),
    "rope that is no object": (_fact(rope="[]"), "rope is a dict"),
    "rope with NaN": (_fact(rope='{"a":NaN}'), "JSON can hold"),
    "rope nested too deep": (_fact(rope='{"a":' * 20_000 + "1" + "}" * 20_000), "cannot be"),
    "another dtype of the model": (_fact(dtype="int8"), "dtype is one of"),
    "a digest of ids that is none": (_fact(tokens_sha256="F" * 64), "tokens_sha256"),
    "a digest of other ids": (_fact(tokens_sha256="f" * 64), "not that of the token ids"),
    "other quantizers": (_fact(quantizers='{"layers":[[0,0]],"specs":[]}'), "quantizers that are not those"),
    "a fact that is no string": (_fact(seed=0), "metadata 'seed' is 0, expected a string"),
    "an unknown fact": (_fact(colour="blue"), "unknown .*colour"),
    "a missing fact": (lambda header, facts: facts.pop("policy"), "lacks .*policy"),
    "a tensor that belongs to nothing": (_added, "belong to nothing: .*k.more"),
    "a tensor without a checksum": (_added, "'layers.0.rows.0.k.more' has no checksum"),
    "a checksum of nothing": (_fact(**{"sha256.x": "0" * 64}), "tensors that are not there"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_header_that_lies_under_right_checksums_is_refused_without_much_memory(
    originals, tmp_path, name, apart, sealed
):
    change, says = HOSTILE[name]
    header, body = apart(originals["head"])
    change(header, header["__metadata__"])
    path = tmp_path / "file"
    path.write_bytes(sealed(header, body, digests=name not in UNDIGESTED))
    QuantizedKVCache(DIM, POLICY)  # tables are cached
    tracemalloc.start()
    try:
        with pytest.raises(CorruptData, match=says):
            QuantizedKVCache.load(path, lazy=False)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_fact(layers=str(2**31)), "too few for these layers, rows|evicted is a number"),
        (_fact(batch="40", evicted=json.dumps([[0]] * 40, separators=(",", ":"))), "too few"),
        (_fact(kv_heads="3"), r"must be uint8 \(3, 4, 5\)"),
        (_fact(policy=POLICY + ",boundary=1@8"), "cannot be: .*boundary"),
    ],
)
def test_a_model_that_its_tensors_contradict_is_refused(originals, tmp_path, change, says, apart, sealed):
    header, body = apart(originals["decoder"])
    change(header, header["__metadata__"])
    (tmp_path / "file").write_bytes(sealed(header, body))
    with pytest.raises(CorruptData, match=says):
        DecoderCache.load(tmp_path / "file")


@pytest.mark.parametrize(
    ("policy", "tensor", "position", "value", "says"),
    [
        (POLICY, "k.scales", 1, np.float16("nan"), "finite and not negative"),
        (POLICY, "k.scales", 0, np.float16(-1), "finite and not negative"),
        (POLICY, "v.scales", 0, np.float16("inf"), "scales and zeros must be finite"),
        (POLICY, "v.zeros", 0, np.float16("nan"), "scales and zeros must be finite"),
        (POLICY, "k.sinks", 3, np.float32("nan"), r"k\.sinks has numbers that are not finite"),
        (POLICY, "v.window", 3, np.float32("-inf"), r"v\.window has numbers that are not finite"),
        ("k=prod3,v=float16", "v.codes", 5, np.float16("inf"), "stored floats must be finite"),
        ("k=prod3,v=float16", "k.gammas", 0, np.float16("inf"), "finite and not negative"),
        ("k=mse3,v=int5", "k.codes", 4, np.uint8(0xF0), "padding bits"),
        (
            "k=mse2.5,v=mse4",
            "k.codes",
            8,
            np.uint8(0xFF),
            r"word 0 of packed row 2 is 31, but 5 \* 6 levels end at 30",
        ),
        ("k=mse4,v=mse3.5", "v.codes", 6, np.uint8(0x7F), r"word 0 of packed row 1 is 127, but 11 \* 11 levels end at"),
        ("k=mse3,v=int5", "v.codes", 7, np.uint8(0xF0), "padding bits"),
    ],
)
def test_content_that_no_cache_holds_is_refused_when_first_used(
    tmp_path, policy, tensor, position, value, says, filled, apart, sealed
):
    path = tmp_path / "file"
    filled("head", policy).save(path)
    header, body = apart(path.read_bytes())
    start = header["layers.0.rows.0." + tensor]["data_offsets"][0] + position * value.nbytes
    path.write_bytes(sealed(header, body[:start] + value.tobytes() + body[start + value.nbytes :]))
    cache = QuantizedKVCache.load(path)
    with pytest.raises(CorruptData, match=says):
        cache.attend(np.ones((1, DIM), np.float32))
    with pytest.raises(CorruptData, match=says):
        QuantizedKVCache.load(path, lazy=False)


@pytest.mark.parametrize("tensor", ["sinks", "window"])
def test_exact_tokens_beyond_float32_are_refused(tmp_path, tensor, apart, sealed):
    path = tmp_path / "file"
    cache = QuantizedKVCache(DIM, POLICY)
    cache.append(np.ones((7, DIM)), np.ones((7, DIM)))  # float64, and exact tokens stay so
    cache.save(path)
    header, body = apart(path.read_bytes())
    start = header[K + tensor]["data_offsets"][0]
    path.write_bytes(sealed(header, body[:start] + np.float64(1e39).tobytes() + body[start + 8 :]))
    with pytest.raises(CorruptData, match=rf"k\.{tensor} are beyond float32"):
        QuantizedKVCache.load(path, lazy=False)


def test_sides_that_hold_different_tokens_are_refused(tmp_path, filled, apart, sealed):
    path = tmp_path / "file"
    filled("head", "k=mse4,v=mse4").save(path)
    header, body = apart(path.read_bytes())
    for name, shape in (("codes", [1, 6, 6]), ("scales", [1, 6])):
        entry = header[K + name]
        cut = entry["data_offsets"][1]
        by = 6 if name == "codes" else 2
        body = body[: cut - by] + body[cut:]
        entry.update(shape=shape, data_offsets=[entry["data_offsets"][0], cut - by])
        for other in header:
            if other != "__metadata__" and header[other]["data_offsets"][0] >= cut:
                header[other]["data_offsets"] = [at - by for at in header[other]["data_offsets"]]
    path.write_bytes(sealed(header, body))
    with pytest.raises(CorruptData, match="keys and values of different tokens"):
        QuantizedKVCache.load(path)
