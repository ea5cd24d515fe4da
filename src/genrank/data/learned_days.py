"""The days of a prepared folder for training, validation and test, chosen at training without preparing again.

    history only   │ training     │ validation    │ test          │ not used
                 first          until           test      the day after test

Without `test`, the day on which training ends is the test day; without `until`, training ends where the test day
begins. So there is a validation part only if there are days between the two. Vocabularies have the sizes that they had
when training ends; boundaries, base rates and quantiles are still those fitted by `prepare`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from genrank.data.manifest import Manifest, PartCounts, SplitTimes
from genrank.data.timelines import Timelines
from genrank.errors import ConfigError, shown
from genrank.schema import DataSpec, TaskSpec, fingerprint

Day = str | int | None  # a date such as 2024-05-01, in the schema's zone, or a time in seconds since the epoch
DAY = 86_400  # seconds
EARLIEST, LATEST = -(2**31), 2**35  # seconds since the epoch: the years 1901 and 3058


@dataclass(frozen=True, kw_only=True)
class LearnedDays:
    """The days to train on and to evaluate on; all None: the parts as prepared. ValueError if one is no day."""

    first: Day = None  # exposures before it are history only
    until: Day = None  # the end of training: this day is not trained on
    test: Day = None  # the one day of the test part

    def __post_init__(self) -> None:
        for name in ("first", "until", "test"):
            _check_day(name, getattr(self, name))

    @classmethod
    def of(cls, *, days: str = "", until: Day = None, test: Day = None) -> "LearnedDays":
        """From a command's options: `days` is A..B, both inclusive, and excludes `until`. ConfigError."""
        if not days:
            return _checked(first=None, until=until, test=test)
        if until is not None:
            raise ConfigError("days and until both set the end of training; give one of them")
        first, separator, last = days.partition("..")
        if not separator:
            raise ConfigError(f"days: expected A..B, as in 2024-05-01..2024-05-07, found {shown(days)}")
        end = _checked(first=first, until=last, test=test).until
        return _checked(first=first, until=None if end is None else day_after(end), test=test)

    def __bool__(self) -> bool:
        return (self.first, self.until, self.test) != (None, None, None)

    def split(self, prepared: SplitTimes, zone: str) -> SplitTimes:
        """Where the parts begin and end. ConfigError for days outside the log or in the wrong order."""
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
            learns_all = name != "first" and until == test == end_of_log  # nothing is left for the test
            if time is not None and (
                day_end(time, zone) <= log.first_time or (time > log.last_time and not learns_all)
            ):
                raise ConfigError(f"{name}: {date_of(time, zone)} lies outside the log, {spans}; choose a day of it")
        if until <= log.first_time:
            raise ConfigError(
                f"until: no exposure of the log, {spans}, is before {date_of(until, zone)}, so there is nothing "
                "to train on; choose a later day"
            )
        if until > test:
            raise ConfigError(
                f"until: {date_of(until, zone)} is after test, {date_of(test, zone)}, so training would include the "
                "test day; choose a later test or an earlier until"
            )
        if first is not None and first >= until:
            raise ConfigError(
                f"first: {date_of(first, zone)} is not before the end of training, {date_of(until, zone)}; choose an "
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
    """The next day, in the same form as this one."""
    return day + DAY if isinstance(day, int) else (date.fromisoformat(day) + timedelta(days=1)).isoformat()


def day_end(day: str | int, zone: str) -> int:
    """The second since the epoch at which a day ends. A day given in seconds ends with its date."""
    if isinstance(day, int):
        day = date_of(day, zone)
    return day_begin(day_after(day), zone)


def date_of(time: int, zone: str) -> str:
    """The date of a time in a zone."""
    return datetime.fromtimestamp(time, ZoneInfo(zone)).date().isoformat()


def with_learned_days(manifest: Manifest, folder: Path, days: LearnedDays) -> Manifest:
    """The manifest of the same folder with other parts: their times and counts, and the vocabulary sizes of training.

    ConfigError if a day is outside the log, or if a required part has no exposures.
    """
    if not days:
        return manifest
    spec, split = manifest.spec, days.split(manifest.split, manifest.spec.zone)
    tasks = tuple(task for task in spec.tasks if task.kind == "binary")
    counted = DataSpec(features=(), tasks=tasks, known_later=spec.known_later)
    parts = _count_parts((folder.resolve(), fingerprint(manifest.files)), counted, split)
    for name, what in (("train", "learn from"), ("test", "judge on")):
        if not parts[name].exposures and split.times(name)[0] != day_end(split.last_time, spec.zone):
            raise ConfigError(f"{folder}: there are no exposures to {what} in the chosen days; choose others")
    known = spec_until(manifest, folder, split.valid_start)
    counts = replace(manifest.counts, train=parts["train"], valid=parts["valid"], test=parts["test"])
    return replace(manifest, split=split, spec=known, counts=counts)


def spec_until(manifest: Manifest, folder: Path, time: int) -> DataSpec:
    """The spec of a model trained until `time` (seconds), with the vocabulary sizes of that time."""
    from genrank.data.vocabulary_files import StoredVocabulary, vocabulary_path  # needs pyarrow

    stored = {name: StoredVocabulary.load(vocabulary_path(folder, name)) for name in vocabulary_sizes(manifest.spec)}
    return with_sizes(manifest.spec, {name: vocabulary.size_at(time) for name, vocabulary in stored.items()})


def vocabulary_sizes(spec: DataSpec) -> dict[str, int]:
    """By name the number of indices, 0 included, of every vocabulary file."""
    features = {f.name: f.size for f in spec.features if f.kind in ("categorical", "multi")}
    return features | {f.name: f.size for f in spec.feedback}


def with_sizes(spec: DataSpec, sizes: Mapping[str, int]) -> DataSpec:
    """The spec with other vocabulary sizes; features and feedback not named in `sizes` keep theirs."""

    def task(old: TaskSpec) -> TaskSpec:
        """New groups of durations have the quantiles of group 0 (unknown)."""
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
    """(size) the number of exposures of each row of the items' or users' table before `until`."""
    counts: NDArray[np.int64] = np.bincount(rows[t.time < until], minlength=size)
    return counts


@lru_cache(maxsize=32)
def _count_parts(hashed: tuple[Path, str], counted: DataSpec, split: SplitTimes) -> dict[str, PartCounts]:
    """The size of each part, counted bucket by bucket; once for a folder and the hash of its files."""
    from genrank.data import timeline_files  # needs pyarrow, which a run's settings do without

    folder, parts = hashed[0], dict[str, PartCounts]()
    for number in range(timeline_files.num_buckets(folder)):
        t = timeline_files.load_buckets(folder, [number], counted)
        found = {name: _counts(t, *split.times(name)) for name in ("train", "valid", "test")}
        parts = {name: parts[name] + counts if parts else counts for name, counts in found.items()}
    return parts


def _counts(t: Timelines, begin: int | None, end: int | None) -> PartCounts:
    assert t.request_time is not None  # timelines from files have it
    chosen = t.target.copy()
    if begin is not None:
        chosen &= t.request_time >= begin
    if end is not None:
        chosen &= t.request_time < end
    requests = np.unique(np.stack([t.user_of_row()[chosen], t.request[chosen]]), axis=1).shape[1]
    positives = {name: int((label[chosen] == 1).sum()) for name, label in t.tasks.items()}
    return PartCounts(exposures=int(chosen.sum()), requests=requests, positives=positives)


def _check_day(name: str, day: Day) -> None:
    if day is None:
        return
    try:
        within = EARLIEST <= day < LATEST if isinstance(day, int) else 1902 <= date.fromisoformat(day).year < 3058
    except ValueError:
        within = False
    if not within:
        raise ValueError(f"{name}: expected a date such as 2024-05-01, or seconds since the epoch, found {shown(day)}")


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
