"""What a study shows while it runs: cells done, what is running, and about how long is left."""

import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


class StudyProgress:
    """A bar on a terminal, a line per cell elsewhere."""

    def __init__(self, console: Console, title: str, total: int, *, clock: Callable[[], float] = time.monotonic):
        self.console, self.clock, self.total, self.done = console, clock, total, 0
        self.began, self.computed = clock(), 0
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.task = self.bar.add_task(title, total=total, left="")

    def __enter__(self) -> "StudyProgress":
        self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.stop()

    def known(self, count: int) -> None:
        """`count` cells need no computing: they are stored already, or turned out not to be needed."""
        self.done += count
        self.bar.update(self.task, completed=self.done)

    def finished(self, name: str, seconds: float, error: str) -> None:
        """One cell has been computed in `seconds`."""
        self.done += 1
        self.computed += 1
        left = (self.clock() - self.began) / self.computed * (self.total - self.done)
        about = f"about {_duration(left)} left" if self.done < self.total else ""
        self.bar.update(self.task, completed=self.done, left=about)
        outcome = f"failed: {error}" if error else f"{seconds:.0f} s"
        line = f"[{self.done}/{self.total}] {name}: {outcome}" + (f"; {about}" if about else "")
        if error or not self.console.is_terminal:
            self.console.print(line, highlight=False, markup=False, soft_wrap=True)


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
