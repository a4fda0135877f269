"""What a bundle is and which modes run it, as data and as text."""

from typing import Any, Final

from tq_onnx.bundle import Bundle
from tq_onnx.errors import UnsupportedBundle, visible
from tq_onnx.packed import refuse_mixed_forms
from tq_onnx.surgery import CannotCut

# Operators that compute attention as one node; graphs without any spell it out with MatMul and Softmax.
ATTENTIONS: Final = ("GroupQueryAttention", "MultiHeadAttention", "Attention", "PagedAttention")
DYNAMIC: Final = ("DynamicQuantizeLinear", "DynamicQuantizeMatMul", "MatMulIntegerToFloat")


def inspection(bundle: Bundle) -> dict[str, Any]:
    """Facts of the graph, its cache, and for each mode whether it works and why not; plain data for JSON."""
    signature = bundle.signature
    return {
        **bundle.facts(),
        "external_files": [path.relative_to(bundle.folder).as_posix() for path in bundle.external_files],
        "attention": next((name for name in ATTENTIONS if bundle.file.has(name)), "MatMul and Softmax"),
        "layer_numbers": [layer.number for layer in signature.layers],
        "caches": [
            {"layer": layer.number, "kv_heads": layer.kv_heads, "key_dim": layer.key_dim, "value_dim": layer.value_dim}
            for layer in signature.layers
        ],
        "carried_states": [
            {"input": state.past, "shape": list(state.shape), "dtype": state.dtype} for state in signature.states
        ],
        "bytes_per_token": {
            dtype: signature.values_per_token * size for dtype, size in (("float16", 2), ("float32", 4))
        },
        "fixed_batch": signature.fixed_batch,
        "start_token": bundle.start_token,
        "end_tokens": list(bundle.end_tokens),
        "first_position": bundle.first_position,
        "dims_from_config": list(signature.guessed),
        "modes": modes(bundle),
        "notes": list(_notes(bundle)),
    }


def modes(bundle: Bundle) -> list[dict[str, Any]]:
    """Every mode of DecoderRunner with whether this bundle runs in it, and why not."""
    try:
        refuse_mixed_forms(bundle.signature)
        mixed = ""
    except UnsupportedBundle as error:
        mixed = str(error)
    reasons = {"exact": "", "reconstruct": mixed, "fused": mixed or _why_not_fused(bundle)}
    return [{"mode": mode, "works": not reason, "why_not": reason} for mode, reason in reasons.items()]


def _why_not_fused(bundle: Bundle) -> str:
    """What is in the way of cutting the graph at its attentions; cuts and probes it to know."""
    try:
        bundle.fused()
    except CannotCut as error:
        return str(error)
    return ""


def _notes(bundle: Bundle) -> list[str]:
    notes = []
    if bundle.no_padding:
        notes.append(f"rows of a batch must be of one length: {bundle.no_padding}")
    if bundle.signature.states:
        notes.append("states of fixed size are carried from step to step as they are; nothing compresses them")
    if bundle.file.has(*DYNAMIC):
        notes.append("activations are quantized per call: logits depend on how tokens are cut into steps")
    if bundle.signature.guessed:
        notes.append("the graph leaves dims of the cache open; those of the config were proved by running one step")
    if bundle.first_position:
        notes.append("positions count from 1, as exports of this family do")
    return notes


def as_text(found: dict[str, Any]) -> str:
    """The inspection for a terminal."""
    forms = sorted({(one["kv_heads"], one["key_dim"], one["value_dim"]) for one in found["caches"]})
    shown = ", ".join(f"{heads} heads, keys of {key}, values of {value}" for heads, key, value in forms)
    numbers = found["layer_numbers"]
    holes = "" if numbers == list(range(len(numbers))) else f" (numbers {', '.join(map(str, numbers))})"
    weights = f", weights in {', '.join(found['external_files'])}" if found["external_files"] else ""
    lines = [
        ("bundle", found["name"]),
        ("graph", f"{found['file']}, {found['file_bytes']:,} bytes in all{weights}"),
        ("attention", found["attention"]),
        ("cache", f"{len(numbers)} layers{holes}: {shown}; {found['cache_dtype']}"),
        ("a token", f"{found['bytes_per_token']['float16']:,} bytes as float16"),
        *(
            ("state", f"{one['input']} {one['shape']} {one['dtype']}, carried as it is")
            for one in found["carried_states"]
        ),
        ("logits", f"{found['logits_dtype']}, vocabulary {found['vocabulary'] or 'open'}"),
        ("context", f"{found['context'] or 'not said'}"),
        ("takes", ", ".join(["input_ids", *found["optional_inputs"]])),
        *((f"mode {one['mode']}", "works" if one["works"] else one["why_not"]) for one in found["modes"]),
        *(("note", note) for note in found["notes"]),
    ]
    return "".join(f"{name:<17} {visible(text)}\n" for name, text in lines)
