"""Generation against a loop over single steps, batches against rows alone, caches saved and loaded, and the command."""

import json

import numpy as np
import pytest

from tq_cache import DecoderCache
from tq_core import InvalidSpec, NotFinite, ShapeMismatch
from tq_onnx import Bundle, DecoderRunner, Sampler, UnsupportedBundle, generate, generate_batch
from tq_onnx.cli import main

POLICY = "k=mse4,v=mse4,sinks=2,window=3"
PROMPT = [3, 14, 15, 9, 2, 6, 5]


def slow(bundle: Bundle, policy: str | None, prompt: list[int], count: int, sampler: Sampler) -> list[int]:
    """The prompt as one step, then one step a token."""
    runner, found = DecoderRunner(bundle, policy), []
    logits = runner.step([prompt])[:, -1]
    for _ in range(count):
        found.append(int(sampler.pick(logits)[0]))
        logits = runner.step([found[-1:]])[:, -1]
    return found


@pytest.mark.parametrize("policy", [None, POLICY])
@pytest.mark.parametrize("options", [{}, {"temperature": 0.8, "top_k": 9, "seed": 4}])
def test_generation_equals_a_slow_loop(build, policy, options) -> None:
    bundle = Bundle.open(build())
    found = generate(DecoderRunner(bundle, policy), PROMPT, max_tokens=12, sampler=Sampler(**options), end_tokens=())
    assert list(found) == slow(bundle, policy, PROMPT, 12, Sampler(**options))


def test_tokens_come_one_by_one(build) -> None:
    runner = DecoderRunner(Bundle.open(build()))
    tokens = generate(runner, PROMPT, max_tokens=5, end_tokens=())
    assert runner.tokens == 0, "nothing runs before the first token is asked for"
    next(tokens)
    assert runner.tokens == len(PROMPT)
    next(tokens)
    assert runner.tokens == len(PROMPT) + 1


def test_chunks_of_a_prompt_change_nothing_in_exact_mode(build) -> None:
    bundle = Bundle.open(build())
    runs = [
        list(generate(DecoderRunner(bundle), PROMPT, max_tokens=8, chunk=chunk, end_tokens=())) for chunk in (1, 3, 99)
    ]
    assert runs[0] == runs[1] == runs[2]


def test_end_token_stops_and_is_not_given_out(build) -> None:
    bundle = Bundle.open(build())
    tokens = slow(bundle, None, PROMPT, 12, Sampler())
    end = tokens[4]
    found = list(generate(DecoderRunner(bundle), PROMPT, max_tokens=12, end_tokens=[end]))
    assert found == tokens[: tokens.index(end)]


def test_full_context_stops(build) -> None:
    bundle = Bundle.open(build())  # of 64 positions
    runner = DecoderRunner(bundle)
    found = list(generate(runner, [1] * 60, max_tokens=50, end_tokens=()))
    assert len(found) == 5
    assert runner.tokens == 64


def test_text_is_a_prompt_too_and_the_runner_goes_on(build) -> None:
    bundle = Bundle.open(build())
    runner = DecoderRunner(bundle)
    whole = list(generate(DecoderRunner(bundle), "w3 w14 w15 w9", max_tokens=4, end_tokens=()))
    list(generate(runner, "w3 w14", max_tokens=0))
    assert list(generate(runner, [15, 9], max_tokens=4, end_tokens=())) == whole


@pytest.mark.parametrize("policy", [None, POLICY])
def test_rows_of_a_batch_equal_rows_alone(build, policy) -> None:
    bundle = Bundle.open(build())
    prompts = [PROMPT, [8, 8], [1, 2, 3, 4]]
    alone = [slow(bundle, policy, prompt, 6, Sampler()) for prompt in prompts]
    rows = list(generate_batch(DecoderRunner(bundle, policy, batch=3), prompts, max_tokens=6, end_tokens=()))
    assert [list(row) for row in zip(*rows, strict=True)] == alone


