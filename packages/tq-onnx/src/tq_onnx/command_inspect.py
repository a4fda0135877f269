"""`tq-onnx inspect`."""

import json
from pathlib import Path

import click

from tq_onnx.delivery import check_writable, deliver

EXAMPLES = """\b
Examples:
  tq-onnx inspect BUNDLE
  tq-onnx inspect BUNDLE --variant q4 --format json
"""


@click.command(epilog=EXAMPLES)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--variant", default="", help="Picks model_VARIANT.onnx, such as q4 or fp16.")
@click.option("--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True)
@click.option("--output", type=click.Path(path_type=Path), help="File for the result instead of standard output.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Also write all facts to this file.")
def inspect(bundle: Path, variant: str, form: str, output: Path | None, json_file: Path | None) -> None:
    """What a bundle is, which modes run it, and why others do not.

    BUNDLE is a folder as exporters and hubs write it. A bundle that no mode can run is refused with the tensor's name.
    """
    from tq_onnx.bundle import Bundle
    from tq_onnx.inspection import as_text, inspection

    check_writable(output, json_file, bundle=bundle)
    found = inspection(Bundle.open(bundle, variant=variant))
    data = json.dumps(found, indent=1) + "\n"
    deliver(as_text(found) if form == "table" else data, data, output, json_file)
