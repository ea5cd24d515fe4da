"""Which days of a prepared folder are learned from and judged on, chosen at training without preparing again.

    history only   │ training     │ validation    │ test          │ not used
                 first          until           test      the day after test

Without `test`, the day on which learning ends is judged; without `until`, learning ends where the test day begins; so
there is a validation part only where days lie between the two. What is known of the values (vocabulary sizes) is what
had been admitted when learning ends; boundaries, base rates and quantiles stay those that `prepare` has fitted.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from genrank.data.manifest import Manifest, PartCounts, SplitTimes
from genrank.data.timeline_files import load_timelines
from genrank.data.timelines import Timelines
from genrank.data.vocabulary_files import StoredVocabulary, vocabulary_path
from genrank.errors import ConfigError, shown
from genrank.schema import DataSpec, TaskSpec

Day = (
    str | int | None
)  # a date as in 2024-05-01, in the schema's zone, or seconds since the epoch, from which it counts
DAY = 86_400  # seconds
LAST = 2**40  # seconds since the epoch: far beyond every log


@dataclass(frozen=True, kw_only=True)
class LearnedDays:
    """The days to learn from and to judge on; all None: the parts as prepared. ValueError for what is no day."""

    first: Day = None  # what lies before is history only
    until: Day = None  # where learning ends: this day is not learned
    test: Day = None  # the one day that is judged

    def __post_init__(self) -> None:
        for name in ("first", "until", "test"):
            _check_day(name, getattr(self, name))

    @classmethod
    def of(cls, *, days: str = "", until: Day = None, test: Day = None) -> "LearnedDays":
        """From what a command says: `days` is A..B, both of them learned, and excludes `until`. ConfigError."""
        if not days:
            return _checked(first=None, until=until, test=test)
        if until is not None:
            raise ConfigError("days and until both say where learning ends; give one of them")
        first, separator, last = days.partition("..")
        if not separator:
            raise ConfigError(f"days: expected A..B, as in 2024-05-01..2024-05-07, found {shown(days)}")
        end = _checked(first=first, until=last, test=test).until
        return _checked(first=first, until=None if end is None else day_after(end), test=test)

    def __bool__(self) -> bool:
        return (self.first, self.until, self.test) != (None, None, None)

    def split(self, prepared: SplitTimes, zone: str) -> SplitTimes:
        """Where the parts begin and end. ConfigError for days outside the log or in no order."""
        first, until, test = (None if day is None else day_begin(day, zone) for day in self._days())
        if until is None and test is None:
            until, test, end = prepared.valid_start, prepared.test_start, prepared.test_end
        else:
            until = test if until is None else until
            test = until if test is None else test
            assert until is not None
            assert test is not None
            end = day_end(self.test if self.test is not None else until, zone)
        chosen = replace(prepared, train_start=first, valid_start=until, test_start=test, test_end=end)
        self._check_order(chosen, prepared, zone)
        return chosen

    def _check_order(self, chosen: SplitTimes, log: SplitTimes, zone: str) -> None:
        """ConfigError for days outside the log, or in another order than first < until <= test."""
        first, until, test = chosen.train_start, chosen.valid_start, chosen.test_start
        end_of_log = day_end(log.last_time, zone)
        spans = f"{date_of(log.first_time, zone)} to {date_of(log.last_time, zone)}"
        judged = "until" if self.test is None else "test"
        for name, time in (("first", first), (judged, test), ("until", until)):
            learns_all = name != "first" and until == test == end_of_log  # nothing is left to judge on
            if time is not None and (
                day_end(time, zone) <= log.first_time or (time > log.last_time and not learns_all)
            ):
                raise ConfigError(f"{name}: {date_of(time, zone)} lies outside the log, {spans}; choose a day of it")
        if until <= log.first_time:
            raise ConfigError(
                f"until: no exposure of the log, {spans}, is before {date_of(until, zone)}, so nothing can be "
                "learned; choose a later day"
            )
        if until > test:
            raise ConfigError(
                f"until: {date_of(until, zone)} is after test, {date_of(test, zone)}, which would be learned; choose a "
                "later test or an earlier until"
            )
        if first is not None and first >= until:
            raise ConfigError(
                f"first: {date_of(first, zone)} is not before the end of learning, {date_of(until, zone)}; choose an "
                "earlier one"
            )

    def _days(self) -> tuple[Day, Day, Day]:
        return self.first, self.until, self.test


def day_begin(day: str | int, zone: str) -> int:
    """The second since the epoch at which a day begins."""
    if isinstance(day, int):
        return day
    found = date.fromisoformat(day)
    return int(datetime(found.year, found.month, found.day, tzinfo=ZoneInfo(zone)).timestamp())


def day_after(day: str | int) -> str | int:
    """The next day, written as this one is."""
    return day + DAY if isinstance(day, int) else (date.fromisoformat(day) + timedelta(days=1)).isoformat()


def day_end(day: str | int, zone: str) -> int:
    """The second since the epoch at which a day has ended: that of a second is the date's on which it lies."""
    if isinstance(day, int):
        day = date_of(day, zone)
    return day_begin(day_after(day), zone)


