"""torch and numpy: tensors as arrays without a copy where both know the dtype, and back. The one importer of torch."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tq_cache.errors import MissingDependency, UnsupportedTensor

try:
    import torch
except ImportError as error:
    raise MissingDependency(
        f"tq_cache.hf needs torch and transformers, and torch is missing ({error}); install tq-cache[hf]"
    ) from error

__all__ = ["SHARED", "Tensor", "to_numpy", "to_torch", "torch"]

Tensor = torch.Tensor

# torch has dtypes that numpy lacks; bfloat16 widens to float32 without loss
SHARED: Final = (torch.float16, torch.float32, torch.float64)


def to_numpy(tensor: Any, name: str) -> NDArray[Any]:
    """The tensor's numbers: its own memory, or a float32 copy of bfloat16.

    No gradient follows. Raises UnsupportedTensor for a tensor on a GPU: copies between devices are the caller's.
    """
    if not isinstance(tensor, Tensor):
        raise UnsupportedTensor(f"{name} must be a torch tensor, got {type(tensor).__name__}")
    if tensor.device.type != "cpu":
        raise UnsupportedTensor(
            f"{name} is on {tensor.device}, but codes are made and read on the CPU; "
            "run the model there, e.g. model.to('cpu')"
        )
    found = tensor.detach()
    if found.dtype == torch.bfloat16:
        found = found.float()
    elif found.dtype.is_floating_point and found.dtype not in SHARED:
        raise UnsupportedTensor(f"{name} must be float16, bfloat16, float32 or float64, got {found.dtype}")
    array: NDArray[Any] = found.numpy()
    return array


def to_torch(array: NDArray[np.floating], like: Any) -> Any:
    """A tensor of the dtype of `like`, on the array's memory where that is its dtype already."""
    return torch.from_numpy(np.ascontiguousarray(array)).to(like.dtype)
