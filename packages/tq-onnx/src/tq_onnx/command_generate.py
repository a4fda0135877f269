"""`tq-onnx generate`."""

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from tq_core import InvalidSpec
from tq_onnx.delivery import check_writable, echo, read_utf8, write

if TYPE_CHECKING:
    from tq_onnx.bundle import Bundle
    from tq_onnx.runner import DecoderRunner

ROOM: Final = 1 << 15  # tokens that memory is taken for at once; it grows with what comes beyond

EXAMPLES = """\b
Examples:
  tq-onnx generate BUNDLE --prompt "def main(" --tokens 40
  tq-onnx generate BUNDLE --prompt-file question.txt --policy balanced --temperature 0.8 --top-p 0.95 --seed 1
  tq-onnx generate BUNDLE --prompt-file book.txt --policy safe --tokens 1 --save-cache book.safetensors
  tq-onnx generate BUNDLE --prompt-file book-and-question.txt --load-cache book.safetensors
"""


@click.command(epilog=EXAMPLES)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--prompt", help="Text to go on from.")
@click.option("--prompt-file", type=click.Path(path_type=Path), help="UTF-8 file with the text to go on from.")
@click.option("--tokens", type=click.IntRange(0), default=256, show_default=True, help="New tokens at most.")
@click.option("--policy", help="What the cache stores. Default: balanced, or what the loaded cache has.")
@click.option("--mode", type=click.Choice(["exact", "reconstruct", "fused"]), help="Default: reconstruct.")
@click.option("--temperature", type=float, default=0.0, show_default=True, help="0 is greedy.")
@click.option("--top-k", type=click.IntRange(0), default=0, help="Draw from that many likeliest tokens; 0: all.")
@click.option("--top-p", type=float, default=1.0, help="Draw from the fewest tokens that reach this probability.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of sampling and of the rotation.")
@click.option("--stop", "stops", multiple=True, help="Text that ends the answer; repeatable.")
@click.option("--chunk", type=click.IntRange(1), default=512, show_default=True, help="Prompt tokens run together.")
@click.option("--save-cache", type=click.Path(path_type=Path), help="Write the packed cache to this new file.")
@click.option("--load-cache", type=click.Path(path_type=Path), help="Start from the prompt's beginning in this file.")
@click.option("--variant", default="", help="Picks model_VARIANT.onnx, such as q4 or fp16.")
@click.option("--threads", type=click.IntRange(0, 1024), default=0, help="Threads of the runtime; 0: its choice.")
@click.option("--backend", default="auto", show_default=True, help="Backend of tq-core that quantizes.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Also write text and figures to this file.")
@click.option("--quiet", is_flag=True, help="No figures on standard error.")
def generate(bundle: Path, json_file: Path | None, quiet: bool, **options: Any) -> None:
    """Text that follows a prompt, written as it comes; figures about time and cache go to standard error."""
    from tq_onnx.bundle import Bundle

    read = (options["prompt_file"], options["load_cache"])
    check_writable(json_file, options["save_cache"], inputs=read, bundle=bundle)
    job = Job(options)
    job.run(Bundle.open(bundle, variant=options["variant"], threads=options["threads"]))
    if json_file is not None:
        write(json_file, json.dumps(job.figures, indent=1) + "\n")
    if not quiet:
        click.echo(job.summary(), err=True)