def date_of(time: int, zone: str) -> str:
    """The date of a time by the clocks of a zone."""
    return datetime.fromtimestamp(time, ZoneInfo(zone)).date().isoformat()


def with_learned_days(manifest: Manifest, folder: Path, days: LearnedDays) -> Manifest:
    """The manifest of the same folder with other parts: their times and counts, and what training knows of values.

    ConfigError where a day lies outside the log or a part that is needed holds no exposures.
    """
    if not days:
        return manifest
    spec, split = manifest.spec, days.split(manifest.split, manifest.spec.zone)
    tasks = tuple(task for task in spec.tasks if task.kind == "binary")
    t = load_timelines(folder, DataSpec(features=(), tasks=tasks, known_later=spec.known_later))
    parts = {name: _counts(t, *split.times(name)) for name in ("train", "valid", "test")}
    for name, what in (("train", "learn from"), ("test", "judge on")):
        if not parts[name].exposures and split.times(name)[0] != day_end(split.last_time, spec.zone):
            raise ConfigError(f"{folder}: there are no exposures to {what} in the chosen days; choose others")
    known = spec_until(manifest, folder, split.valid_start)
    counts = replace(manifest.counts, train=parts["train"], valid=parts["valid"], test=parts["test"])
    return replace(manifest, split=split, spec=known, counts=counts)


def spec_until(manifest: Manifest, folder: Path, time: int) -> DataSpec:
    """What a model knows that has learned until `time` (seconds): sizes of vocabularies as admitted by then."""
    stored = {name: StoredVocabulary.load(vocabulary_path(folder, name)) for name in vocabulary_sizes(manifest.spec)}
    return with_sizes(manifest.spec, {name: vocabulary.size_at(time) for name, vocabulary in stored.items()})


def vocabulary_sizes(spec: DataSpec) -> dict[str, int]:
    """By name the number of indices, 0 included, of everything that has a vocabulary file."""
    features = {f.name: f.size for f in spec.features if f.kind in ("categorical", "multi")}
    return features | {f.name: f.size for f in spec.feedback}


def with_sizes(spec: DataSpec, sizes: Mapping[str, int]) -> DataSpec:
    """The spec with vocabularies of other sizes; features and feedback that are not named keep theirs."""

    def task(old: TaskSpec) -> TaskSpec:
        """Groups of durations that are new have the quantiles of group 0, the unknown."""
        if not old.group or old.group not in sizes or not old.group_quantiles:
            return old
        size = sizes[old.group]
        grown = old.group_quantiles[:size] + old.group_quantiles[:1] * (size - len(old.group_quantiles))
        return replace(old, group_quantiles=grown)

    return replace(
        spec,
        features=tuple(replace(f, size=sizes.get(f.name, f.size)) for f in spec.features),
        feedback=tuple(replace(f, size=sizes.get(f.name, f.size)) for f in spec.feedback),
        tasks=tuple(map(task, spec.tasks)),
    )


def train_counts(rows: NDArray[np.int32], t: Timelines, until: int, size: int) -> NDArray[np.int64]:
    """(size) how often each row of the items' or users' table was shown before `until`."""
    counts: NDArray[np.int64] = np.bincount(rows[t.time < until], minlength=size)
    return counts


def _counts(t: Timelines, begin: int | None, end: int | None) -> PartCounts:
    assert t.request_time is not None  # they come from a file
    chosen = t.target & (t.request_time >= (begin if begin is not None else -LAST))
    chosen &= t.request_time < (end if end is not None else LAST)
    user = t.user_of_row()
    requests = np.unique(np.stack([user[chosen], t.request[chosen]]), axis=1).shape[1]
    positives = {name: int((label[chosen] == 1).sum()) for name, label in t.tasks.items()}
    return PartCounts(exposures=int(chosen.sum()), requests=requests, positives=positives)


def _check_day(name: str, day: Day) -> None:
    if day is None or (isinstance(day, int) and abs(day) < LAST):
        return
    try:
        date.fromisoformat(str(day))
    except ValueError:
        raise ValueError(
            f"{name}: expected a date as in 2024-05-01, or seconds since the epoch, found {shown(day)}"
        ) from None


def day_named(name: str, text: str | None) -> Day:
    """A day from text, in which seconds are digits. ConfigError, which begins with the name, for what is none."""
    day = int(text) if text is not None and text.strip().lstrip("-").isdigit() else text
    try:
        _check_day(name, day)
    except ValueError as problem:
        raise ConfigError(str(problem)) from None
    return day


def _checked(**days: Day) -> LearnedDays:
    return LearnedDays(**{name: day_named(name, None if day is None else str(day)) for name, day in days.items()})
