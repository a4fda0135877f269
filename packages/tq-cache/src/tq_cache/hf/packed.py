"""PackedStates: what stands for a layer's keys or values between the cache and the attention function.

A model hands whatever `update` returned to its attention function. A stand-in has the shape, dtype and device of the
tensor that it replaces and holds none of its numbers; the attention function finds the cache through it.
"""

from typing import Any, Final, Self

from tq_cache.errors import UnsupportedModel
from tq_cache.hf.tensors import Tensor, torch

_ABOUT: Final = ("shape", "dtype", "device", "ndim", "layout", "requires_grad", "is_cuda", "is_sparse")
_ALLOWED: Final = {getattr(Tensor, name).__get__ for name in _ABOUT} | {
    Tensor.size,
    Tensor.dim,
    Tensor.numel,
    Tensor.__len__,
    Tensor.is_floating_point,
}


class PackedStates(Tensor):  # type: ignore[misc] # torch is optional and untyped here
    """The keys or the values of one layer of `cache`, by reference: can be asked for its shape, and not for a number.

    Any computation with it raises UnsupportedModel: a model that does more with its cache than hand it to the
    attention function would otherwise go on with numbers that are not there.
    """

    cache: Any
    layer_idx: int

    @classmethod
    def of(cls, cache: Any, layer_idx: int, shape: tuple[int, ...], like: Any) -> Self:
        """A stand-in of that shape, in the dtype of `like`; takes no memory."""
        stand_in: Self = torch.zeros((), dtype=like.dtype).expand(shape).as_subclass(cls)
        stand_in.cache, stand_in.layer_idx = cache, layer_idx
        return stand_in

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in _ALLOWED:
            # no TypeError: torch takes one from an operator for "try the other operand"
            raise UnsupportedModel(
                f"{getattr(func, '__name__', func)} asks for numbers of packed keys or values, which only the "
                "attention implementation 'turboquant' can read; choose another one for this model, e.g. "
                "model.set_attn_implementation('sdpa'), and the cache returns floats"
            )
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    def __repr__(self) -> str:
        return f"PackedStates(layer_idx={self.layer_idx}, shape={tuple(self.shape)}, dtype={self.dtype})"
