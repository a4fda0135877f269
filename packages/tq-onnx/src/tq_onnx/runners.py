"""Makes the runner of each row of an evaluation: exact, or a policy under a seed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tq_cache import CachePolicy
from tq_onnx.bundle import Bundle
from tq_onnx.peak_memory import Ids, peak_memory
from tq_onnx.runner import DecoderRunner


@dataclass(frozen=True)
class Runners:
    """All that the rows share; `policies` as resolved against the model, `capacity` tokens for each window."""

    bundle: Bundle
    policies: Sequence[CachePolicy]
    mode: str
    backend: str
    threads: int | None
    capacity: int = 0

    def exact(self, rows: int) -> DecoderRunner:
        """The reference for a batch of that many windows."""
        return DecoderRunner(self.bundle, batch=rows, capacity=self.capacity, threads=self.threads)

    def of(self, index: int, seed: int, rows: int) -> DecoderRunner:
        """A policy's."""
        options: dict[str, Any] = {"batch": rows, "capacity": self.capacity, "threads": self.threads}
        return DecoderRunner(self.bundle, self.policies[index], self.mode, seed=seed, backend=self.backend, **options)

    def peak_of_exact(self, ids: Ids) -> dict[str, int]:
        """Peak memory of the reference."""
        return peak_memory(self.bundle, ids, None, "exact", threads=self.threads)

    def peak_of(self, index: int, seed: int, ids: Ids) -> dict[str, int]:
        """Peak memory of a policy's decode."""
        policy = str(self.policies[index])
        return peak_memory(self.bundle, ids, policy, self.mode, seed=seed, threads=self.threads, backend=self.backend)
