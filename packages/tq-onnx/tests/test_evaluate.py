"""Evaluation: figures against a slow recomputation, bytes against a ledger, and every refusal before any step."""

import math

import numpy as np
import pytest

from tq_core import InvalidSpec, NotFinite
from tq_onnx import Bundle, DecoderRunner, InvalidText, evaluate
from tq_onnx.report import Report
from tq_onnx.windows import cut_windows

SMALL = {"tokens": 24, "windows": 4, "batch": 4, "score_from": 4}


def survey(bundle: Bundle, policies: list[str], text: str, **options: object) -> Report:
    return evaluate(bundle, policies, text=text, **(SMALL | options))


def slow_figures(bundle: Bundle, policy: str, text: str, seed: int) -> dict[str, float]:
    """Perplexity, KL and agreement by loops over full logits of both runs."""
    windows = cut_windows(bundle.encode(text), 4, 24, 0)
    logits = []
    for options in ({}, {"policy": policy, "seed": seed}):
        runner = DecoderRunner(bundle, batch=4, **options)
        logits.append(np.stack([runner.step(windows[:, i : i + 1])[:, 0] for i in range(23)], axis=1).astype(float))
    surprise, divergence, agrees = [], [], []
    for window in range(4):
        for position in range(4, 24):
            exact, measured = (run[window, position - 1] for run in logits)
            p, q = (np.exp(side) / np.exp(side).sum() for side in (exact, measured))
            surprise.append(-math.log(q[windows[window, position]]))
            divergence.append(sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))
            agrees.append(np.argmax(exact) == np.argmax(measured))
    return {
        "perplexity": math.exp(np.mean(surprise)),
        "kl_mean": float(np.mean(divergence)),
        "kl_p99": float(np.quantile(divergence, 0.99)),
        "top1_agreement": float(np.mean(agrees)),
    }


def test_figures_equal_a_slow_recomputation(build, words) -> None:
    bundle = Bundle.open(build())
    report = survey(bundle, ["k=mse2,v=mse3"], words, seeds=[4])
    row = report.rows[1]
    for name, value in slow_figures(bundle, "k=mse2,v=mse3", words, 4).items():
        assert row[name] == pytest.approx(value, rel=1e-6), name
    assert row["kl_mean"] > 1e-3
    assert row["scored_tokens"] == 80


def test_groups_of_windows_change_nothing(build, words) -> None:
    bundle = Bundle.open(build())
    together, apart = (survey(bundle, ["k=mse3,v=mse3"], words, batch=batch) for batch in (4, 3))
    for name in ("perplexity", "kl_mean", "top1_agreement", "logit_rmse", "scored_tokens", "first_divergence"):
        assert apart.rows[1][name] == pytest.approx(together.rows[1][name], rel=1e-4), name
    assert apart.protocol["batch"] == 3


def test_large_vocabularies_run_in_smaller_groups(build, words, monkeypatch) -> None:
    bundle = Bundle.open(build())
    monkeypatch.setattr("tq_onnx.plan.LARGEST_REFERENCE_BYTES", 2 * 20 * 32 * 4)
    assert survey(bundle, ["k=mse4,v=mse4"], words).protocol["batch"] == 2
    monkeypatch.setattr("tq_onnx.plan.LARGEST_REFERENCE_BYTES", 1)
    assert survey(bundle, ["k=mse4,v=mse4"], words).protocol["batch"] == 1


def test_exact_row_comes_first_and_agrees_with_itself(build, words) -> None:
    exact = survey(Bundle.open(build()), [], words).rows[0]
    assert (exact.policy, exact.mode, exact["kl_mean"], exact["top1_agreement"]) == ("exact", "exact", 0.0, 1.0)
    assert exact["first_divergence"] is None
    assert exact["bits_per_value"] == 32
    assert exact["cache_bytes"] == 2 * exact["exact_bytes"]


def test_policy_of_floats_has_no_divergence(build, words) -> None:
    row = survey(Bundle.open(build()), ["k=float32,v=float32"], words).rows[1]
    assert row["kl_mean"] < 1e-9
    assert row["logit_rmse"] == 0


