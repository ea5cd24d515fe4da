"""Adds days to a prepared folder, or removes them; only the files that grow are written again.

Timelines and statistics get new parts; vocabularies, items.parquet, users.parquet and embeddings get rows after the
existing ones; the manifest is replaced last. A row of a day that the folder already has is late: it goes into a
separate part. Boundaries, base rates and the split stay as fitted.
"""

from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from genrank.config import to_dict
from genrank.data.counted_features import counted_features
from genrank.data.event_totals import EventTotals
from genrank.data.integrity import hash_folder
from genrank.data.learned_days import vocabulary_sizes, with_sizes
from genrank.data.manifest import FILE_NAME, Counts, DataWarning, FolderLayout, Manifest
from genrank.data.timeline_files import first_day_of
from genrank.errors import ConfigError, DataError, LogError, SchemaError
from genrank.journal import changing
from genrank.preparation.admission import DAY, Periods
from genrank.preparation.buckets import Buckets, arrange_buckets
from genrank.preparation.engine import Engine
from genrank.preparation.entities import EntityWriter
from genrank.preparation.history_events import TARGET
from genrank.preparation.log_reading import ReadLog, read_log
from genrank.preparation.logs import Source
from genrank.preparation.point_in_time import LATEST, write_statistics
from genrank.preparation.prepare import PrepareOptions, Report, opened_engine
from genrank.preparation.prepared_before import PreparedBefore, new_parts
from genrank.preparation.storing import fit_log, move_statistics, write_timelines, write_vocabularies
from genrank.preparation.summary import data_spec, total_counts
from genrank.preparation.writing import PARTS
from genrank.schema import LogSchema, Owner

LONGEST_GAP = 366  # days without exposures; later times are taken for an error of the clock
OWNERS: tuple[Owner, Owner] = ("item", "user")


def extend(
    source: Source,
    folder: Path,
    *,
    options: PrepareOptions | None = None,
    late: int = LATEST,
    report: Report = lambda _: None,
) -> Manifest:
    """Adds the log of `source` to the prepared `folder`; the folder is as before if anything fails.

    late: seconds before the end of the folder's last day; rows of earlier times are dropped and counted. Raises an
    InputError of one line for what the user can fix.
    """
    options = options or PrepareOptions()
    source, skipped = _without_histories(source)
    if not 0 <= late <= LATEST:
        raise ConfigError(f"late is {late} seconds; it must be 0 to {LATEST}, two days")
    refuse_missing(folder)
    with changing(folder, about=FILE_NAME) as change:
        manifest = extensible(folder)
        before = PreparedBefore(folder, manifest)
        extension = _Extension(before, source, change.new, change.scratch, options, late, report)
        grown = extension.run()
        grown = replace(grown, warnings=(*grown.warnings, *(each for each in skipped if each not in grown.warnings)))
        files = hash_folder(change.new, but=FILE_NAME)
        change.removed.extend(_outdated(manifest, change.new, files))
        kept = {name: hashed for name, hashed in manifest.files.items() if name not in change.removed}
        grown = replace(grown, files=dict(sorted((kept | files).items())))
        grown.save(change.new)
    added = grown.counts.exposures - manifest.counts.exposures
    report(f"extended {folder} by {added:,} exposures, now {grown.counts.exposures:,} of {grown.counts.users:,} users")
    return grown


def expire(folder: Path, *, before: int) -> Manifest:
    """Removes the partitions of days that end before the day `before` (days since the epoch) begins.

    Vocabularies, items and users stay, and so do counts and fitted values of those days. DataError if no exposure would
    be left.
    """
    refuse_missing(folder)
    with changing(folder, about=FILE_NAME) as change:
        manifest = extensible(folder)
        width = manifest.layout.days_per_part
        parts = {name: first_day_of(Path(name).parts[1]) for name in manifest.files if _is_part(name)}
        gone = [name for name, day in parts.items() if day + width <= before]
        if len(gone) == len(parts):
            raise DataError(f"{folder}: no exposure would be left from {_date(before)} on; choose an earlier day")
        if gone:
            first_day = min(day for name, day in parts.items() if name not in gone)
            counts = list(PreparedBefore(folder, manifest).counts(first_day=first_day))
            manifest = replace(
                manifest,
                counts=total_counts(counts, users=manifest.counts.users, items=manifest.counts.items),
                split=replace(manifest.split, first_time=max(manifest.split.first_time, first_day * DAY)),
                files={name: value for name, value in manifest.files.items() if name not in gone},
            )
            change.removed.extend(gone)
        manifest.save(change.new)
    return manifest