@dataclass
class Job:
    """One generation: its options, and the figures once it has run."""

    options: dict[str, Any]
    figures: dict[str, Any] = field(default_factory=dict)

    def run(self, bundle: "Bundle") -> None:
        """Write the text to standard output and fill `figures`."""
        from tq_onnx.generation import generate as tokens_of
        from tq_onnx.sampling import Sampler
        from tq_onnx.text_stream import TextStream

        options = self.options
        ids = self._prompt(bundle)
        names = ("temperature", "top_k", "top_p", "seed")
        sampler = Sampler(**{name: options[name] for name in names})
        fingerprint = bundle.fingerprint() if options["save_cache"] or options["load_cache"] else ""
        runner = self._runner(bundle, ids, fingerprint)
        reused = runner.tokens
        stream = TextStream(bundle.decode, options["stops"])
        produced: list[int] = []
        pieces: list[str] = []
        started = time.perf_counter()
        first = started
        source = tokens_of(runner, ids[reused:], max_tokens=options["tokens"], sampler=sampler, chunk=options["chunk"])
        for token in source:
            first = first if produced else time.perf_counter()
            produced.append(token)
            pieces.append(stream.push(token))
            echo(pieces[-1])
            if stream.stopped:
                break
        pieces.append(stream.flush())
        echo(pieces[-1] + "\n")
        ended = time.perf_counter()
        if options["save_cache"]:
            held = (ids + produced)[: runner.tokens]
            assert runner.cache is not None
            runner.cache.save(options["save_cache"], model=fingerprint, tokens=held)
        steps = len(produced) - 1
        self.figures = {
            "kind": "generation",
            "bundle": bundle.facts(),
            "mode": runner.mode,
            "policy": "" if runner.cache is None else str(runner.cache.policy),
            "prompt_tokens": len(ids),
            "reused_tokens": reused,
            "tokens": produced,
            "text": "".join(pieces),
            "prefill_seconds": first - started,
            "tokens_per_second": steps / (ended - first) if steps > 0 else None,
            "cached_tokens": runner.tokens,
            "cache_bytes": runner.cache_bytes,
            "exact_bytes": runner.exact_bytes("float16"),
        }

    def _prompt(self, bundle: "Bundle") -> list[int]:
        text, path = self.options["prompt"], self.options["prompt_file"]
        if (text is None) == (path is None):
            raise click.UsageError("give one of --prompt and --prompt-file")
        ids = bundle.encode_prompt(read_utf8(path) if text is None else text)
        if not ids:
            raise InvalidSpec("the prompt is empty: it has no token to go on from")
        return ids

    def _runner(self, bundle: "Bundle", ids: list[int], fingerprint: str) -> "DecoderRunner":
        """A runner, with as much of the prompt as the loaded cache has; the last token is always left to run."""
        from tq_cache import CachePolicy, DecoderCache
        from tq_onnx.runner import DEFAULT_POLICY, DecoderRunner

        options, layers = self.options, len(bundle.signature.layers)
        exact = options["mode"] == "exact"
        if exact and (options["save_cache"] or options["load_cache"] or options["policy"]):
            raise InvalidSpec("mode 'exact' packs nothing: it takes no --policy, --save-cache or --load-cache")
        if options["save_cache"] and options["save_cache"].exists():
            raise InvalidSpec(f"{options['save_cache']} exists already; name a new file")
        if (options["save_cache"] or options["load_cache"]) and bundle.signature.states:
            raise InvalidSpec(
                f"a saved cache does not hold the state {bundle.signature.states[0].past!r}, without which "
                f"{bundle.folder.name} cannot go on"
            )
        policy = None if options["policy"] is None else CachePolicy.parse(options["policy"]).resolve(layers)
        cache = None
        if options["load_cache"]:
            cache = DecoderCache.load_prefix(
                options["load_cache"], ids, model=fingerprint, policy=policy, backend=options["backend"]
            )
            if len(cache) == len(ids):
                cache.crop(len(ids) - 1)
            policy = cache.policy
        runner = DecoderRunner(
            bundle,
            None if exact else (policy or DEFAULT_POLICY),
            options["mode"],
            capacity=min(len(ids) + options["tokens"], bundle.context or ROOM, ROOM),
            seed=options["seed"],
            backend=options["backend"],
        )
        if cache is not None and len(cache):
            runner.restore(cache)
        return runner

    def summary(self) -> str:
        """The figures in one line."""
        found = self.figures
        speed = found["tokens_per_second"]
        reused = f", {found['reused_tokens']} of them from the cache file" if found["reused_tokens"] else ""
        return (
            f"{found['prompt_tokens']} prompt tokens{reused}, {len(found['tokens'])} new; first after "
            f"{found['prefill_seconds']:.2f} s, then {'-' if speed is None else f'{speed:.1f}'} tokens/s; cache of "
            f"{found['cached_tokens']} tokens: {found['cache_bytes']:,} bytes, {found['exact_bytes']:,} as float16 "
            f"({found['mode']}{', ' if found['policy'] else ''}{found['policy']})"
        )