def test_bytes_and_bits_are_those_of_the_cache_at_the_measured_length(build, words) -> None:
    bundle = Bundle.open(build())
    policy = "k=mse4,v=mse2,sinks=2,window=5"
    row = survey(bundle, [policy], words).rows[1]
    runner = DecoderRunner(bundle, policy, batch=4, capacity=23)
    runner.step(cut_windows(bundle.encode(words), 4, 24, 0)[:, :23])
    vectors = 2 * 2 * 4  # layers, heads, sequences
    coded = vectors * (23 - 2 - 5)
    assert row.ledger["codes"] == coded * (4 + 2)
    assert row.ledger["norms"] == coded * 2 * 2
    assert row.ledger["sinks"] == vectors * 2 * 16 * 4
    assert row["cache_bytes"] == sum(row.ledger.values())
    assert row["cache_bytes"] - row.ledger["padding"] == runner.cache_bytes - runner.cache.ledger().items["padding"]
    assert row["exact_bytes"] == vectors * 23 * 16 * 2
    assert row["bits_per_value"] == 8 * (row["cache_bytes"] - row.ledger["tables"]) / (vectors * 23 * 16)
    assert row["nominal_bits_per_value"] == 3 + 2  # 16 bits of norm on 8 values


def test_nominal_bits_need_a_quantized_token(build, words) -> None:
    row = survey(Bundle.open(build()), ["k=mse4,v=mse4,window=100"], words).rows[1]
    assert row["nominal_bits_per_value"] is None


def test_several_seeds_are_averaged_and_their_range_told(build, words) -> None:
    bundle = Bundle.open(build())
    each = [survey(bundle, ["k=mse2,v=mse2"], words, seeds=[seed]).rows[1]["kl_mean"] for seed in (1, 2, 3)]
    row = survey(bundle, ["k=mse2,v=mse2"], words, seeds=[1, 2, 3]).rows[1]
    assert len(set(each)) == 3
    assert row["kl_mean"] == pytest.approx(np.mean(each))
    data = row.to_dict()
    assert data["seed"] == [1, 2, 3]
    assert data["range"]["kl_mean"] == [min(each), max(each)]
    assert [figures["kl_mean"] for figures in data["by_seed"]] == each


def test_progress_ends_at_the_total(build, words) -> None:
    calls = []
    survey(Bundle.open(build()), ["balanced"], words, batch=2, progress=lambda *call: calls.append(call))
    assert [done for done, _, _ in calls] == list(range(1, 2 * 2 * 23 + 1))
    assert calls[-1][0] == calls[-1][1]
    assert {label for _, _, label in calls} == {"exact", "k=mse4,v=mse4,sinks=4,window=128"}


def test_float16_bundles_are_measured(build, words) -> None:
    rows = survey(Bundle.open(build(dtype="float16", logits="float16")), ["k=mse8,v=mse8"], words).rows
    assert rows[0]["bits_per_value"] == 16
    assert rows[0]["cache_bytes"] == rows[0]["exact_bytes"]
    assert 0 < rows[1]["kl_mean"] < 0.01


def test_open_vocabulary_is_found_by_a_step(build, words) -> None:
    bundle = Bundle.open(build(open_vocabulary=True))
    assert bundle.signature.vocabulary is None
    assert survey(bundle, ["k=mse4,v=mse4"], words).rows[1]["kl_mean"] > 0


def test_fixed_batch_sets_the_groups(build, words) -> None:
    bundle = Bundle.open(build(batch=2))
    assert survey(bundle, ["k=mse4,v=mse4"], words).protocol["batch"] == 2
    with pytest.raises(InvalidSpec, match="windows must be a multiple of it, got 3"):
        survey(bundle, ["k=mse4,v=mse4"], words, windows=3)