def test_rows_end_each_for_itself(build) -> None:
    bundle = Bundle.open(build())
    prompts = [PROMPT, [8, 8, 1, 1, 2, 2, 3]]
    alone = [slow(bundle, None, prompt, 6, Sampler()) for prompt in prompts]
    end = next(token for token in alone[0] if token not in alone[1])
    rows = list(generate_batch(DecoderRunner(bundle, batch=2), prompts, max_tokens=6, end_tokens=[end]))
    stop = alone[0].index(end)
    assert [row[0] for row in rows] == alone[0][:stop] + [None] * (6 - stop)
    assert [row[1] for row in rows] == alone[1]


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        (([],), InvalidSpec, "the prompt is empty"),
        (("",), InvalidSpec, "the prompt is empty"),
        (([1, 99],), InvalidSpec, "token id 99 is not in the vocabulary"),
        (([1] * 65,), InvalidSpec, "exceed the model's context of 64"),
    ],
)
def test_bad_prompts_are_refused_before_the_first_token(build, arguments, error, match) -> None:
    with pytest.raises(error, match=match):
        generate(DecoderRunner(Bundle.open(build())), *arguments)


def test_bad_counts_are_refused(build) -> None:
    runner = DecoderRunner(Bundle.open(build()), batch=2)
    with pytest.raises(InvalidSpec, match="max_tokens must be a whole number"):
        generate_batch(runner, [[1], [2]], max_tokens=-1)
    with pytest.raises(ShapeMismatch, match="a batch of 2 takes that many prompts"):
        generate(runner, [1])
    with pytest.raises(ShapeMismatch, match=r"got 2 with \[1, 0\]"):
        generate_batch(runner, [[1], []])


def test_padding_that_a_graph_cannot_hide_is_refused(build) -> None:
    runner = DecoderRunner(Bundle.open(build(inputs=("position_ids",))), batch=2)
    with pytest.raises(UnsupportedBundle, match="the graph has no attention_mask that could hide padding"):
        generate_batch(runner, [[1, 2], [3]])
    shared = DecoderRunner(Bundle.open(build(inputs=("attention_mask", "cache_position"))), batch=2)
    with pytest.raises(UnsupportedBundle, match="cache_position, which is one for all rows, and no position_ids"):
        generate_batch(shared, [[1, 2], [3]])
    hybrid = DecoderRunner(Bundle.open(build(states=("past_conv.7",))), batch=2)
    with pytest.raises(UnsupportedBundle, match=r"padding would enter the state 'past_conv\.7'"):
        generate_batch(hybrid, [[1, 2], [3]])


@pytest.mark.parametrize(
    ("mask", "error", "match"),
    [
        ([[1, 0], [1, 1]], InvalidSpec, "padding must come before the first token of a row"),
        ([[1, 2], [1, 1]], InvalidSpec, "1 for tokens and 0 for padding and nothing else"),
        ([[0.0, 1.0], [1.0, 1.0]], InvalidSpec, "1 for tokens and 0 for padding and nothing else"),
        ([[1, 1]], ShapeMismatch, r"must have the shape \(2, 2\)"),
    ],
)
def test_bad_masks_leave_the_runner_as_it_was(build, mask, error, match) -> None:
    runner = DecoderRunner(Bundle.open(build()), POLICY, batch=2)
    with pytest.raises(error, match=match):
        runner.step([[1, 2], [3, 4]], mask)
    runner.step([[1, 2], [3, 4]], [[1, 1], [0, 1]])
    with pytest.raises(InvalidSpec, match="row 0 has tokens already and takes no more padding"):
        runner.step([[5], [6]], [[0], [1]])
    assert (runner.tokens, runner.cache.lengths, runner.padding.tolist()) == (2, (2, 1), [0, 1])


