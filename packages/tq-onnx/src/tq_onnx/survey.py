"""The rows of an evaluation that names none: what one compares first, as far as a model's dims allow it."""

from typing import Final

from tq_cache import DecoderCache
from tq_core import InvalidDimension
from tq_onnx.inputs import Signature

DEFAULT_POLICIES: Final = (
    "k=mse8,v=mse8",
    "k=mse8,v=mse4",
    "k=mse4,v=mse4",
    "k=mse3,v=mse3",
    "k=mse2,v=mse2",
    "k=trellis4,v=trellis4",
    "k=trellis3,v=trellis3",
    "k=trellis2,v=trellis2",
    "k=prod4,v=mse4",
    "balanced",
    "k=int8,v=int8",
    "k=int4,v=int4",
    "k=absmax8,v=absmax8",
    "k=absmax4,v=absmax4",
)


def survey(signature: Signature) -> tuple[list[str], dict[str, str]]:
    """Those of DEFAULT_POLICIES that heads of these dims can be stored in, and why the others cannot."""
    possible: list[str] = []
    left_out: dict[str, str] = {}
    first = signature.layers[0]
    for policy in DEFAULT_POLICIES:
        try:
            DecoderCache(len(signature.layers), first.kv_heads, first.key_dim, policy, value_dim=first.value_dim)
        except InvalidDimension as error:
            left_out[policy] = str(error)
        else:
            possible.append(policy)
    return possible, left_out
