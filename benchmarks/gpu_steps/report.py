"""What a step has found so far: kept in OUT/<step>.json, which is written whole after every case, and printed.

A step that is cut off leaves what it had. `status`:

    running       it was cut off, or is still at it
    done          every case was run
    over budget   `not_run` names what was left out
    failed        `errors` holds the last lines of every traceback; cases without one are as good as any
    killed        its process ended or was ended: see `errors`
"""

import os
import time
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from gpu_steps.machine import as_json

Case = TypeVar("Case")
TRACEBACK_LINES = 12
SHOWN = 12  # characters of a column at least
LONGEST_LINE = 300  # characters of a fact in the terminal


class Report:
    """One step's."""

    def __init__(self, path: Path, machine: dict[str, Any], *, seconds: float):
        """seconds: the budget; no case is begun after it."""
        self.path, self.seconds, self.began = path, seconds, time.monotonic()
        self.content: dict[str, Any] = {
            "step": path.stem,
            "status": "running",
            "seconds": 0.0,
            "budget_seconds": seconds,
            "right": None,
            "machine": machine,
            "facts": {},
            "rows": [],
            "not_run": [],
            "errors": [],
        }
        self._columns: list[str] = []
        self.write()

    @property
    def left(self) -> float:
        """Seconds of the budget that are left, at least 0."""
        return max(self.seconds - (time.monotonic() - self.began), 0.0)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """All so far."""
        found: list[dict[str, Any]] = self.content["rows"]
        return found

    def row(self, **figures: Any) -> None:
        """A case's figures. `right`, where it is among them, must be true in every row."""
        self.rows.append(figures)
        if "right" in figures:
            self.content["right"] = self.content["right"] is not False and bool(figures["right"])
        self._show(figures)
        self.write()

    def fact(self, name: str, value: Any) -> None:
        """What holds for the whole step."""
        self.content["facts"][name] = value
        print(f"  {name}: {shown(value)}"[:LONGEST_LINE], flush=True)
        self.write()

    def cases(self, cases: Iterable[Case]) -> Iterator[Case]:
        """The cases, as long as the budget lasts; those that are left are named in `not_run`."""
        for case in cases:
            if self.left > 0:
                yield case
            else:
                self.skip(str(case))

    def skip(self, case: str) -> None:
        """A case that the budget leaves no time for."""
        self.content["not_run"].append(case)
        self.write()

    @contextmanager
    def case(self, name: str) -> Iterator[None]:
        """What goes wrong in the case is written down, and the step goes on."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - whatever a compiler or a driver raises
            self.error(name, last_lines(error))

    def error(self, case: str, lines: list[str]) -> None:
        """A case that failed."""
        self.content["errors"].append({"case": case, "traceback": lines})
        print(f"  {case} failed: {lines[-1] if lines else 'no message'}", flush=True)
        self.write()

    def end(self) -> None:
        """The step has ended by itself."""
        content = self.content
        content["status"] = "failed" if content["errors"] else "over budget" if content["not_run"] else "done"
        self.write()
        left_out = f", not run: {'; '.join(content['not_run'])}" if content["not_run"] else ""
        print(f"{self.path.stem}: {content['status']} in {content['seconds']:.0f} s{left_out}", flush=True)

    def write(self) -> None:
        """All of it, or what was there before."""
        self.content["seconds"] = round(time.monotonic() - self.began, 2)
        write_whole(self.path, as_json(self.content))

    def _show(self, figures: dict[str, Any]) -> None:
        """A line of a table, with a heading where the columns are others than before."""
        columns = [name for name, value in figures.items() if not isinstance(value, dict | list)]
        width = {name: max(len(name), SHOWN) for name in columns}
        if columns != self._columns:
            self._columns = columns
            print("  " + "  ".join(name.rjust(width[name]) for name in columns), flush=True)
        print("  " + "  ".join(shown(figures[name]).rjust(width[name]) for name in columns), flush=True)


def last_lines(error: BaseException) -> list[str]:
    """The end of the traceback."""
    return "".join(traceback.format_exception(error)).strip().splitlines()[-TRACEBACK_LINES:]


def shown(value: Any) -> str:
    """A figure for the terminal."""
    return f"{value:.4g}" if isinstance(value, float) else "-" if value is None else str(value)


def write_whole(path: Path, text: str) -> None:
    """Atomically: a reader sees the file before or after, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_text(text + "\n", encoding="utf-8")
    os.replace(part, path)
