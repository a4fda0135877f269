"""`tq-onnx evaluate`."""

from dataclasses import replace
from pathlib import Path

import click

from tq_onnx.delivery import check_writable, deliver, read_texts
from tq_onnx.progress import reporter
from tq_onnx.report import FORMATS
from tq_onnx.tasks import TASKS

EXAMPLES = """\b
Examples:
  tq-onnx evaluate fixtures/models/stdlib-llama
  tq-onnx evaluate BUNDLE --text book.txt --policy k=mse4,v=mse4 --policy balanced
  tq-onnx evaluate BUNDLE --text book.txt --seed 0 --seed 1 --seed 2 --json figures.json
  tq-onnx evaluate BUNDLE --text a.txt --text b.txt --free-tokens 64 --memory --mode fused
  tq-onnx evaluate BUNDLE --task needle --windows 32 --policy k=mse2,v=mse2 --policy k=mse4,v=mse4
  tq-onnx evaluate BUNDLE --format html --output report.html
  tq-onnx evaluate BUNDLE --variant q4 --text book.txt --format markdown --output table.md
"""


@click.command(epilog=EXAMPLES)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--text",
    "texts",
    type=click.Path(path_type=Path),
    multiple=True,
    help="UTF-8 text; repeatable. Default: validation.txt of the bundle.",
)
@click.option(
    "--task",
    type=click.Choice(TASKS),
    default="text",
    show_default=True,
    help="What is scored: the text, a stretch said twice, or a needle hidden in it.",
)
@click.option("--policy", "policies", multiple=True, help="What the cache stores; repeatable. Default: a survey.")
@click.option("--mode", type=click.Choice(["reconstruct", "fused"]), default="reconstruct", show_default=True)
@click.option("--tokens", type=click.IntRange(2), help="Tokens of a window. Default: 448, or the model's context.")
@click.option("--windows", type=click.IntRange(1), default=8, show_default=True, help="Windows, evenly over each text.")
@click.option("--batch", type=click.IntRange(1), default=8, show_default=True, help="Windows run together at most.")
@click.option(
    "--score-from", type=click.IntRange(1), help="First position scored. Default: 64, or a quarter of short windows."
)
@click.option(
    "--seed", "seeds", type=click.IntRange(0), multiple=True, help="Repeatable; rows are averaged. Default 0."
)
@click.option(
    "--free-tokens", type=click.IntRange(0), default=0, help="Tokens that each row also writes by itself, greedily."
)
@click.option("--memory", is_flag=True, help="Also measure each row's peak memory, in a process of its own (Linux).")
@click.option("--variant", default="", help="Picks model_VARIANT.onnx, such as q4 or fp16.")
@click.option("--threads", type=click.IntRange(0, 1024), default=0, help="Threads of the runtime; 0: its choice.")
@click.option("--backend", default="auto", show_default=True, help="Backend of tq-core that quantizes.")
@click.option("--format", "form", type=click.Choice(FORMATS), default="table", show_default=True)
@click.option("--output", type=click.Path(path_type=Path), help="File for the result instead of standard output.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Also write all figures to this file.")
@click.option("--quiet", is_flag=True, help="No progress.")
def evaluate(
    bundle: Path,
    texts: tuple[Path, ...],
    task: str,
    policies: tuple[str, ...],
    mode: str,
    tokens: int | None,
    windows: int,
    batch: int,
    score_from: int | None,
    free_tokens: int,
    memory: bool,
    seeds: tuple[int, ...],
    variant: str,
    threads: int,
    backend: str,
    form: str,
    output: Path | None,
    json_file: Path | None,
    quiet: bool,
) -> None:
    """Perplexity, KL, agreement and bytes of each policy on a text, decoded one token a step.

    BUNDLE is a folder with model.onnx, tokenizer.json and config.json.
    """
    from tq_onnx.bundle import Bundle
    from tq_onnx.evaluation import evaluate as measure

    check_writable(output, json_file, inputs=texts, bundle=bundle)
    with reporter(enabled=not quiet) as progress:
        report = measure(
            Bundle.open(bundle, variant=variant, threads=threads),
            policies or None,
            text=read_texts(texts, bundle),
            task=task,
            tokens=tokens,
            windows=windows,
            batch=batch,
            score_from=score_from,
            free_tokens=free_tokens,
            memory=memory,
            seeds=seeds or (0,),
            mode=mode,
            backend=backend,
            progress=progress,
        )
    command = click.get_current_context().find_root().obj or ""
    report = replace(report, command=command)
    deliver(report.render(form), report.to_json(), output, json_file)
