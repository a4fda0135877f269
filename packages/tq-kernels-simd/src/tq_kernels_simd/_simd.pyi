from typing import Any

from numpy.typing import NDArray

def levels() -> dict[str, str]: ...
def level() -> str: ...
def plan(buffer: bytes | bytearray, /) -> object: ...
def rotate(plan: object, x: NDArray[Any], out: NDArray[Any], inverse: int, threads: int, /) -> None: ...
def encode(
    plan: object,
    x: NDArray[Any],
    packed: NDArray[Any],
    scales: NDArray[Any],
    gammas: NDArray[Any] | None,
    threads: int,
    /,
) -> None: ...
def decode(plan: object, packed: NDArray[Any], scales: NDArray[Any], out: NDArray[Any], threads: int, /) -> None: ...
def scores(
    plan: object,
    packed: NDArray[Any],
    scales: NDArray[Any] | None,
    gammas: NDArray[Any] | None,
    rotated_queries: NDArray[Any],
    out: NDArray[Any],
    accuracy: int,
    threads: int,
    /,
) -> None: ...
def attend(
    key_plan: object,
    value_plan: object,
    key_packed: NDArray[Any],
    key_scales: NDArray[Any],
    value_packed: NDArray[Any],
    value_scales: NDArray[Any],
    queries: NDArray[Any],
    out: NDArray[Any],
    maxima: NDArray[Any],
    sums: NDArray[Any],
    limits: NDArray[Any] | None,
    mask: NDArray[Any] | None,
    scale: float,
    softcap: float,
    accuracy: int,
    threads: int,
    /,
) -> None: ...
def attend_workspace(
    key_plan: object,
    value_plan: object,
    lanes: int,
    groups: int,
    count: int,
    tokens: int,
    accuracy: int,
    threads: int,
    /,
) -> int: ...
def attend_exp(x: NDArray[Any], /) -> None: ...
def search(
    plan: object,
    packed: NDArray[Any],
    scales: NDArray[Any] | None,
    gammas: NDArray[Any] | None,
    rotated_queries: NDArray[Any],
    mask: NDArray[Any] | None,
    k: int,
    accuracy: int,
    out_scores: NDArray[Any],
    out_indices: NDArray[Any],
    threads: int,
    /,
) -> None: ...
def combine(
    plan: object,
    packed: NDArray[Any],
    scales: NDArray[Any],
    weights: NDArray[Any],
    is_sketch: int,
    out: NDArray[Any],
    threads: int,
    /,
) -> None: ...
def sketch(plan: object, residuals: NDArray[Any], out: NDArray[Any], threads: int, /) -> None: ...
def probe_fma(steps: int, /) -> float: ...
def probe_read(buffer: NDArray[Any] | bytes | bytearray, /) -> int: ...
