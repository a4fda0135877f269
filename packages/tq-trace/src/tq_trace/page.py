"""A document as one HTML page that needs nothing else: no script, no address, plots inside."""

from html import escape
from typing import Final

from tq_trace.document import Document, Sheet
from tq_trace.formats import visible

STYLE: Final = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #1f2933; background: #f5f7fa; margin: 0; }
main { max-width: 1240px; margin: 0 auto; padding: 24px 20px 48px; }
h1 { font-size: 24px; margin: 0 0 2px; }
h2 { font-size: 17px; margin: 30px 0 8px; }
p.heading { margin: 0 0 18px; color: #52606d; }
figure, .sheet { background: #fff; border: 1px solid #e4e7eb; border-radius: 8px; padding: 14px; margin: 0 0 18px; }
.sheet { overflow-x: auto; padding: 0; }
figcaption { font-weight: 600; margin-bottom: 8px; }
figure svg { width: 100%; height: auto; }
table { border-collapse: collapse; font-size: 12.5px; font-variant-numeric: tabular-nums; width: 100%; }
th, td { padding: 5px 7px; text-align: right; white-space: nowrap; border-bottom: 1px solid #eceff2; }
th { background: #f0f4f8; font-weight: 600; }
td.text, th.text { text-align: left; }
td.policy { font-family: ui-monospace, monospace; font-size: 12px; }
td.kind::before { content: ""; display: inline-block; width: 8px; height: 8px; margin-right: 6px; background: #555; }
td.kind.of-policy::before { background: #1b6ca8; border-radius: 50%; }
td.kind.of-baseline::before { background: #c8553d; }
td.kind.of-peer::before { background: #6a4c93; }
tbody tr:hover { background: #fafcff; }
ul { padding-left: 20px; color: #52606d; }
""".strip()


POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"  # heat maps are images inside the page


def to_page(document: Document) -> str:
    """The page as text, UTF-8."""
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
        f"<title>{_text(document.title)}</title>",
        f"<style>{STYLE}</style></head><body><main>",
        f"<h1>{_text(document.title)}</h1>",
        *(f'<p class="heading">{_text(line)}</p>' for line in document.heading.splitlines()),
        _table(document.sheets[0]),
    ]
    parts += [f"<figure><figcaption>{_text(plot.caption)}</figcaption>{plot.svg}</figure>" for plot in document.plots()]
    parts += [_table(sheet) for sheet in document.sheets[1:]]
    parts += ["<h2>How to read this</h2><ul>", *(f"<li>{_text(note)}</li>" for note in document.notes), "</ul>"]
    return "\n".join([*parts, "</main></body></html>"]) + "\n"


def _table(sheet: Sheet) -> str:
    lines = [f"<h2>{_text(sheet.title)}</h2>"] if sheet.title else []
    titles = "".join(f"<th{_kind(column.is_text)}>{_text(column.title)}</th>" for column in sheet.columns)
    lines += [f'<div class="sheet"><table><thead><tr>{titles}</tr></thead><tbody>']
    for cells in sheet.cells():
        row = ""
        for column, cell in zip(sheet.columns, cells, strict=True):
            names = ["text"] * column.is_text + [column.key] * (column.key in ("policy", "kind"))
            names += [f"of-{cell}"] * (column.key == "kind" and cell.isalpha())
            row += f"<td{_classes(names)}>{_text(cell)}</td>"
        lines.append(f"<tr>{row}</tr>")
    return "\n".join([*lines, "</tbody></table></div>"])


def _kind(is_text: bool) -> str:
    return _classes(["text"] if is_text else [])


def _classes(names: list[str]) -> str:
    return f' class="{" ".join(names)}"' if names else ""


def _text(text: str) -> str:
    return escape(visible(text))