def test_policies_without_randomness_run_once(build, words) -> None:
    report = survey(Bundle.open(build()), ["k=int4,v=absmax4", "k=int4,v=mse4"], words, seeds=[1, 2])
    plain, rotated = (row.to_dict() for row in report.rows[1:])
    assert plain["seed"] is None
    assert "by_seed" not in plain
    assert rotated["seed"] == [1, 2]
    alone = survey(Bundle.open(build()), ["k=int4,v=absmax4"], words, seeds=[7]).rows[1]
    assert plain["kl_mean"] == alone["kl_mean"]


@pytest.mark.parametrize("policy", ["k=int4,v=int4,layer1.k=mse4", "k=int4,v=int4,head1.v=mse3"])
def test_rotations_of_one_layer_or_head_are_run_under_every_seed(build, words, policy: str) -> None:
    row = survey(Bundle.open(build()), [policy], words, seeds=[1, 2]).rows[1]
    assert row.to_dict()["seed"] == [1, 2]
    assert row.by_seed[0]["kl_mean"] != row.by_seed[1]["kl_mean"]


def test_rotations_of_some_channels_are_run_under_every_seed(build, words) -> None:
    row = survey(Bundle.open(build()), ["k=int8x2+mse3,v=int4"], words, seeds=[1, 2]).rows[1]
    assert row.to_dict()["seed"] == [1, 2]


def test_tokenizer_of_another_model_is_refused(build, words) -> None:
    folder = build()
    text = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(text.replace('"w30": 30', '"w30": 50'))
    with pytest.raises(InvalidText, match="gives token 50, its model knows 32 tokens only"):
        survey(Bundle.open(folder), ["k=mse4,v=mse4"], words)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"text": ""}, InvalidText, "the text is empty"),
        ({"text": "w1 w2"}, InvalidText, "the text has 2 tokens, 4 windows of 24 need 96"),
        ({"tokens": 65, "windows": 1}, InvalidSpec, "windows of 65 tokens exceed the model's context of 64"),
        ({"tokens": 4}, InvalidSpec, "windows of 4 tokens leave nothing to score from position 4 on"),
        ({"windows": 0}, InvalidSpec, "windows must be a whole number of 1 or more"),
        ({"batch": 1.5}, InvalidSpec, "batch must be a whole number of 1 or more"),
        ({"score_from": 0}, InvalidSpec, "score_from must be a whole number of 1 or more"),
        ({"seeds": []}, InvalidSpec, "seeds must be one or more different numbers"),
        ({"seeds": [1, 1]}, InvalidSpec, "seeds must be one or more different numbers"),
        ({"seeds": [-1]}, InvalidSpec, "seed must lie in"),
        ({"mode": "exact"}, InvalidSpec, "in mode 'reconstruct' or 'fused', got 'exact'"),
        ({"policies": ["k=mse4,v=mse4", "k=mse4"]}, ValueError, r"v=\.\.\. is missing"),
        ({"policies": ["k=mse4,v=mse4,boundary=2@8"]}, ValueError, "the model has 2"),
        ({"backend": "nope"}, RuntimeError, "backend 'nope' cannot run"),
    ],
)
def test_bad_input_is_refused_before_any_step(build, words, monkeypatch, options, error, match) -> None:
    bundle = Bundle.open(build())
    monkeypatch.setattr(DecoderRunner, "step", lambda *_: pytest.fail("a step ran"))
    arguments = {"policies": ["k=mse4,v=mse4"], "text": words} | SMALL | options
    with pytest.raises(error, match=match):
        evaluate(bundle, **arguments)


def test_logits_that_are_no_numbers_are_refused(write, tiny_model, words) -> None:
    model = tiny_model()
    head = next(tensor for tensor in model.graph.initializer if tensor.name == "head")
    head.raw_data = np.full(16 * 32, np.nan, np.float32).tobytes()
    with pytest.raises(NotFinite, match="logits at position 3 have NaN or infinity"):
        survey(Bundle.open(write(model)), ["k=mse4,v=mse4"], words)


def test_last_logits_only_are_enough(build, words) -> None:
    found = survey(Bundle.open(build(last_only=True)), ["k=mse4,v=mse4"], words).rows[1]["kl_mean"]
    assert found == survey(Bundle.open(build()), ["k=mse4,v=mse4"], words).rows[1]["kl_mean"]