def test_failure_in_a_padded_batch_is_undone_in_every_row(build, monkeypatch) -> None:
    bundle = Bundle.open(build())
    runners = [DecoderRunner(bundle, POLICY, batch=2) for _ in range(2)]
    for runner in runners:
        runner.prefill([[1, 2, 3], [4, 5, 6]], [[1, 1, 1], [0, 0, 1]])
    with monkeypatch.context() as patch:
        patch.setattr("tq_onnx.packed.check_rows", lambda *_: (_ for _ in ()).throw(NotFinite("no")))
        with pytest.raises(NotFinite, match="no"):
            runners[0].step([[7], [8]])
    np.testing.assert_array_equal(*(runner.step([[9], [9]]) for runner in runners))


def test_reset_forgets_padding(build) -> None:
    bundle = Bundle.open(build())
    runner = DecoderRunner(bundle, POLICY, batch=2)
    runner.prefill([[1, 2, 3], [4, 5, 6]], [[1, 1, 1], [0, 0, 1]])
    runner.reset()
    fresh = DecoderRunner(bundle, POLICY, batch=2)
    np.testing.assert_array_equal(*(one.prefill([[1, 2, 3], [4, 5, 6]]) for one in (runner, fresh)))


def test_state_of_a_hybrid_starts_anew_after_reset(build) -> None:
    runner = DecoderRunner(Bundle.open(build(states=("past_conv.7",))), POLICY)
    first = [runner.step([[token]]) for token in PROMPT]
    assert runner.state_bytes == 16 * 4
    runner.reset()
    np.testing.assert_array_equal(first, [runner.step([[token]]) for token in PROMPT])


def test_restored_cache_goes_on_as_if_never_saved(build, tmp_path) -> None:
    bundle = Bundle.open(build())
    runner = DecoderRunner(bundle, POLICY)
    runner.prefill([PROMPT])
    runner.cache.save(tmp_path / "cache", tokens=PROMPT)
    again = DecoderRunner(bundle, POLICY)
    again.restore(DecoderCache.load(tmp_path / "cache"))
    assert again.tokens == len(PROMPT)
    for token in (1, 2, 3, 4):
        np.testing.assert_array_equal(again.step([[token]]), runner.step([[token]]))


