"""Decoding step by step: against one full run of the graph, and against a naive loop that quantizes everything."""

import json
import tracemalloc
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tq_cache import CachePolicy, DecoderCache
from tq_cache.side import Side
from tq_core import InvalidDtype, InvalidSpec, NotFinite, ScaleRange, ShapeMismatch, TurboQuantError
from tq_onnx import Bundle, DecoderRunner, StepFailed, UnsupportedBundle, inspection

FORMS = [
    pytest.param({}, id="mask-and-positions"),
    pytest.param({"inputs": ()}, id="ids-only"),
    pytest.param({"inputs": ("cache_position", "num_logits_to_keep")}, id="cache-position"),
    pytest.param({"inputs": ("use_cache_branch", "attention_mask", "position_ids")}, id="merged"),
    pytest.param({"order": ("past_key_values.1.value", "position_ids", "past_key_values.0.key")}, id="unusual-order"),
    pytest.param({"key_dim": 12, "value_dim": 6}, id="key-dim-is-not-value-dim"),
    pytest.param({"numbers": (1, 5, 6), "kv_heads": 1}, id="holes-in-layers"),
    pytest.param({"dtype": "float16"}, id="float16-cache"),
    pytest.param({"dtype": "float16", "logits": "float16"}, id="float16-throughout"),
    pytest.param({"numbers": (2, 4), "states": ("past_conv.0", "past.1.conv")}, id="hybrid"),
    pytest.param({"inputs": ("logits_to_keep", "attention_mask", "position_ids")}, id="logits-to-keep"),
]

POLICIES = [
    "k=mse4,v=mse4",
    "k=mse2,v=mse3,sinks=2,window=5",
    "k=prod4,v=mse4,window=1",
    "k=int4,v=absmax4,sinks=3",
    "k=float16,v=mse8,boundary=1@6",
]


def ids_of(batch: int, count: int, seed: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 32, (batch, count))


def stepwise(runner: DecoderRunner, ids: np.ndarray, chunks: list[int] | None = None) -> np.ndarray:
    """Logits of all ids, fed in chunks (one by one unless told otherwise)."""
    ends = np.cumsum(chunks or [1] * ids.shape[1])
    starts = [0, *ends[:-1]]
    return np.concatenate([runner.step(ids[:, a:b]) for a, b in zip(starts, ends, strict=True)], axis=1)


class Naive:
    """The slowest honest decoder: numpy feeds, everything copied, the whole cache decoded anew each step."""

    def __init__(self, bundle: Bundle, policy: str | None, batch: int, seed: int = 0) -> None:
        self.bundle, self.batch, self.length = bundle, batch, 0
        facts = bundle.signature
        self.past = {}
        for layer in facts.layers:
            for name, dim in ((layer.past_key, facts.key_dim), (layer.past_value, facts.value_dim)):
                self.past[name] = np.zeros((batch, facts.kv_heads, 0, dim), facts.cache_dtype)
        for state in facts.states:
            self.past[state.past] = np.zeros((batch, *state.shape), state.dtype)
        self.cache = None
        if policy is not None:
            sizes = (len(facts.layers), facts.kv_heads, facts.key_dim)
            self.cache = DecoderCache(*sizes, policy, batch=batch, value_dim=facts.value_dim, seed=seed)

    def step(self, ids: np.ndarray) -> np.ndarray:
        count, total = ids.shape[1], self.length + ids.shape[1]
        positions = np.arange(self.length, total)
        values: dict[str, Any] = {
            "attention_mask": np.ones((self.batch, total), np.int64),
            "position_ids": np.tile(positions, (self.batch, 1)),
            "cache_position": positions,
            "use_cache_branch": np.array([self.length > 0]),
            "num_logits_to_keep": np.array(0),
            "logits_to_keep": np.zeros(1, np.int64),
        }
        feeds = {name: values[name] for name in self.bundle.signature.optional}
        outputs = [output.name for output in self.bundle.session().get_outputs()]
        found = self.bundle.session().run(None, {"input_ids": ids, **feeds, **self.past})
        by_name = dict(zip(outputs, found, strict=True))
        for index, layer in enumerate(self.bundle.signature.layers):
            keys, values = by_name[layer.present_key], by_name[layer.present_value]
            if self.cache is not None:
                keys, values = self.cache.update(keys[:, :, -count:], values[:, :, -count:], index)
            self.past[layer.past_key], self.past[layer.past_value] = keys, values
        for state in self.bundle.signature.states:
            self.past[state.past] = by_name[state.present]
        self.length = total
        return by_name["logits"].astype(np.float32)


