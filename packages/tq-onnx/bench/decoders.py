"""Every way to decode the fixture that the bench compares, brought to the same tokens over the same cache."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from grouped import GroupedDecoder, Held, channel_scales
from numpy.typing import NDArray

from tq_cache import DecoderCache
from tq_onnx import Bundle, DecoderRunner
from tq_onnx.runner import CHUNK

Ids = NDArray[np.int64]
F32 = NDArray[np.float32]


class Decoder(NamedTuple):
    """`step` takes a token id and gives logits (vocabulary,), valid until the next step."""

    step: Callable[[int], F32]
    cache_bytes: Callable[[], int]  # of the tokens so far
    held_bytes: Callable[[], int]  # all that is allocated for it, floats that the runtime reads and writes included


def long_bundle(source: Path, folder: Path, context: int) -> Bundle:
    """The bundle under a config that allows `context` positions: its graph computes any, its training saw fewer."""
    copy = Path(shutil.copytree(source, folder / "bundle"))
    config = json.loads((copy / "config.json").read_text("utf-8"))
    config["max_position_embeddings"] = context
    (copy / "config.json").write_text(json.dumps(config), "utf-8")
    return Bundle.open(copy, threads=1)


def held_after(bundle: Bundle, ids: Ids) -> Held:
    """Keys and values that the exported graph makes of the tokens, run in the chunks of a prefill."""
    signature = bundle.signature
    sides = [name for layer in signature.layers for name in (layer.past_key, layer.past_value)]
    presents = [name for layer in signature.layers for name in (layer.present_key, layer.present_value)]
    held = [np.zeros((1, signature.kv_heads, 0, signature.key_dim), np.float32)] * len(sides)
    for start in range(0, len(ids), CHUNK):
        part = ids[None, start : start + CHUNK]
        stop = start + part.shape[1]
        feeds = dict(zip(sides, held, strict=True)) | {
            signature.ids_name: part,
            "attention_mask": np.ones((1, stop), np.int64),
            "position_ids": np.arange(start, stop)[None],
        }
        held = bundle.session().run(presents, feeds)
    return [(keys[0], values[0]) for keys, values in zip(held[::2], held[1::2], strict=True)]


def packed_runner(bundle: Bundle, policy: str, mode: str, held: Held, room: int) -> DecoderRunner:
    """A runner whose cache holds the codes of those keys and values, with room for `room` tokens."""
    runner = DecoderRunner(bundle, policy, mode, capacity=room)
    if runner.cache is None:
        raise ValueError(f"mode {mode} has no packed cache")
    resolved = runner.cache.policy
    capacity = max(0, room - resolved.sinks - resolved.window)
    cache = DecoderCache(len(held), *held[0][0].shape[::2], resolved, capacity=capacity)
    cache.append_layers([(keys[None], values[None]) for keys, values in held])
    runner.restore(cache)
    return runner


def decoders_at(
    bundle: Bundle, ids: Ids, policies: Sequence[str], kinds: Sequence[str], room: int, folder: Path
) -> dict[str, Decoder]:
    """All decoders with the tokens `ids` behind them, by name; each has room for `room` tokens.

    The scales of integer caches are those of the very cache they are for, which flatters them: in use they are made
    beforehand, of other text.
    """
    held = held_after(bundle, ids)
    exact = DecoderRunner(bundle, mode="exact", capacity=room)
    exact.prefill(ids[None])
    found = {"exact": _of_runner(exact)}
    for policy in policies:
        for mode in ("fused", "reconstruct"):
            found[f"{mode} {policy}"] = _of_runner(packed_runner(bundle, policy, mode, held, room))
    for kind in kinds:
        grouped = GroupedDecoder(bundle, kind, channel_scales(held, kind), held, room, folder)
        found[f"GroupQueryAttention {kind}"] = of_grouped(grouped)
    return found


def _of_runner(runner: DecoderRunner) -> Decoder:
    def step(token: int) -> F32:
        logits: F32 = runner.step(np.array([[token]]))[0, 0]
        return logits

    def held_bytes() -> int:
        return runner.float_bytes + (0 if runner.cache is None else runner.cache_bytes)

    return Decoder(step, lambda: runner.cache_bytes, held_bytes)


def of_grouped(grouped: GroupedDecoder) -> Decoder:
    """As a decoder of the bench."""
    held = sum(buffer.nbytes for buffer in grouped.buffers)
    return Decoder(grouped.step, lambda: grouped.cache_bytes, lambda: held)
