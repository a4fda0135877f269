"""The commands that make, replay, advise, compare and benchmark; each loads what it needs when it runs."""

import os
from collections.abc import Callable, Sequence
from typing import Any, Final

import click

from tq_core import InvalidSpec
from tq_trace.console import output_option, put, quiet_option, require_writable, style_option
from tq_trace.errors import TraceExists
from tq_trace.progress import reporter
from tq_trace.workloads import WORKLOADS

seed_option = click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Random numbers.")
backend_option = click.option("--backend", default="auto", show_default=True, help="Backend of tq-core that computes.")
files_argument = click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path())


def run_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What every command takes that replays: what computes, and where the result goes."""
    for option in (quiet_option, output_option, style_option(), backend_option, seed_option):
        command = option(command)
    return command


MADE_BYTES: Final = 8_000_000_000  # beyond that a typing error is likelier than a wish


@click.command()
@click.option(
    "--model", type=click.Choice(list(WORKLOADS)), default="llama-3-8b", show_default=True, help="Whose shape it has."
)
@click.option("--layers", type=click.IntRange(1), help="Layers; default: as the model has.")
@click.option("--heads", "kv_heads", type=click.IntRange(1), help="Key/value heads; default: as the model has.")
@click.option("--tokens", type=click.IntRange(1), help="Tokens; default 1024.")
@click.option("--queries", "query_count", type=click.IntRange(1), help="Positions that are asked; default 64.")
@click.option("--samples", type=click.IntRange(1), help="Samples; default 1.")
@click.option("--knob", "knobs", multiple=True, metavar="NAME=VALUE", help="Any other knob; repeatable.")
@seed_option
@click.option("--output", metavar="FILE", required=True, type=click.Path(), help="The trace file to write.")
@click.option("--overwrite", is_flag=True, help="Replace a file that is there.")
@quiet_option
def synthetic(
    model: str, knobs: Sequence[str], seed: int, output: str, overwrite: bool, quiet: bool, **shape: int | None
) -> None:
    """Make a trace from a seed, in the shape of a model, with the trouble that real caches have.

    \b
    Knobs: norm_ratio, key_mean, outlier_channels, outlier_scale, rope,
    norm_tail, sinks, sink_logit, focus, logit_std, query_groups, head_dim,
    dtype. The models isotropic and isotropic-64 have none of it: the control.

    \b
    Examples:
      tq-trace synthetic --output llama.safetensors
      tq-trace synthetic --model qwen2.5-7b --layers 4 --output qwen.safetensors
      tq-trace synthetic --model isotropic --knob key_mean=6 --output mean.safetensors
    """
    from tq_trace.synthetic import synthetic as make

    chosen: dict[str, Any] = {name: value for name, value in shape.items() if value is not None}
    chosen |= dict(_knob(text) for text in knobs)
    workload = WORKLOADS[model].with_knobs(**chosen)
    if workload.nbytes > MADE_BYTES:
        raise InvalidSpec(f"keys and values would take {workload.nbytes:,} bytes; ask for fewer layers or tokens")
    require_writable(output, ())
    if os.path.lexists(output) and not overwrite:
        raise TraceExists(f"{output}: already exists; choose another name, or pass --overwrite")
    with reporter(quiet=quiet) as progress:
        traces = make(model, seed=seed, progress=progress, **chosen)
    traces.save(output, overwrite=overwrite)
    if not quiet:
        click.echo(f"{output}: {traces!r}", err=True)


def _knob(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise InvalidSpec(f"a knob reads NAME=VALUE, got {text!r}")
    for read in (int, float):
        try:
            return name.strip(), read(value)
        except ValueError:
            continue
    return name.strip(), value.strip()


@click.command()
@files_argument
@click.option("--policy", "policies", multiple=True, metavar="P", help="What to replay; repeatable. Default: a survey.")
@click.option("--baselines/--no-baselines", default=True, help="Integers, KIVI and faiss beside the policies.")
@click.option("--top-k", type=click.IntRange(1), default=5, show_default=True, help="For the agreement of top tokens.")
@click.option("--queries", type=click.IntRange(0), default=0, help="So many queries of each sample; 0: all.")
@click.option("--times/--no-times", default=True, help="Time the stages as well.")
@run_options
def replay(
    files: Sequence[str],
    policies: Sequence[str],
    baselines: bool,
    top_k: int,
    queries: int,
    times: bool,
    seed: int,
    backend: str,
    style: str,
    output: str | None,
    quiet: bool,
) -> None:
    """Replay policies on traces: errors, bytes and times, beside exact attention and baselines.

    The FILEs are traces of one model and benchmark, of one or many layers and
    heads. A policy is a string or preset of tq-cache, or one of exact, kivi2,
    kivi4, kivi8, faiss-sq4, faiss-sq8, faiss-rabitq1 ... faiss-rabitq8.

    \b
    Examples:
      tq-trace replay trace.safetensors
      tq-trace replay layer-*.safetensors --policy balanced --policy k=mse3,v=mse4
      tq-trace replay trace.safetensors --format html --output report.html
      tq-trace replay trace.safetensors --no-times --format json --output a.json
    """
    from tq_trace.catalogue import POLICIES
    from tq_trace.replay import replay as run
    from tq_trace.report_view import view
    from tq_trace.trace_set import TraceSet

    _ready(style, output, files)
    traces = TraceSet.open(*files)
    with reporter(quiet=quiet) as progress:
        report = run(
            traces,
            policies or POLICIES,
            baselines=None if baselines else (),
            top_k=top_k,
            queries=queries,
            seed=seed,
            backend=backend,
            times=times,
            progress=progress,
        )
    put(view(report), style, output)


@click.command()
@files_argument
@click.option("--budget-bytes", type=click.IntRange(1), help="All tokens of all heads in so many bytes, tables apart.")
@click.option("--budget-bits", type=float, help="The same as bits a cached number.")
@click.option("--max-kl", type=float, help="Mean KL of attention weights, in nats, at most.")
@click.option("--times/--no-times", default=True, help="Time the stages of the proof as well.")
@run_options
def advise(
    files: Sequence[str],
    budget_bytes: int | None,
    budget_bits: float | None,
    max_kl: float | None,
    times: bool,
    seed: int,
    backend: str,
    style: str,
    output: str | None,
    quiet: bool,
) -> None:
    """Search the best policy for traces, and prove it by replay.

    Within a budget: the least error of attention outputs. Within a KL: the
    fewest bytes. Give one of --budget-bytes, --budget-bits and --max-kl.

    Bytes that count are codes, norms, exact tokens and means. Tables, which
    are the same for one head and for a whole model, do not, nor does the room
    to spare of a cache that grows token by token; the result tells both sums.

    \b
    Examples:
      tq-trace advise trace.safetensors --budget-bits 4.5
      tq-trace advise trace.safetensors --max-kl 0.01 --format html --output advice.html
      tq-trace advise layer-*.safetensors --budget-bytes 40000000 --format json
    """
    from tq_trace.advise import advise as search
    from tq_trace.trace_set import TraceSet

    _ready(style, output, files)
    if sum(bound is not None for bound in (budget_bytes, budget_bits, max_kl)) != 1:
        raise InvalidSpec("give one of --budget-bytes, --budget-bits and --max-kl")
    traces = TraceSet.open(*files)
    if budget_bits is not None:
        if not 0 < budget_bits <= 64:
            raise InvalidSpec(f"--budget-bits lies above 0 and within 64, got {budget_bits:g}")
        numbers = sum(len(one) * one.tokens * (one.head_dim + one.value_dim) for one in traces)
        budget_bytes = int(budget_bits * numbers / 8)
    with reporter(quiet=quiet) as progress:
        advice = search(
            traces,
            budget_bytes=budget_bytes,
            max_kl=max_kl,
            seed=seed,
            backend=backend,
            times=times,
            progress=progress,
        )
    put(advice.view(), style, output)


@click.command()
@click.argument("before", type=click.Path())
@click.argument("after", type=click.Path())
@style_option()
@output_option
def compare(before: str, after: str, style: str, output: str | None) -> None:
    """What changed between two reports that `replay --format json` wrote.

    The first row is the control: exact attention, in which nothing may change.

    \b
    Examples:
      tq-trace compare before.json after.json
      tq-trace compare before.json after.json --format markdown --output changes.md
    """
    from tq_trace.compare import compare as run
    from tq_trace.report import Report

    _ready(style, output, (before, after), has_plots=False)
    put(run(Report.load(before), Report.load(after)).view(), style, output)


@click.command()
@click.option("--quick", "size", flag_value="quick", default="quick", help="dim 128; 2, 4 and 8 bits (the default).")
@click.option("--full", "size", flag_value="full", help="Six dims and all widths: minutes.")
@click.option("--backend", "backends", multiple=True, help="Repeatable; default: all that run here.")
@seed_option
@style_option()
@output_option
@quiet_option
def bench(size: str, backends: Sequence[str], seed: int, style: str, output: str | None, quiet: bool) -> None:
    """Speed and distortion of every quantizer on random vectors, distortion beside theory.

    \b
    Examples:
      tq-trace bench --quick
      tq-trace bench --full --backend simd --format markdown --output surface.md
    """
    from tq_trace import surface

    _ready(style, output, (), has_plots=False)
    with reporter(quiet=quiet) as progress:
        found = surface.bench(
            surface.FULL if size == "full" else surface.QUICK, backends=backends, seed=seed, progress=progress
        )
    put(found.view(), style, output)


def _ready(style: str, output: str | None, inputs: Sequence[str], *, has_plots: bool = True) -> None:
    """Refuse before the work what would fail after it: a page without its library, an output that cannot be."""
    if output is not None:
        require_writable(output, inputs)
    if style == "html" and has_plots:
        from tq_trace import plots  # noqa: F401  # MissingExtra where the plot library is not installed