@pytest.mark.parametrize("fields", FORMS)
def test_exact_steps_equal_one_full_run(build, fields: dict[str, Any]) -> None:
    bundle = Bundle.open(build(**fields))
    ids = ids_of(3, 20)
    full = Naive(bundle, None, 3).step(ids)
    found = stepwise(DecoderRunner(bundle, batch=3), ids)
    assert found.dtype == np.float32
    assert full.std() > 1
    half = "float16" in (bundle.signature.cache_dtype, bundle.signature.logits_dtype)
    np.testing.assert_allclose(found, full, atol=5e-2 if half else 1e-4)


@pytest.mark.parametrize(("kind", "first"), [("gemma3_text", 1), ("paligemma", 1), ("gemma2", 0), (None, 0)])
def test_positions_count_from_one_where_the_family_demands_it(build, kind: str | None, first: int) -> None:
    folder = build()
    (folder / "config.json").write_text(json.dumps({"model_type": kind, "max_position_embeddings": 60}))
    bundle, ids = Bundle.open(folder), ids_of(2, 9)
    feeds = {
        "input_ids": ids,
        "attention_mask": np.ones((2, 9), np.int64),
        "position_ids": np.tile(np.arange(first, first + 9), (2, 1)),
    }
    for layer in bundle.signature.layers:
        feeds |= {name: np.zeros((2, 2, 0, 8), np.float32) for name in (layer.past_key, layer.past_value)}
    expected = bundle.session().run(["logits"], feeds)[0]
    np.testing.assert_allclose(stepwise(DecoderRunner(bundle, batch=2), ids), expected, atol=1e-4)
    assert inspection(bundle)["first_position"] == first


@pytest.mark.parametrize("fields", FORMS)
@pytest.mark.parametrize("policy", POLICIES)
def test_reconstruct_equals_the_naive_loop(build, fields: dict[str, Any], policy: str) -> None:
    bundle = Bundle.open(build(layers=4) if not fields else build(**fields))
    ids, batch = ids_of(2, 20), 2
    runner, naive = DecoderRunner(bundle, policy, batch=batch, seed=9), Naive(bundle, policy, batch, seed=9)
    exact = stepwise(DecoderRunner(bundle, batch=batch), ids)
    found = stepwise(runner, ids)
    expected = np.concatenate([naive.step(ids[:, i : i + 1]) for i in range(20)], axis=1)
    np.testing.assert_array_equal(found, expected)
    assert np.abs(found - exact).max() > 1e-3, "the cache was not read"


def test_chunked_reconstruct_equals_the_naive_loop(build) -> None:
    bundle, ids, chunks = Bundle.open(build()), ids_of(2, 30), [7, 1, 1, 12, 2, 7]
    policy = "k=mse3,v=mse3,sinks=2,window=6"
    found = stepwise(DecoderRunner(bundle, policy, batch=2), ids, chunks)
    naive, ends = Naive(bundle, policy, 2), np.cumsum(chunks)
    expected = [naive.step(ids[:, end - count : end]) for count, end in zip(chunks, ends, strict=True)]
    np.testing.assert_array_equal(found, np.concatenate(expected, axis=1))


@pytest.mark.parametrize("chunks", [[20], [3, 17], [1, 18, 1], [10, 10]])
def test_chunked_exact_equals_stepwise(build, chunks: list[int]) -> None:
    bundle, ids = Bundle.open(build()), ids_of(2, 20)
    expected = stepwise(DecoderRunner(bundle, batch=2), ids)
    np.testing.assert_allclose(stepwise(DecoderRunner(bundle, batch=2), ids, chunks), expected, atol=1e-4)


