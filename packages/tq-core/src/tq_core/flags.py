"""What checks find in arrays of a device, looked at once: one wait for the device a call, however many checks it makes.

On the host nothing of this happens: a check looks at what it finds.
"""

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Final, TypeVar

import numpy as np

T = TypeVar("T")


class _Noted:
    """Whether any flag was set: a flag of the device, or None before the first."""

    flag: Any = None


_NOTED: Final[ContextVar[_Noted | None]] = ContextVar("noted", default=None)


def is_set(flag: Any) -> bool:
    """Whether a flag that was computed from arrays is set; of a device, and within `look_once`, False for now."""
    if isinstance(flag, np.bool_):
        return bool(flag)
    noted = _NOTED.get()
    if noted is None:
        return bool(flag)
    noted.flag = flag if noted.flag is None else noted.flag | flag
    return False


def look_once(work: Callable[[], T]) -> T:
    """`work()`, which changes nothing, with a single look at all flags that it meets on a device.

    It runs as if none were set. Where one is, what it made is thrown away, and it runs again and looks at each, so that
    its errors are those of the host. Within another `look_once` flags are looked at by that one.
    """
    if _NOTED.get() is not None:
        return work()
    noted = _Noted()
    before = _NOTED.set(noted)
    try:
        with np.errstate(all="ignore"):
            found = work()
    finally:
        _NOTED.reset(before)
    if noted.flag is None or not bool(noted.flag):
        return found
    del found  # a device may have no room for both
    return work()
