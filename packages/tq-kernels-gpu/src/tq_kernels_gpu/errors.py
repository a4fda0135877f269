"""Errors of this package alone."""

from tq_core.errors import TurboQuantError


class CapacityExceeded(TurboQuantError, OverflowError):
    """More tokens than memory was reserved for."""


class NotUploaded(TurboQuantError, RuntimeError):
    """Tables that are not on the device yet are needed by what a graph captures."""