def test_current_token_is_exact_and_later_steps_see_its_codes(build) -> None:
    bundle, ids = Bundle.open(build(layers=1)), ids_of(1, 3)
    exact, quantized = DecoderRunner(bundle), DecoderRunner(bundle, "k=mse1,v=mse1")
    first = [runner.step(ids[:, :1]) for runner in (exact, quantized)]
    second = [runner.step(ids[:, 1:2]) for runner in (exact, quantized)]
    np.testing.assert_array_equal(*first)
    assert np.abs(second[0] - second[1]).max() > 1e-2


def test_float32_policy_changes_nothing(build) -> None:
    bundle, ids = Bundle.open(build()), ids_of(2, 25)
    found = stepwise(DecoderRunner(bundle, "k=float32,v=float32", batch=2), ids)
    np.testing.assert_array_equal(found, stepwise(DecoderRunner(bundle, batch=2), ids))


def test_window_longer_than_the_text_changes_nothing(build) -> None:
    bundle, ids = Bundle.open(build()), ids_of(1, 25)
    runner = DecoderRunner(bundle, "k=mse2,v=mse2,window=25")
    np.testing.assert_array_equal(stepwise(runner, ids), stepwise(DecoderRunner(bundle), ids))
    assert runner.quantized_tokens == 0


def test_capacity_never_changes_a_result(build) -> None:
    bundle, ids = Bundle.open(build(inputs=())), ids_of(2, 64)
    runs = [stepwise(DecoderRunner(bundle, "k=mse4,v=mse4", batch=2, capacity=room), ids) for room in (0, 1, 7, 64)]
    for run in runs[1:]:
        np.testing.assert_array_equal(run, runs[0])


def test_reset_starts_anew(build) -> None:
    bundle, ids = Bundle.open(build()), ids_of(1, 12)
    runner = DecoderRunner(bundle, "k=mse4,v=mse4,window=3")
    first = stepwise(runner, ids)
    runner.reset()
    assert (runner.tokens, runner.quantized_tokens, len(runner.cache)) == (0, 0, 0)
    np.testing.assert_array_equal(stepwise(runner, ids), first)


def test_returned_logits_survive_later_steps(build) -> None:
    runner, ids = DecoderRunner(Bundle.open(build())), ids_of(1, 4)
    first = runner.step(ids[:, :1])
    kept = first.copy()
    stepwise(runner, ids[:, 1:])
    np.testing.assert_array_equal(first, kept)


def test_steps_allocate_nothing_that_grows_with_the_past(build) -> None:
    folder = build(inputs=("attention_mask",), kv_heads=4, key_dim=32, value_dim=32)
    (folder / "config.json").write_text("{}")
    runner = DecoderRunner(Bundle.open(folder), "k=mse4,v=mse4", capacity=2000)
    one_cache_tensor = 4 * 1900 * 32 * 4
    runner.step(ids_of(1, 1900))
    held = runner.float_bytes
    runner.step(ids_of(1, 1))
    tracemalloc.start()
    runner.step(ids_of(1, 1))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < one_cache_tensor / 4
    assert runner.float_bytes == held


def test_capacity_leaves_no_room_for_codes_that_sinks_make_needless(build) -> None:
    runner = DecoderRunner(Bundle.open(build()), "k=mse4,v=mse4,sinks=3", capacity=20)
    stepwise(runner, ids_of(1, 20))
    assert runner.cache.ledger().items["padding"] == 0


def test_bytes_are_those_of_the_arrays(build) -> None:
    bundle = Bundle.open(build(key_dim=16, value_dim=8, dtype="float16"))
    exact, quantized = DecoderRunner(bundle, batch=2), DecoderRunner(bundle, "k=mse4,v=mse2", batch=2, capacity=10)
    for runner in (exact, quantized):
        runner.step(ids_of(2, 10))
    vectors = 2 * 2 * 2 * 10  # layers, sequences, heads, tokens
    assert exact.cache_bytes == exact.exact_bytes() == vectors * 24 * 2
    assert quantized.exact_bytes("float32") == vectors * 24 * 4
    assert quantized.cached_values == vectors * 24
    ledger = quantized.cache.ledger()
    assert ledger.items["codes"] == vectors * (8 + 2)
    assert ledger.items["norms"] == vectors * 4
    assert quantized.cache_bytes == ledger.total
    assert quantized.float_bytes == 2 * vectors * 24 * 2
    assert quantized.quantized_tokens == 2 * 10


