"""TurboQuantCache: a `Cache` of transformers on packed codes. Needs the extra `tq-cache[hf]`: torch and transformers.

Importing this package registers the attention implementation "turboquant" with transformers; nothing else of tq_cache
imports it.
"""

from tq_cache.hf.attention import IMPLEMENTATION
from tq_cache.hf.cache import TurboQuantCache

__all__ = ["IMPLEMENTATION", "TurboQuantCache"]
