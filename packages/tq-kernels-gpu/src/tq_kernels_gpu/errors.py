"""Errors of this package alone."""

from tq_core.errors import TurboQuantError


class CapacityExceeded(TurboQuantError, OverflowError):
    """More tokens than memory was reserved for."""
