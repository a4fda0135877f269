"""What a replay found, as data; it goes to JSON and back, and two replays of the same give the same but for times."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tq_core import CorruptData
from tq_trace.errors import TraceAccess, TraceNotFound
from tq_trace.formats import visible

VERSION: Final = 1

NOTES: Final = (
    "KL is KL(exact || measured) of attention weights, in nats; it sees keys alone. Output error is the norm of the "
    "error of attention outputs over their norm, and has a part of the keys and a part of the values.",
    "Score errors are those of logits, in nats, after removing each query's mean error, which softmax does not see.",
    "Bytes: all that is held when all tokens are in: codes, norms, exact tokens, means, and tables once. A cache that "
    "grows token by token has up to a sixteenth of room to spare beside it.",
    "A trace measures attention, not text: nothing here is a result of a model's quality.",
)


@dataclass(frozen=True)
class Row:
    """One method: its figures over all queries, by layer and head, and along positions, and its bytes."""

    policy: str
    asked: str
    kind: str
    figures: Mapping[str, Any]
    ledger: Mapping[str, int]
    cache_bytes: int
    float16_bytes: int
    bits_per_value: float
    heads: Sequence[Mapping[str, Any]] = ()
    along: Sequence[Mapping[str, Any]] = ()

    @property
    def token_bytes(self) -> int:
        """`cache_bytes` without the tables, which are the same for any number of tokens, layers and heads."""
        return self.cache_bytes - self.ledger.get("tables", 0)

    @property
    def ratio(self) -> float:
        """Bytes of a float16 cache of the same tokens over `cache_bytes`."""
        return self.float16_bytes / self.cache_bytes

    def __getitem__(self, name: str) -> Any:
        return self.figures[name]

    def to_dict(self) -> dict[str, Any]:
        """Plain data; `from_dict` reads it."""
        return {
            "policy": self.policy,
            "asked": self.asked,
            "kind": self.kind,
            "bits_per_value": self.bits_per_value,
            "cache_bytes": self.cache_bytes,
            "float16_bytes": self.float16_bytes,
            "ratio": self.ratio,
            "figures": dict(self.figures),
            "ledger": dict(self.ledger),
            "heads": [dict(head) for head in self.heads],
            "along": [dict(stretch) for stretch in self.along],
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "Row":
        """The row of `to_dict`; KeyError or TypeError for what is none."""
        plain = {name: fields[name] for name in cls.__dataclass_fields__}
        numbers = ("cache_bytes", "float16_bytes", "bits_per_value")
        if not all(isinstance(plain[name], (int, float)) and plain[name] > 0 for name in numbers):
            raise TypeError(f"{', '.join(numbers)} are numbers above 0")
        if not all(isinstance(plain[name], str) for name in ("policy", "asked", "kind")):
            raise TypeError("policy, asked and kind are strings")
        if not all(isinstance(plain[name], dict) for name in ("figures", "ledger")):
            raise TypeError("figures and ledger are objects")
        if not all(value is None or isinstance(value, (int, float)) for value in plain["figures"].values()):
            raise TypeError("figures are numbers")
        return cls(**plain)


@dataclass(frozen=True)
class Report:
    """Rows of a replay and what is needed to run it again. `times` and `machine` are all that differs between runs."""

    trace: Mapping[str, Any]
    protocol: Mapping[str, Any]
    rows: Sequence[Row]
    versions: Mapping[str, str]
    times: Mapping[str, Any] = field(default_factory=dict)
    machine: Mapping[str, Any] = field(default_factory=dict)
    skipped: Sequence[str] = ()
    notes: Sequence[str] = NOTES

    def row(self, policy: str) -> Row:
        """The row of a policy, by its canonical string or as it was asked for; KeyError where there is none."""
        for row in self.rows:
            if policy in (row.policy, row.asked):
                return row
        raise KeyError(f"no row for {policy!r}; rows: {', '.join(row.policy for row in self.rows)}")

    def heading(self) -> str:
        """One sentence: what was replayed."""
        trace, protocol = self.trace, self.protocol
        source = f"{trace['kind']}: {visible(trace['model'])}, {visible(trace['benchmark'])}"
        size = f"{trace['layers']} layers, {trace['heads']} heads in all, {trace['tokens']:,} tokens"
        asked = f"head_dim {trace['head_dim']}; {protocol['queries']:,} queries, seed {protocol['seed']}"
        return f"{source}; {size}, {asked}"

    def to_dict(self) -> dict[str, Any]:
        """Plain data for strict JSON; everything outside `times` and `machine` is the same for the same replay."""
        return {
            "kind": "tq-trace replay",
            "version": VERSION,
            "trace": dict(self.trace),
            "protocol": dict(self.protocol),
            "versions": dict(self.versions),
            "notes": list(self.notes),
            "skipped": list(self.skipped),
            "rows": [row.to_dict() for row in self.rows],
            "times": dict(self.times),
            "machine": dict(self.machine),
        }

    def to_json(self) -> str:
        """Strict JSON, ending in a newline."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "Report":
        """The report of `to_dict`. Raises CorruptData."""
        try:
            if fields["kind"] != "tq-trace replay" or fields["version"] != VERSION:
                raise CorruptData(f"expected a tq-trace replay of version {VERSION}, got {fields['kind']!r:.60}")
            if not isinstance(fields["trace"], dict) or not isinstance(fields["trace"]["fingerprint"], str):
                raise TypeError("trace is an object with a fingerprint")
            return cls(
                fields["trace"],
                fields["protocol"],
                tuple(Row.from_dict(row) for row in fields["rows"]),
                fields["versions"],
                fields["times"],
                fields["machine"],
                tuple(fields["skipped"]),
                tuple(fields["notes"]),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise CorruptData(f"not a report of tq-trace replay: {error}") from error

    @classmethod
    def load(cls, path: "str | Path") -> "Report":
        """The report that `tq-trace replay --format json` wrote. Raises TraceNotFound, TraceAccess, CorruptData."""
        try:
            text = Path(path).read_text("utf-8")
        except FileNotFoundError as error:
            raise TraceNotFound(f"{path}: no such file") from error
        except (OSError, ValueError) as error:
            if isinstance(error, UnicodeDecodeError):
                raise CorruptData(f"{path}: not text: give what `tq-trace replay --format json` wrote") from error
            raise TraceAccess(f"{path}: cannot be read: {error}") from error
        try:
            return cls.from_dict(json.loads(text))
        except (ValueError, RecursionError) as error:
            message = str(error) if isinstance(error, CorruptData) else f"not JSON ({error})"
            raise CorruptData(f"{path}: {message}") from error