class _Extension:
    """One extension of a folder, whose new files go to `out`."""

    def __init__(
        self,
        before: PreparedBefore,
        source: Source,
        out: Path,
        scratch: Path,
        options: PrepareOptions,
        late: int,
        report: Report,
    ):
        self.before, self.source, self.out, self.scratch = before, source, out, scratch
        self.options, self.late, self.report = options, late, report
        self.manifest, self.end = before.manifest, (before.manifest.layout.last_day + 1) * DAY

    def run(self) -> Manifest:
        """The steps in their order; returns the manifest with the old files."""
        old = self.manifest
        for name in ("vocab", "embeddings"):
            (self.out / name).mkdir()
        with closing(opened_engine(self.options, self.scratch)) as engine:
            log = self._within_reach(engine, read_log(engine, self.source, self.report))
            staging = log.stage(engine, self.before.known_values())
            buckets = arrange_buckets(
                engine,
                staging,
                old.schema,
                self.scratch,
                num_buckets=old.layout.num_buckets,
                report=self.report,
                earlier=self.before,
            )
            last_day = max(old.layout.last_day, buckets.last_time // DAY)
            periods = Periods.of(old.split, self.end, max(buckets.last_time, self.end))
            fitted = fit_log(buckets, staging, old.schema, periods, old.split, self.before.fitted())
            writer = EntityWriter(
                engine=engine,
                schema=old.schema,
                relations=log.relations,
                log=log.raw,
                folder=self.source.folder,
                periods=periods,
                split=old.split,
                before=self.before,
            )
            entities = [
                writer.write("item", staging.items, fitted.items, self.out),
                writer.write("user", staging.users, fitted.users, self.out),
            ]
            threads = engine.threads
        write_vocabularies(fitted, self.out)
        layout, numbers = replace(old.layout, last_day=last_day), new_parts(self.before.folder, old.layout)
        self.report("writing timelines")
        write_timelines(buckets, old.schema, fitted, layout, self.out, threads=threads, numbers=numbers)
        spec = with_sizes(old.spec, vocabulary_sizes(data_spec(old.schema, fitted, entities, old.split.valid_start)))
        if old.schema.statistics.enabled:
            self._write_statistics(buckets, layout, numbers, threads)
        users, items = staging.users.num_rows - 1, staging.items.num_rows - 1
        dropped = log.findings.dropped | ({"duplicate": buckets.num_duplicates} if buckets.num_duplicates else {})
        found = (*log.relations.warnings, *log.findings.warnings, *staging.warnings)
        return replace(
            old,
            spec=spec,
            layout=layout,
            split=replace(
                old.split,
                first_time=min(old.split.first_time, buckets.first_time),
                last_time=max(old.split.last_time, buckets.last_time),
            ),
            counts=_sum(old.counts, total_counts(buckets.counts, users=users, items=items)),
            dropped={name: old.dropped.get(name, 0) + dropped.get(name, 0) for name in {**old.dropped, **dropped}},
            late_actions=old.late_actions + buckets.num_late,
            warnings=(*old.warnings, *(warning for warning in _unique(found) if warning not in old.warnings)),
            source=self._source(log, buckets),
        )

    def _within_reach(self, engine: Engine, log: ReadLog) -> ReadLog:
        """The log without rows that are too late. Raises SchemaError or LogError if it can't extend the folder."""
        _check_schema(self.manifest.schema, log.schema)
        self._check_days(log)
        early = log.typed["time"] < self.end - self.late
        number = int(engine.row(log.kept.aggregate(number=early.sum()))["number"] or 0)
        dropped = log.findings.dropped | ({"late": number} if number else {})
        known = {f"task_{task.name}" for task in self.manifest.schema.tasks}
        typed = {name: column for name, column in log.typed.items() if name in known or not _is_task(name, log.schema)}
        return replace(
            log,
            kept=log.kept.filter(~early),
            typed=typed,
            schema=self.manifest.schema,
            findings=replace(log.findings, dropped=dropped),
        )

    def _check_days(self, log: ReadLog) -> None:
        last_day, folder = self.manifest.layout.last_day, self.before.folder
        total = sum(number for _, number in log.days)
        there = sum(number for day, number in log.days if day <= last_day)
        if 2 * there > total or not total:
            raise LogError(
                f"{folder}: {there:,} of the log's {total:,} exposures are of days that the folder already has, up to "
                f"{_date(last_day)}; give a log of later days"
            )
        previous = last_day
        for day, _ in log.days:
            if day > previous + LONGEST_GAP:
                ahead = sum(number for other, number in log.days if other >= day)
                raise LogError(
                    f"{self.manifest.schema.columns.time!r}: {ahead:,} exposures are of {_date(day)} or later, with no "
                    f"exposure since {_date(previous)}; correct the clock that wrote them, or leave them out"
                )
            previous = max(previous, day)

    def _write_statistics(
        self, buckets: Buckets, layout: FolderLayout, numbers: dict[tuple[int, int], int], threads: int
    ) -> None:
        old = self.manifest
        write_statistics(
            buckets,
            old.schema,
            counted_features(self.out, old.schema),
            old.split,
            self.scratch,
            report=self.report,
            threads=min(threads, 4),
            past=EventTotals.open(self.before.folder / "totals"),
            keep=self.out / "totals",
        )
        move_statistics(buckets, layout, self.scratch, self.out, numbers)

    def _source(self, log: ReadLog, buckets: Buckets) -> dict[str, Any]:
        """The manifest's source, with one more extension."""
        added = self.source.description | {
            "rows": log.findings.rows,
            "first_day": _date(buckets.first_time // DAY),
            "last_day": _date(buckets.last_time // DAY),
        }
        return self.manifest.source | {"extensions": [*self.manifest.source.get("extensions", []), added]}


def _without_histories(source: Source) -> tuple[Source, list[DataWarning]]:
    """The log without histories given as lists: the folder has those of its users already, as they were before."""
    history = source.schema.history
    if history.lists is None:
        return source, []
    message = "history.lists: not read when days are added; users that only these days have begin without a history"
    schema = replace(source.schema, history=replace(history, lists=None))
    return replace(source, schema=schema), [DataWarning(kind="times", message=message)]


def refuse_missing(folder: Path) -> None:
    """DataError if there is no prepared folder."""
    if not (folder / FILE_NAME).is_file():
        Manifest.load(folder)


def extensible(folder: Path) -> Manifest:
    """The manifest of a whole folder of this format; DataError where it is older. Only for who has its lock."""
    manifest = Manifest.load(folder)
    manifest.verify(folder)
    if manifest.layout.last_day < 0:
        raise DataError(f"{folder}: format {manifest.format} can be read, but not extended; run genrank prepare again")
    return manifest


def _check_schema(old: LogSchema, new: LogSchema) -> None:
    """SchemaError if the log's schema differs from the folder's, except for the split and tasks that were left out."""
    ours, theirs = to_dict(old), to_dict(new)
    names = {task["name"] for task in ours["tasks"]}
    theirs["tasks"] = [task for task in theirs["tasks"] if task["name"] in names]
    for values in (ours, theirs):
        del values["split"], values["statistics"]["tasks"], values["history"]["lists"]
        if values["columns"]["target"] == TARGET:  # made for histories
            values["columns"]["target"] = None
    found = _first_difference(ours, theirs)
    if found is not None:
        raise SchemaError(
            f"schema: {found} is not as in the prepared folder; extend with the same schema, or prepare all days again"
        )


def _first_difference(one: Any, other: Any, path: str = "") -> str | None:
    if isinstance(one, dict) and isinstance(other, dict):
        for name in {**one, **other}:
            found = _first_difference(one.get(name), other.get(name), f"{path}.{name}" if path else name)
            if found is not None:
                return found
        return None
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for place, (mine, theirs) in enumerate(zip(one, other, strict=True)):
            name = mine.get("name", place) if isinstance(mine, dict) else place
            found = _first_difference(mine, theirs, f"{path}.{name}")
            if found is not None:
                return found
        return None
    return None if one == other else path


def _is_task(column: str, schema: LogSchema) -> bool:
    return column in {f"{prefix}_{task.name}" for prefix in ("task", "censored") for task in schema.tasks}


def _outdated(manifest: Manifest, new: Path, files: dict[str, str]) -> list[str]:
    """The files of totals whose blocks of days are part of larger ones among the new `files`."""
    if not manifest.schema.statistics.enabled:
        return []
    totals = EventTotals.open(new / "totals")
    blocks = [Path(name) for name in manifest.files if name.startswith("totals/") and name not in files]
    return [path.as_posix() for path in blocks if not totals.keeps(path.parent.name)]


def _is_part(name: str) -> bool:
    return name.startswith(("timelines/day=", "statistics/day="))


def _sum(old: Counts, new: Counts) -> Counts:
    """The counts of both; users and items are those of `new`, which has all."""
    parts = {name: getattr(old, name) + getattr(new, name) for name in PARTS}
    requests, exposures = old.requests + new.requests, old.exposures + new.exposures
    return Counts(users=new.users, items=new.items, requests=requests, exposures=exposures, **parts)


def _unique(warnings: tuple[DataWarning, ...]) -> list[DataWarning]:
    return list(dict.fromkeys(warnings))


def _date(day: int) -> str:
    return datetime.fromtimestamp(day * DAY, UTC).strftime("%Y-%m-%d")
