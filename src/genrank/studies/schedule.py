"""Computes many cells: stored results are reused, the rest is computed one by one or in several processes.

A study that is stopped loses only the cells that were running. With a time budget, a cell is started only if it is
expected to end in time, judging by the cells before it.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from genrank.config import to_dict
from genrank.errors import InputError
from genrank.studies.cells import Cell, CellResult, read_cell, write_cell
from genrank.studies.running import compute
from genrank.studies.study_progress import StudyProgress

POLL_SECONDS = 0.2
BAD_INPUT = 2  # exit code of a worker


@dataclass(kw_only=True)
class Schedule:
    """How the cells of a study are computed. jobs: processes; 1: only this one. deadline: a time.monotonic()."""

    data: Path
    cells: Path
    jobs: int = 1
    deadline: float | None = None
    spent: dict[str, float] = field(default_factory=dict)  # seconds of the latest cell of each name

    @property
    def threads(self) -> int:
        """CPU threads of one cell."""
        return max((os.cpu_count() or 1) // self.jobs, 1)

    def run(self, cells: Sequence[tuple[str, Cell]], progress: StudyProgress) -> dict[str, CellResult]:
        """Results by the cells' identity, within the budget. cells: (name, cell), in order of importance."""
        results, missing = {}, {}
        for name, cell in cells:
            found = read_cell(self.cells, cell)
            if found is not None and not found.failed:  # a failure is tried again
                results[cell.identity] = found
            else:
                missing[cell.identity] = (name, cell)
        progress.known(len(results))
        results |= self._compute(missing, progress) if self.jobs == 1 else self._compute_in_jobs(missing, progress)
        return results

    def _compute(self, missing: Mapping[str, tuple[str, Cell]], progress: StudyProgress) -> dict[str, CellResult]:
        results = {}
        for identity, (name, cell) in missing.items():
            if not self._in_time(name):
                continue
            began = time.monotonic()
            with tempfile.TemporaryDirectory(prefix="genrank-study-") as workplace:
                results[identity] = compute(cell, self.data, Path(workplace) / "run", threads=self.threads)
            write_cell(self.cells, cell, results[identity])
            self._note(name, results[identity], time.monotonic() - began, progress)
        return results

    def _compute_in_jobs(
        self, missing: Mapping[str, tuple[str, Cell]], progress: StudyProgress
    ) -> dict[str, CellResult]:
        results: dict[str, CellResult] = {}
        waiting, running = list(missing.items()), dict[str, _Job]()
        try:
            while waiting or running:
                while waiting and len(running) < self.jobs:
                    identity, (name, cell) = waiting.pop(0)
                    if self._in_time(name):
                        running[identity] = _Job(name, cell, self)
                time.sleep(POLL_SECONDS)
                for identity in [identity for identity, job in running.items() if job.ended]:
                    job = running.pop(identity)
                    results[identity] = job.result()
                    self._note(job.name, results[identity], time.monotonic() - job.began, progress)
        finally:
            for job in running.values():
                job.stop()
        return results

    def _in_time(self, name: str) -> bool:
        if self.deadline is None:
            return True
        guess = self.spent.get(name, max(self.spent.values(), default=0.0))
        return time.monotonic() + guess < self.deadline

    def _note(self, name: str, result: CellResult, seconds: float, progress: StudyProgress) -> None:
        self.spent[name] = seconds
        progress.finished(name, seconds, result.error)


class _Job:
    """A cell that is computed in a separate process."""

    def __init__(self, name: str, cell: Cell, schedule: Schedule):
        self.name, self.cell, self.cells, self.began = name, cell, schedule.cells, time.monotonic()
        self.workplace = Path(tempfile.mkdtemp(prefix="genrank-study-"))
        order = {
            "cell": {"data": cell.data, "seed": cell.seed, "config": to_dict(cell.config), "yardstick": cell.classical},
            "data": str(schedule.data),
            "cells": str(schedule.cells),
            "threads": schedule.threads,
        }
        (self.workplace / "order.json").write_text(json.dumps(order), encoding="utf-8")
        with (self.workplace / "output").open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "genrank.studies.worker", str(self.workplace)],
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "OMP_NUM_THREADS": str(schedule.threads)},
                start_new_session=True,  # Ctrl-C reaches the study only, which then ends its workers
            )

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def result(self) -> CellResult:
        """What the worker wrote; a worker that died is a failed cell. InputError where the user can fix it."""
        output = (self.workplace / "output").read_text(encoding="utf-8", errors="replace").strip()
        shutil.rmtree(self.workplace, ignore_errors=True)
        if self.process.returncode == BAD_INPUT:
            raise InputError(output.splitlines()[-1])
        found = read_cell(self.cells, self.cell) if self.process.returncode == 0 else None
        if found is not None:
            return found
        last = output.splitlines()[-1] if output else "no output"
        failed = CellResult(figures={}, error=f"the worker ended with {self.process.returncode}: {last}")
        write_cell(self.cells, self.cell, failed)
        return failed

    def stop(self) -> None:
        """End the process and remove its unfinished files."""
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.workplace, ignore_errors=True)