def test_caches_of_others_are_not_restored(build) -> None:
    bundle = Bundle.open(build())
    runner = DecoderRunner(bundle, POLICY)
    with pytest.raises(InvalidSpec, match="the cache has head_dim 16, this runner 8"):
        runner.restore(DecoderCache(2, 2, 16, POLICY))
    with pytest.raises(InvalidSpec, match="the cache has policy k=mse3"):
        runner.restore(DecoderCache(2, 2, 8, "k=mse3,v=mse3"))
    with pytest.raises(InvalidSpec, match="mode 'exact' has no packed cache"):
        DecoderRunner(bundle).restore(DecoderCache(2, 2, 8, POLICY))
    hybrid = DecoderRunner(Bundle.open(build(states=("past_conv.7",))), POLICY)
    with pytest.raises(UnsupportedBundle, match=r"does not hold the state 'past_conv\.7'"):
        hybrid.restore(DecoderCache(2, 2, 8, POLICY))


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    status = main(["generate", *map(str, arguments)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


TEXT = ["--prompt", "w3 w14 w15 w9 w2 w6 w5", "--tokens", "6"]


def test_command_writes_text_to_output_and_figures_to_error(capsys, build, tmp_path) -> None:
    folder, target = build(), tmp_path / "figures.json"
    status, out, err = run(capsys, folder, *TEXT, "--policy", POLICY, "--json", target)
    bundle = Bundle.open(folder)
    expected = list(generate(DecoderRunner(bundle, POLICY), PROMPT, max_tokens=6))
    assert status == 0
    assert out == bundle.decode(expected) + "\n"
    assert "7 prompt tokens" in err
    assert "tokens/s" in err
    data = json.loads(target.read_text())
    assert data["tokens"] == expected
    assert data["policy"] == POLICY
    assert data["exact_bytes"] == data["cached_tokens"] * 2 * 2 * 16 * 2
    assert data["cache_bytes"] > 0


def test_saved_cache_is_loaded_and_changes_nothing(capsys, build, tmp_path) -> None:
    folder, saved, target = build(), tmp_path / "cache.safetensors", tmp_path / "figures.json"
    whole = run(capsys, folder, *TEXT, "--policy", POLICY, "--chunk", 1)[1]
    run(capsys, folder, *TEXT[:2], "--tokens", 0, "--policy", POLICY, "--save-cache", saved, "--chunk", 1)
    status, out, err = run(capsys, folder, *TEXT, "--load-cache", saved, "--json", target)
    assert (status, out) == (0, whole)
    assert "6 of them from the cache file" in err
    assert json.loads(target.read_text())["reused_tokens"] == 6


def test_loaded_cache_serves_the_common_beginning_only(capsys, build, tmp_path) -> None:
    folder, saved = build(), tmp_path / "cache.safetensors"
    run(capsys, folder, *TEXT, "--policy", "k=mse4,v=mse4", "--save-cache", saved, "--chunk", 1)
    other = ["--prompt", "w3 w14 w15 w31 w31", "--tokens", "5"]
    plain = run(capsys, folder, *other, "--policy", "k=mse4,v=mse4", "--chunk", 1)[1]
    status, out, err = run(capsys, folder, *other, "--load-cache", saved, "--chunk", 1)
    assert (status, out) == (0, plain)
    assert "3 of them from the cache file" in err


def test_stop_text_ends_the_answer(capsys, build) -> None:
    folder = build()
    whole = run(capsys, folder, *TEXT, "--quiet")[1].strip()
    stop = whole.split()[3]
    assert run(capsys, folder, *TEXT, "--quiet", "--stop", stop) == (0, whole[: whole.index(stop)] + "\n", "")


def test_cache_of_another_model_is_refused(capsys, build, tmp_path) -> None:
    saved = tmp_path / "cache.safetensors"
    run(capsys, build(), *TEXT, "--policy", POLICY, "--save-cache", saved)
    status, _, err = run(capsys, build(gain=1.5), *TEXT, "--load-cache", saved)
    assert status == 2
    assert "model" in err


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ([], "give one of --prompt and --prompt-file"),
        (["--prompt", "w1", "--prompt-file", "x"], "give one of --prompt and --prompt-file"),
        (["--prompt", ""], "the prompt is empty"),
        (["--prompt-file", "absent.txt"], "absent.txt: No such file"),
        (["--prompt", "w1", "--mode", "exact", "--policy", "safe"], "mode 'exact' packs nothing"),
        (["--prompt", "w1", "--temperature", "-1"], "temperature must lie in"),
        (["--prompt", "w1", "--save-cache", "absent/cache"], "lies in one that does not exist"),
        (["--prompt", "w1", "--load-cache", "absent"], "absent"),
        (["--prompt", "w1", "--policy", "k=mse9,v=mse4"], "mse9"),
    ],
)
def test_bad_input_is_one_line_and_status_2(capsys, build, arguments, match: str) -> None:
    status, out, err = run(capsys, build(), *arguments)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert match in err


def test_existing_file_is_not_overwritten_by_a_cache(capsys, build, tmp_path) -> None:
    saved = tmp_path / "cache"
    saved.write_text("mine")
    status, out, err = run(capsys, build(), *TEXT, "--policy", POLICY, "--save-cache", saved)
    assert (status, out) == (2, "")
    assert "exists already" in err
    assert saved.read_text() == "mine"


@pytest.mark.parametrize("mode", ["exact", "reconstruct"])
def test_tokens_without_end_take_no_memory_in_advance(capsys, build, mode: str) -> None:
    folder = build()
    config = json.loads((folder / "config.json").read_text())
    del config["max_position_embeddings"]
    (folder / "config.json").write_text(json.dumps(config))
    status, out, err = run(capsys, folder, "--prompt", "w1 w2", "--mode", mode, "--tokens", 10**12, "--stop", "w")
    assert (status, out) == (0, "\n"), err
