"""Generation: a prompt in, tokens out as they are chosen, with the cache of a runner in whatever mode it has."""

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tq_core import InvalidSpec, ShapeMismatch
from tq_onnx.runner import CHUNK, DecoderRunner
from tq_onnx.sampling import Sampler

MAX_TOKENS: Final = 256


def generate(
    runner: DecoderRunner,
    prompt: str | Sequence[int],
    *,
    max_tokens: int = MAX_TOKENS,
    sampler: Sampler | None = None,
    end_tokens: Sequence[int] | None = None,
    chunk: int = CHUNK,
) -> Iterator[int]:
    """Yields the tokens that follow `prompt` (text, or token ids), one as soon as it is chosen; greedy by default.

    The prompt goes after whatever the runner, of batch 1, holds. Stops after `max_tokens`, before one of `end_tokens`
    (the bundle's own by default), which is not yielded, or where the model's context is full. The last token yielded is
    not in the cache yet; it is fed when the next one is asked for. Bad input is refused before anything is run.
    """
    ids = runner.bundle.encode_prompt(prompt) if isinstance(prompt, str) else list(prompt)
    if not ids:
        raise InvalidSpec("the prompt is empty: it has no token to go on from")
    rows = generate_batch(runner, [ids], max_tokens=max_tokens, sampler=sampler, end_tokens=end_tokens, chunk=chunk)
    return (token for (token,) in rows if token is not None)


def generate_batch(
    runner: DecoderRunner,
    prompts: Sequence[Sequence[int]],
    *,
    max_tokens: int = MAX_TOKENS,
    sampler: Sampler | None = None,
    end_tokens: Sequence[int] | None = None,
    chunk: int = CHUNK,
) -> Iterator[list[int | None]]:
    """As `generate`, for a prompt of token ids for each row of the runner's batch; None for rows that have ended.

    Prompts of different lengths are padded on the left, which not every graph can hide (`Bundle.no_padding`).
    """
    if isinstance(max_tokens, bool) or not isinstance(max_tokens, int) or max_tokens < 0:
        raise InvalidSpec(f"max_tokens must be a whole number of 0 or more, got {max_tokens!r}")
    if len(prompts) != runner.batch or not all(len(prompt) for prompt in prompts):
        raise ShapeMismatch(
            f"a batch of {runner.batch} takes that many prompts of at least one token, got {len(prompts)} with "
            f"{[len(prompt) for prompt in prompts]}"
        )
    ids, mask = left_padded(prompts)
    runner.check(ids, mask)
    ends = set(runner.bundle.end_tokens if end_tokens is None else end_tokens)
    return _generated(runner, ids, mask, max_tokens, sampler or Sampler(), ends, chunk)


def left_padded(prompts: Sequence[Sequence[int]]) -> tuple[NDArray[np.int64], NDArray[np.int64] | None]:
    """Ids (rows, longest) with zeros before shorter prompts, and the mask of what is no padding; None where none is."""
    longest = max(map(len, prompts))
    ids = np.zeros((len(prompts), longest), np.int64)
    mask = np.zeros((len(prompts), longest), np.int64)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = np.asarray(prompt)
        mask[row, longest - len(prompt) :] = 1
    return ids, None if mask.all() else mask


def _generated(
    runner: DecoderRunner,
    ids: NDArray[np.int64],
    mask: NDArray[np.int64] | None,
    max_tokens: int,
    sampler: Sampler,
    ends: set[int],
    chunk: int,
) -> Iterator[list[int | None]]:
    logits = runner.prefill(ids, mask, chunk=chunk)
    ended = np.zeros(runner.batch, bool)
    for count in range(max_tokens):
        chosen = sampler.pick(logits)
        ended |= np.isin(chosen, list(ends))
        if ended.all():
            return
        yield [None if over else int(token) for token, over in zip(chosen, ended, strict=True)]
        is_full = runner.bundle.context is not None and runner.tokens >= runner.bundle.context
        if count + 1 == max_tokens or is_full:
            return
        logits = runner.step(chosen[:, None], last_only=True)[:, -1]
