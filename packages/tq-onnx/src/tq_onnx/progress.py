"""Progress on standard error: a bar on a terminal, a line for each finished run elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


@contextmanager
def reporter(*, enabled: bool = True) -> Iterator[Callable[[int, int, str], None]]:
    """A callback for (done, total, label). Prints nothing where disabled."""
    console = Console(stderr=True)
    if not enabled:
        yield lambda done, total, label: None
    elif console.is_terminal:
        bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        with bar:
            task = bar.add_task("starting", total=None)
            yield lambda done, total, label: bar.update(task, completed=done, total=total, description=label)
    else:
        yield _lines(console)


def _lines(console: Console) -> Callable[[int, int, str], None]:
    """A callback that prints a line whenever the label changes, and at the end."""
    started = time.perf_counter()
    last = ""

    def report(done: int, total: int, label: str) -> None:
        nonlocal last
        if label != last:
            last = label
            percent = 100 * done // total
            elapsed = time.perf_counter() - started
            console.print(f"{percent:3d} % {elapsed:6.1f} s  {label}", highlight=False, markup=False, soft_wrap=True)

    return report
