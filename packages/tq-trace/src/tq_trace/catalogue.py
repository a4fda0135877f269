"""Names to methods: `exact`, the baselines, the peers, and every cache policy."""

import re
from importlib.util import find_spec
from typing import Final

from tq_cache import CachePolicy
from tq_core import InvalidSpec
from tq_trace.kivi import Kivi
from tq_trace.methods import Method, Setting
from tq_trace.peers import FaissMethod
from tq_trace.policies import ExactMethod, PolicyMethod

# A survey: what this project advises, what the paper and the seed crate did, and fewer bits than are wise.
POLICIES: Final = ("safe", "balanced", "k=mse4,v=mse4", "k=prod4,v=mse4", "k=mse3,v=mse3", "k=mse2,v=mse2")
BASELINES: Final = ("k=int8,v=int8", "k=int4,v=int4", "kivi4", "kivi2")
PEERS: Final = ("faiss-sq8", "faiss-sq4", "faiss-rabitq4", "faiss-rabitq2")

_KIVI: Final = re.compile(r"kivi(2|4|8)")
_FAISS: Final = re.compile(r"faiss-(sq|rabitq)([1-9])")


def method_of(name: str | CachePolicy, setting: Setting) -> Method:
    """The method of a name: `exact`, `kivi4`, `faiss-rabitq4` ..., or a cache policy or preset.

    Raises InvalidPolicy for what is none of them, PolicyMismatch for a policy that the model cannot follow, and
    BackendUnavailable where a library is not installed.
    """
    text = str(name).strip()
    if text == "exact":
        return ExactMethod(setting)
    if match := _KIVI.fullmatch(text):
        return Kivi(int(match[1]))
    if match := _FAISS.fullmatch(text):
        return FaissMethod(match[1], int(match[2]))
    if text.startswith(("kivi", "faiss")):
        raise InvalidSpec(f"no baseline is called {text!r}; known: exact, kivi2, kivi4, kivi8, {', '.join(PEERS)}")
    kind = "baseline" if text in BASELINES else "policy"
    return PolicyMethod(text, setting, kind)


def yardsticks() -> tuple[str, ...]:
    """The baselines that a report shows unasked, with the peers that are installed."""
    return (*BASELINES, *(PEERS if find_spec("faiss") else ()))
