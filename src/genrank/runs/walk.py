"""Walking forward: learn a day, judge the model on the next one before learning it, and so on (prequential evaluation).

    walk/settings.json      what the walk is of
    walk/days/DATE/         the run that has learned until the end of DATE, and judged.json, its figures on the next day
    walk/walk.json          all figures by day, with their intervals
    walk/walk.svg           a chart of them

Each day begins from the run of the day before. Of the days' checkpoints only the newest are kept. A day that has its
judged.json isn't computed again, and a later `last` goes on where the walk ended.
"""

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from genrank.artifacts.bundle import load_bundle
from genrank.config import to_dict
from genrank.data.learned_days import Day, LearnedDays, date_of, day_after, day_begin
from genrank.data.manifest import Manifest
from genrank.data.pools import View
from genrank.data.timeline_files import load_buckets, num_buckets
from genrank.documents import read_json
from genrank.errors import BundleError, ConfigError, OutputError
from genrank.evaluation.page import require
from genrank.evaluation.walk_report import walk_chart
from genrank.finite_json import json_text
from genrank.folders import refuse_occupied, replace_text, writing
from genrank.runs.learner import learner_of
from genrank.runs.run_config import RunConfig
from genrank.runs.train import check_model, start_run, train
from genrank.runs.walk_figures import judged_figures
from genrank.runs.warm_start import following

REMEDY = "remove this day's folder, and walk again"


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step: the day that is learned, None in `since` where all before it are too, and the day that is judged."""

    since: str | None
    learned: str
    judged: str

    @property
    def days(self) -> LearnedDays:
        """What the step's run is configured to learn and judge."""
        return LearnedDays(first=self.since, until=day_after(self.learned), test=self.judged)


def walk(
    data: Path, config: RunConfig, out: Path, console: Console, *, first: Day = None, last: Day = None
) -> list[dict[str, Any]]:
    """Walk over the days from `first` to `last`, both learned; by day what was learned, judged and found.

    Writes walk.json and the chart walk.svg. Raises MissingExtraError if matplotlib is not installed.

    config: of every day; its `warm_start` is the first day's. Where it has none, the first day's run learns everything
    until the end of that day. first: None is the day at which the run of the warm start has stopped learning, else the
    log's first. last: None is the log's last but one. Raises ConfigError, DataError, BundleError, OutputError.
    """
    require(extra="report")
    manifest, begin = Manifest.open(data), config.warm_start.run
    check_model(data, config, manifest)
    if begin and first is None:
        first = load_bundle(Path(begin)).manifest.split.valid_start
    steps = steps_of(
        data, first=first, last=last, warm=bool(begin), view=learner_of(config.model).view(config, manifest.spec)
    )
    _claim(out, data, config, steps[0].learned)
    with writing(out):
        rows, before = [], None
        for step in steps:
            run = out / "days" / step.learned
            rows.append(_judged(run) or _step(data, config, step, run, before, console))
            if before is not None:
                shutil.rmtree(before / "checkpoints", ignore_errors=True)
            before = run
        replace_text(out / "walk.json", json_text({"days": rows}, indent=1))
        replace_text(out / "walk.svg", walk_chart(rows))
    return rows


def steps_of(
    data: Path, *, first: Day = None, last: Day = None, warm: bool = False, view: View | None = None
) -> list[Step]:
    """The steps over the days of the log that have exposures; ConfigError where there are none between the two.

    view: what the model sees of timelines, so that a retriever's days are those with positives.
    """
    manifest = Manifest.open(data)
    zone = manifest.spec.zone
    days = list(_days(data, manifest, view))
    begin, end = _date(first, zone) or days[0], _date(last, zone) or days[-1]
    learned = [(day, judged) for day, judged in pairwise(days) if begin <= day <= end]
    if not learned:
        raise ConfigError(
            f"{data}: no day from {begin} to {end} has exposures to learn from and a later day to judge on; the log "
            f"has {days[0]} to {days[-1]}"
        )
    since = [day if warm or number else None for number, (day, _) in enumerate(learned)]
    return [Step(since=s, learned=day, judged=judged) for s, (day, judged) in zip(since, learned, strict=True)]


def _step(
    data: Path, config: RunConfig, step: Step, run: Path, before: Path | None, console: Console
) -> dict[str, Any]:
    """Train and judge one day."""
    console.print(f"[bold]{step.learned}[/]", highlight=False)
    began = time.monotonic()
    goes_on = (run / "config.json").exists()
    if not goes_on:
        begun = config if before is None else following(config, before)
        start_run(data, replace(begun, days=step.days), run)
    train(run, console, resume=goes_on, displays=False)
    seconds = time.monotonic() - began
    row = {"learned": step.learned, "judged": step.judged, "training_seconds": round(seconds, 1)}
    row |= judged_figures(run, retrieves=config.model.retrieves)
    replace_text(run / "judged.json", json_text(row))
    return row


def _judged(run: Path) -> dict[str, Any] | None:
    """The row of a finished day."""
    path = run / "judged.json"
    if not path.exists():
        return None
    row: dict[str, Any] = read_json(path, error=BundleError, remedy=REMEDY)
    return row


def _claim(out: Path, data: Path, config: RunConfig, first: str) -> None:
    """Says in the folder what is walked. OutputError where it holds something else, or a walk of other settings."""
    path = out / "settings.json"
    values = json.loads(json.dumps({"data": str(data.resolve()), "first": first, "config": to_dict(config)}))
    if not path.exists():
        refuse_occupied(out)
        with writing(out):
            replace_text(path, json.dumps(values, indent=1) + "\n")
    elif read_json(path, error=BundleError, remedy="choose another folder") != values:
        raise OutputError(
            f"{out}: holds a walk over other data, from another day or with other settings; choose another"
        )


def _days(data: Path, manifest: Manifest, view: View | None) -> Iterator[str]:
    """The dates, by the clocks of the schema's zone, on which the log has exposures to learn from."""
    zone = manifest.spec.zone
    spec = replace(manifest.spec, features=(), feedback=(), statistics=(), tasks=manifest.spec.tasks if view else ())
    seconds = [np.zeros(0, np.int64)]
    for bucket in range(num_buckets(data)):
        t = load_buckets(data, [bucket], spec)
        t = t if view is None else view(t)
        assert t.request_time is not None  # they come from a file
        seconds.append(np.unique(t.request_time[t.target]))
    times = np.unique(np.concatenate(seconds))
    here = 0
    while here < len(times):
        day = date_of(int(times[here]), zone)
        yield day
        here = int(np.searchsorted(times, day_begin(day_after(day), zone)))


def _date(day: Day, zone: str) -> str | None:
    if day is None:
        return None
    return date_of(day, zone) if isinstance(day, int) else date.fromisoformat(day).isoformat()
