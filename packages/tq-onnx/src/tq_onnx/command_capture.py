"""`tq-onnx capture`."""

from pathlib import Path
from typing import Any

import click

from tq_core import InvalidSpec
from tq_onnx.delivery import read_text
from tq_onnx.progress import reporter

EXAMPLES = """\b
Examples:
  tq-onnx capture BUNDLE --text book.txt --output traces
  tq-onnx capture BUNDLE --text book.txt --layers 0,5 --heads 0 --tokens 1024 --windows 2 --output traces
  tq-trace inspect traces/layer005-head000.safetensors
"""


def numbers(ctx: click.Context, param: click.Parameter, value: str | None) -> list[int] | None:
    """Whole numbers with commas between them."""
    if value is None:
        return None
    parts = [part.strip() for part in value.split(",")]
    if not all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts):
        raise click.BadParameter(f"{value!r} is no list of whole numbers such as 0,3", ctx, param)
    return [int(part) for part in parts]


@click.command(epilog=EXAMPLES)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--text", type=click.Path(path_type=Path), help="UTF-8 text; default: validation.txt of the bundle.")
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Folder for the files; made if missing.")
@click.option("--layers", callback=numbers, help="Layers by the graph's numbers, such as 0,3. Default: all.")
@click.option("--heads", callback=numbers, help="Key/value heads, such as 0,1. Default: all.")
@click.option("--tokens", type=click.IntRange(2), help="Tokens of a window. Default: 448, or the model's context.")
@click.option("--windows", type=click.IntRange(1), default=8, show_default=True, help="Windows, evenly over the text.")
@click.option(
    "--queries", type=click.IntRange(1), default=64, show_default=True, help="Positions whose queries are kept."
)
@click.option("--benchmark", help="What the traces say was read. Default: name of the text file.")
@click.option("--overwrite", is_flag=True, help="Replace files that are there already.")
@click.option("--variant", default="", help="Picks model_VARIANT.onnx, such as q4 or fp16.")
@click.option("--threads", type=click.IntRange(0, 1024), default=0, help="Threads of the runtime; 0: its choice.")
@click.option("--quiet", is_flag=True, help="No progress.")
def capture(bundle: Path, text: Path | None, output: Path, overwrite: bool, quiet: bool, **options: Any) -> None:
    """Record keys, values and queries of attention heads, one KvTrace file for each layer and head.

    Keys and values are what the cache holds; queries are found in the graph after the rotation and proved by computing
    the graph's own attention with them. A graph in which they are not found is refused with the reason.
    """
    from tq_onnx.bundle import Bundle
    from tq_onnx.capturing import capture as record

    if output.exists() and not output.is_dir():
        raise click.BadParameter(f"{output} is no folder")
    variant, threads, benchmark = options.pop("variant"), options.pop("threads"), options.pop("benchmark")
    with reporter(enabled=not quiet) as progress:
        traces = record(
            Bundle.open(bundle, variant=variant, threads=threads),
            text=read_text(text, bundle),
            benchmark=benchmark or (text.name if text else "validation.txt"),
            progress=progress,
            **options,
        )
    names = [f"layer{trace.layer:03d}-head{trace.head or 0:03d}.safetensors" for trace in traces]
    taken = [name for name in names if (output / name).exists()]
    if taken and not overwrite:
        raise InvalidSpec(f"{output / taken[0]} exists already; say --overwrite, or name another folder")
    output.mkdir(parents=True, exist_ok=True)
    for name, trace in zip(names, traces, strict=True):
        trace.save(output / name, overwrite=overwrite)
    click.echo(f"{len(traces)} traces of {len(traces[0])} windows and {traces[0].tokens} tokens in {output}")
