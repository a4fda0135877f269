"""Which backend runs each operation on this machine, and why."""

import os
from typing import Any, Final

from tq_core import registry
from tq_core.errors import BackendUnavailable

OPERATIONS: Final = (
    "rotate",
    "unrotate",
    "encode",
    "decode",
    "scores",
    "combine",
    "sketch",
    "unsketch",
    "sketch_scores",
)
OPTIONAL: Final = ("search", "attention")  # fused operations that a backend may have beside those


class Report(dict[str, Any]):
    """A plain dict that prints as a table."""

    def __str__(self) -> str:
        lines = [f"auto resolves to {self['auto']!r}: {self['why']}", ""]
        lines += [f"  {name:<8} {state}" for name, state in self["backends"].items()]
        lines += ["", *(f"  {operation:<14} {runs}" for operation, runs in self["operations"].items())]
        return "\n".join(lines)


def report() -> Report:
    """A dict: `auto` (name), `why`, `backends` (name -> 'ok' or reason), `operations` (operation -> who runs it).

    A backend may name a finer implementation per operation in an attribute `levels` (operation -> text).
    """
    state = registry.backends()
    try:
        chosen = registry.resolve("auto")
        name, why = chosen.name, _why(state)
        levels: dict[str, str] = getattr(chosen, "levels", {})
        offered = [*OPERATIONS, *(op for op in OPTIONAL if hasattr(chosen, op))]
        operations = {op: f"{name} {levels[op]}" if op in levels else name for op in offered}
    except BackendUnavailable as error:
        name, why, operations = "none", str(error), {}
    return Report(auto=name, why=why, backends=state, operations=operations)


def _why(state: dict[str, str]) -> str:
    forced = os.environ.get("TQ_BACKEND", "auto")
    if forced not in ("", "auto"):
        return f"TQ_BACKEND={forced} says so"
    if state.get("simd") == "ok":
        return "the simd kernels are installed and run here"
    return f"simd cannot run: {state['simd']}" if "simd" in state else "tq-kernels-simd is not installed"