def unchanged_by(runner: DecoderRunner, twin: DecoderRunner, ids: np.ndarray) -> None:
    """A runner that went through a failing step continues exactly as its twin that did not."""
    assert runner.tokens == twin.tokens
    assert runner.cache_bytes == twin.cache_bytes
    np.testing.assert_array_equal(stepwise(runner, ids), stepwise(twin, ids))


def pair(bundle: Bundle, policy: str | None, count: int) -> tuple[DecoderRunner, DecoderRunner]:
    """Two runners with the same past."""
    runners = DecoderRunner(bundle, policy), DecoderRunner(bundle, policy)
    for runner in runners:
        stepwise(runner, ids_of(1, count))
    return runners


@pytest.mark.parametrize("policy", [None, "k=mse4,v=mse4", "k=mse4,v=mse4,window=3"])
@pytest.mark.parametrize(
    ("tokens", "error", "match"),
    [
        (np.array([[32]]), InvalidSpec, r"token id 32 is not in the vocabulary, 0\.\.31"),
        (np.array([[3, -1]]), InvalidSpec, "token id -1 is not"),
        (np.array([[1.0]]), InvalidDtype, "tokens must be integers, got float64"),
        (np.array([[True]]), InvalidDtype, "tokens must be integers, got bool"),
        (np.array([1]), ShapeMismatch, r"must have shape \(1, n\).* got \(1,\)"),
        (np.zeros((1, 0), np.int64), ShapeMismatch, r"n of 1 or more, got \(1, 0\)"),
        (np.zeros((2, 1), np.int64), ShapeMismatch, r"must have shape \(1, n\)"),
        (np.zeros((1, 57), np.int64), InvalidSpec, "8 tokens and 57 new ones exceed the model's context of 64"),
    ],
)
def test_bad_tokens_leave_the_runner_as_it_was(build, policy, tokens, error, match) -> None:
    runner, twin = pair(Bundle.open(build()), policy, 8)
    with pytest.raises(error, match=match):
        runner.step(tokens)
    unchanged_by(runner, twin, ids_of(1, 6, seed=6))


@pytest.mark.parametrize("policy", [None, "k=mse4,v=mse4", "k=mse4,v=mse4,window=3"])
def test_failing_runtime_leaves_the_runner_as_it_was(build, policy) -> None:
    folder = build()
    (folder / "config.json").write_text("{}")  # so that only the graph knows where its positions end
    runner, twin = pair(Bundle.open(folder), policy, 8)
    with pytest.raises(StepFailed, match=r"failed on tokens 8\.\.72: .*the runner is unchanged"):
        runner.step(np.zeros((1, 65), np.int64))
    unchanged_by(runner, twin, ids_of(1, 6, seed=6))


def poisoned(model: onnx.ModelProto, value: float) -> onnx.ModelProto:
    """The model with an embedding of token 31 that is full of `value`."""
    tensor = next(one for one in model.graph.initializer if one.name == "embedding")
    rows = numpy_helper.to_array(tensor).copy()
    rows[31] = value
    tensor.CopyFrom(numpy_helper.from_array(rows, "embedding"))
    return model


