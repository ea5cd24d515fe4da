"""The progress bar of a run in the terminal. Separate from progress.py because only this needs rich."""

import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class ProgressBar:
    """A bar on stderr with throughput, loss, running AUC and time left; plain lines if stderr is no terminal."""

    def __init__(self, console: Console, main_figure: str):
        self.console, self.main_figure = console, main_figure
        self.text, self.exposures, self.began = "", 0, time.monotonic()
        columns = (
            TextColumn("[bold]training"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[speed]:,.0f} exposures/s  {task.fields[text]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self.progress = Progress(*columns, console=console, disable=not console.is_terminal, refresh_per_second=4)
        self.bar = self.progress.add_task("training", total=None, speed=0.0, text="")
        self.progress.start()

    def record(self, row: Mapping[str, Any]) -> None:
        """See Reporter."""
        main = row.get(self.main_figure)
        label = ("valid " if row["kind"] == "valid" else "") + self.main_figure.split("/")[0].upper()
        figures = [f"loss {row['loss']:.4f}"] if "loss" in row else []
        figures += [f"{label} {main:.4f}"] if main is not None else []
        if row["kind"] == "valid":
            self.console.print(f"step {row['step']:>6}  validation: " + "  ".join(figures), highlight=False)
        else:
            self.text = "  ".join(figures)
            if not self.console.is_terminal:
                self.console.print(f"step {row['step']:>6}  {self.text}  {self._speed():,.0f} exposures/s")

    def advance(self, step: int, num_steps: int, num_exposures: int) -> None:
        """See Reporter."""
        self.exposures += num_exposures
        self.progress.update(self.bar, completed=step, total=num_steps, speed=self._speed(), text=self.text)

    def _speed(self) -> float:
        return self.exposures / max(time.monotonic() - self.began, 1e-9)

    def close(self) -> None:
        """See Reporter."""
        self.progress.stop()
