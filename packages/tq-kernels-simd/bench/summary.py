"""The README's table, from the committed figures alone: `python packages/tq-kernels-simd/bench/summary.py`."""

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def read(name: str) -> Any:
    """The figures of one file in bench/results."""
    return json.loads((RESULTS / name).read_text("utf-8"))


def kernel_row(case: str, what: str) -> str:
    """One line of kernels.py."""
    (found,) = [row for row in read("avx2.json")["results"] if row["case"] == case]
    numpy = f"{found['numpy_ns'] / found['ns']:.0f}x" if "numpy_ns" in found else "-"
    return f"| {what} | {found['ns']:,.0f} ns a vector | {found['memcpy_ratio']:.1f} | {numpy} |"


def scan_row(dim: int, queries: int) -> str:
    """One line of scan.py at 4 bits."""
    rows = [row for row in read("scan-avx2.json")["rows"] if row.get("queries") == queries]
    (found,) = [row for row in rows if row["dim"] == dim and row["bits"] == 4]
    read_ratio = f"{found['scan_ns'] / found['read_floor_ns']:.1f}"
    what = f"int8 scores, d = {dim}, 4 bits, {queries} quer{'y' if queries == 1 else 'ies'}"
    return f"| {what} | {found['scan_ns']:.1f} ns a vector and query | {read_ratio} | {found['blas_per_scan']:.1f}x |"


def attention_row(heads: int, accuracy: str) -> str:
    """One line of attention.py at 32k tokens and 4 bits."""
    cells = [cell for cell in read("attention_avx2.json")["cells"] if cell["heads"] == heads]
    (found,) = [cell for cell in cells if (cell["tokens"], cell["dim"], cell["key_bits"]) == (32768, 128, 4)][:1]
    ns = found["ns"]
    what = f"attention, {accuracy}, {heads} query heads a key head, 32k tokens, K4V4"
    reads = f"{ns[accuracy] / ns['read_packed']:.1f}"
    return f"| {what} | {ns[accuracy]:.1f} ns a token and head | {reads} | {ns['numpy'] / ns[accuracy]:.1f}x |"


def search_row(library: str, queries: int) -> str:
    """One line of peers.py on isotropic vectors."""
    rows = [row for row in read("peers-avx2.json")["rows"] if row["data"] == "isotropic" and row["queries"] == queries]
    (found,) = [row for row in rows if row["library"] == library]
    cells = (f"{found['bytes_per_vector']:.0f}", f"{found['ns_per_row_and_query']:.1f}", f"{found['recall_at_10']:.2f}")
    return f"| {library} | {queries} | " + " | ".join(map(str, cells)) + " |"


def tables() -> str:
    """Both tables of the README."""
    lines = ["| AVX2, one thread | time | over memcpy or reading the codes | faster than numpy or BLAS |"]
    lines += ["| --- | --- | --- | --- |"]
    for dim in (128, 768, 1536):
        lines.append(kernel_row(f"encode d={dim} b=4 L3", f"encode, d = {dim}, 4 bits"))
        lines.append(kernel_row(f"decode d={dim} b=4 L3", f"decode, d = {dim}, 4 bits"))
    lines += [scan_row(dim, queries) for dim in (128, 1536) for queries in (1, 32)]
    lines += [attention_row(heads, accuracy) for heads in (4, 8) for accuracy in ("exact", "integer")]
    lines += [
        "",
        "| top 10 of 100,000, d = 768, 4 bits | queries | bytes a vector | ns a vector and query | recall@10 |",
    ]
    lines += ["| --- | --- | --- | --- | --- |"]
    libraries = ("tq auto", "turbovec", "faiss tqmse", "rabitq")
    lines += [search_row(library, queries) for queries in (1, 32) for library in libraries]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(tables(), end="")