@pytest.mark.parametrize("policy", ["k=mse4,v=mse4", "k=mse4,v=mse4,window=3", "k=float32,v=float32"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_broken_numbers_leave_the_runner_as_it_was(write, tiny_model, policy, value) -> None:
    runner, twin = pair(Bundle.open(write(poisoned(tiny_model(), value))), policy, 8)
    ids = ids_of(1, 6, seed=6) % 31
    with pytest.raises(NotFinite, match=r"past_key_values\.0\.key of new token 2, head 0, sequence 0 has NaN"):
        runner.step(np.array([[1, 2, 31, 4]]))
    unchanged_by(runner, twin, ids)


@pytest.mark.parametrize("policy", ["k=mse4,v=mse4", "k=mse4,v=mse4,window=3", "k=float16,v=float32"])
def test_vectors_too_long_to_store_leave_the_runner_as_it_was(write, tiny_model, policy) -> None:
    runner, twin = pair(Bundle.open(write(poisoned(tiny_model(), 3e5))), policy, 8)
    with pytest.raises(
        ScaleRange, match=r"has norm .* more than the 16376 that surely fits float16; say norms=float32"
    ):
        runner.step(np.array([[31]]))
    unchanged_by(runner, twin, ids_of(1, 6, seed=6) % 31)


@pytest.mark.parametrize("policy", ["k=mse4,v=int4,norms=float32", "k=float32,v=float32"])
def test_policies_with_room_take_long_vectors(write, tiny_model, policy) -> None:
    runner = DecoderRunner(Bundle.open(write(poisoned(tiny_model(), 3e5))), policy)
    assert np.isfinite(runner.step(np.array([[31, 2]]))).all()


@pytest.mark.parametrize("policy", ["k=mse4,v=mse4,sinks=1", "k=mse4,v=mse4,window=3"])
def test_failure_in_a_later_layer_changes_no_earlier_one(build, monkeypatch, policy: str) -> None:
    runner, twin = pair(Bundle.open(build()), policy, 8)
    (*_, last), reserve = runner.cache._rows[0][1].sides(), Side.reserve

    def failing(side, pending):
        if side is last:
            raise MemoryError("no room")
        reserve(side, pending)

    with monkeypatch.context() as patch:
        patch.setattr(Side, "reserve", failing)
        with pytest.raises(MemoryError, match="no room"):
            runner.step(np.array([[3, 4]]))
    unchanged_by(runner, twin, ids_of(1, 6, seed=6))


def test_decoded_values_beyond_a_float16_cache_are_refused(build, monkeypatch) -> None:
    runner, twin = pair(Bundle.open(build(dtype="float16")), "k=mse4,v=mse4", 8)
    with monkeypatch.context() as patch:
        patch.setattr(runner.cache, "keys", lambda layer, start, stop: np.full((1, 2, stop - start, 8), 1e6))
        with pytest.raises(ScaleRange, match="exceeds the float16 cache"):
            runner.step(np.array([[3]]))
    unchanged_by(runner, twin, ids_of(1, 6, seed=6))


def test_graph_that_returns_the_last_logits_only_is_fed_one_by_one(build) -> None:
    bundle, ids = Bundle.open(build(last_only=True)), ids_of(1, 5)
    runner = DecoderRunner(bundle)
    with pytest.raises(UnsupportedBundle, match=r"'logits' has shape \(1, 1, 32\) for tokens \(1, 5\)"):
        runner.step(ids)
    expected = stepwise(DecoderRunner(Bundle.open(build())), ids)
    np.testing.assert_array_equal(stepwise(runner, ids), expected)


def test_fixed_batch_is_insisted_on(build) -> None:
    bundle = Bundle.open(build(batch=2))
    assert DecoderRunner(bundle, batch=2).step(ids_of(2, 3)).shape == (2, 3, 32)
    with pytest.raises(UnsupportedBundle, match="runs a batch of 2 only, got 1"):
        DecoderRunner(bundle)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"mode": "fast"}, "mode must be one of exact, reconstruct, fused, got 'fast'"),
        ({"mode": "exact", "policy": "balanced"}, "takes no policy, got 'balanced'"),
        ({"batch": 0}, r"batch must be a whole number of 1 or more and below 2\*\*31, got 0"),
        ({"capacity": -1}, "capacity must be a whole number of 0 or more"),
        ({"batch": True}, "batch must be a whole number"),
    ],
)
def test_bad_options(build, options: dict[str, Any], match: str) -> None:
    with pytest.raises(InvalidSpec, match=match):
        DecoderRunner(Bundle.open(build()), **options)


def test_policy_that_the_model_cannot_have(build) -> None:
    bundle = Bundle.open(build())
    with pytest.raises(TurboQuantError, match="the model has 2"):
        DecoderRunner(bundle, "k=mse4,v=mse4,boundary=2@8")


def test_modes_follow_from_the_policy(build) -> None:
    bundle = Bundle.open(build())
    assert DecoderRunner(bundle).mode == "exact"
    assert DecoderRunner(bundle).cache is None
    assert DecoderRunner(bundle, "k=mse4,v=mse4").mode == "reconstruct"
    named = DecoderRunner(bundle, mode="reconstruct")
    assert named.cache.policy == CachePolicy.parse("balanced").resolve(2)
