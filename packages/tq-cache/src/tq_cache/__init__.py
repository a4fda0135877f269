"""Quantized key/value caches that hold only packed codes, and account for every byte."""

from tq_cache.decoder_cache import DecoderCache
from tq_cache.errors import (
    InvalidPolicy,
    PolicyMismatch,
    SnapshotAccess,
    SnapshotExists,
    SnapshotMismatch,
    SnapshotNotFound,
)
from tq_cache.head_cache import QuantizedKVCache
from tq_cache.layer_cache import MultiHeadKVCache
from tq_cache.ledger import Ledger
from tq_cache.policy import CachePolicy
from tq_cache.presets import PRESETS
from tq_cache.stores import Store

__all__ = [
    "PRESETS",
    "CachePolicy",
    "DecoderCache",
    "InvalidPolicy",
    "Ledger",
    "MultiHeadKVCache",
    "PolicyMismatch",
    "QuantizedKVCache",
    "SnapshotAccess",
    "SnapshotExists",
    "SnapshotMismatch",
    "SnapshotNotFound",
    "Store",
]
